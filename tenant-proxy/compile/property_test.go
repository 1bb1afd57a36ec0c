package compile

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	"github.com/bulkhead-dev/bulkhead/internal/ruleset"
)

func pick[T any](random *rand.Rand, of ...T) T { return of[random.IntN(len(of))] }

func randomService(random *rand.Rand, name string) *corev1.Service {
	service := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: "web", Name: name, UID: types.UID(fmt.Sprintf("uid-%s-%d", name, random.IntN(2))),
			CreationTimestamp: metav1.NewTime(time.Unix(int64(random.IntN(3)), 0)),
		},
		Spec: corev1.ServiceSpec{ClusterIP: fmt.Sprintf("10.96.0.%d", 1+random.IntN(6))},
	}
	for i := range 1 + random.IntN(2) {
		service.Spec.Ports = append(service.Spec.Ports, corev1.ServicePort{
			Name: fmt.Sprint("p", i), Port: int32(80 + random.IntN(2)), NodePort: int32(pick(random, 0, 30080, 30081)),
		})
	}
	for range random.IntN(3) {
		service.Spec.ExternalIPs = append(service.Spec.ExternalIPs, pick(random, "203.0.113.1", "203.0.113.2", "10.96.0.1", "192.0.2.1", "127.0.0.1"))
	}
	if random.IntN(3) == 0 {
		service.Spec.InternalTrafficPolicy = ptr.To(corev1.ServiceInternalTrafficPolicyLocal)
	}
	if random.IntN(4) == 0 {
		service.Spec.SessionAffinity = corev1.ServiceAffinityClientIP
	}
	return service
}

func randomSlice(random *rand.Rand, service, name string) *discoveryv1.EndpointSlice {
	slice := &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Namespace: "web", Name: name, Labels: map[string]string{discoveryv1.LabelServiceName: service}},
		AddressType: discoveryv1.AddressTypeIPv4,
		Ports:       []discoveryv1.EndpointPort{{Name: ptr.To("p0"), Port: ptr.To[int32](8080)}, {Name: ptr.To("p1"), Port: ptr.To[int32](8081)}},
	}
	for range random.IntN(4) {
		endpoint := discoveryv1.Endpoint{
			Addresses:  []string{fmt.Sprintf("10.244.0.%d", 1+random.IntN(5))},
			Conditions: discoveryv1.EndpointConditions{Ready: ptr.To(random.IntN(2) == 0), Serving: ptr.To(random.IntN(2) == 0), Terminating: ptr.To(random.IntN(2) == 0)},
			NodeName:   ptr.To(pick(random, "node-1", "node-2")),
		}
		if random.IntN(2) == 0 {
			endpoint.Hints = &discoveryv1.EndpointHints{ForZones: []discoveryv1.ForZone{{Name: pick(random, "zone-1", "zone-2")}}}
		}
		slice.Endpoints = append(slice.Endpoints, endpoint)
	}
	return slice
}

// However a table came to hold what it holds, the rules are those of a table that
// got it all at once, in any order.
func TestHistoryDoesNotMatter(t *testing.T) {
	for seed := range uint64(60) {
		random := rand.New(rand.NewPCG(seed, 1))
		table := NewTable(testNode, testRanges)
		services, endpointSlices, nodes := map[string]*corev1.Service{}, map[[2]string]*discoveryv1.EndpointSlice{}, map[string]*corev1.Node{}
		zone, ranges := testNode.Zone, testRanges
		for range 80 {
			name := fmt.Sprint("s", random.IntN(5))
			at := types.NamespacedName{Namespace: "web", Name: name}
			slice := [2]string{name, fmt.Sprintf("%s-%d", name, random.IntN(2))}
			switch random.IntN(9) {
			case 0, 1, 2:
				services[name] = randomService(random, name)
				table.PutService(NewService(services[name]))
			case 3:
				delete(services, name)
				table.RemoveService(at)
			case 4, 5:
				endpointSlices[slice] = randomSlice(random, name, slice[1])
				table.PutSlice(at, NewSlice(testNode.Name, endpointSlices[slice]))
			case 6:
				delete(endpointSlices, slice)
				table.RemoveSlice(at, slice[1])
			case 7:
				node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint("node-", random.IntN(3))}}
				if random.IntN(3) > 0 {
					node.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: fmt.Sprintf("192.0.2.%d", 1+random.IntN(3))}}
				}
				nodes[node.Name] = node
				table.PutNode(node.Name, NodeAddresses(node))
			case 8:
				if random.IntN(2) == 0 {
					zone = pick(random, "", "zone-1", "zone-2")
					table.SetZone(zone)
				} else {
					ranges = testRanges[:1+random.IntN(2)]
					table.SetRanges(ranges)
				}
			}
			if random.IntN(3) == 0 {
				table.Compile()
			}
		}
		again := NewTable(Node{Name: testNode.Name, Zone: zone}, ranges)
		whole := &cluster{}
		for _, service := range services {
			whole.services = append(whole.services, service)
		}
		for _, slice := range endpointSlices {
			whole.slices = append(whole.slices, slice)
		}
		for _, node := range nodes {
			whole.nodes = append(whole.nodes, node)
		}
		whole.into(again)
		got := describe(table)
		if diff := cmp.Diff(describe(again), got); diff != "" {
			t.Fatalf("seed %d (-at once +step by step):\n%s", seed, diff)
		}
		if table.Troubled() != again.Troubled() {
			t.Errorf("seed %d: %d troubled services, want %d", seed, table.Troubled(), again.Troubled())
		}
		valid(t, table)
	}
}

// What did not change is not told to be a change.
func TestOnlyChangesAreChanges(t *testing.T) {
	random := rand.New(rand.NewPCG(7, 7))
	table := NewTable(testNode, testRanges)
	service, slice := randomService(random, "s"), randomSlice(random, "s", "s-1")
	at := types.NamespacedName{Namespace: "web", Name: "s"}
	if table.PutSlice(at, NewSlice("node-1", slice)) {
		t.Error("a slice without a Service changes rules")
	}
	if !table.PutService(NewService(service)) {
		t.Error("a new Service changes nothing")
	}
	table.Compile()
	service.Annotations, slice.Annotations = map[string]string{"a": "b"}, map[string]string{"a": "b"}
	service.ResourceVersion = "7"
	if table.PutService(NewService(service)) || table.PutSlice(at, NewSlice("node-1", slice)) || table.SetZone(testNode.Zone) {
		t.Error("what rules do not depend on changes them")
	}
	if _, changed := table.Compile(); len(changed) > 0 {
		t.Errorf("problems changed of %v", changed)
	}
}

// What is handed out stays as it is when the table goes on.
func TestRulesThatWereHandedOutDoNotChange(t *testing.T) {
	table := NewTable(testNode, testRanges)
	random := rand.New(rand.NewPCG(3, 3))
	var handed [][]ruleset.Service
	var texts []string
	for i := range 50 {
		name := fmt.Sprint("s", i%4)
		table.PutService(NewService(randomService(random, name)))
		table.PutSlice(types.NamespacedName{Namespace: "web", Name: name}, NewSlice("node-1", randomSlice(random, name, name)))
		for range 2 { // also what is asked for twice
			rules, _ := table.Compile()
			handed, texts = append(handed, rules), append(texts, fmt.Sprint(rules))
			if _, err := ruleset.New("tenant", 1, nil, rules); err != nil {
				t.Fatal(err)
			}
		}
	}
	for i := range handed {
		if fmt.Sprint(handed[i]) != texts[i] {
			t.Fatalf("rules %d were changed after they were handed out", i)
		}
	}
}

func address(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, 200, byte(i >> 8), byte(i)}) }

// manyEndpoints is a Service of many ports and endpoints.
func manyEndpoints(name string, created int64, clusterIP string, ports, endpoints int) (*Service, *Slice) {
	service := &Service{
		Owner:      Owner{NamespacedName: types.NamespacedName{Namespace: "web", Name: name}, UID: types.UID(name), Created: created},
		ClusterIPs: []netip.Addr{netip.MustParseAddr(clusterIP)},
	}
	slice := &Slice{Name: name}
	for i := range ports {
		service.Ports = append(service.Ports, Port{Name: fmt.Sprint(i), Protocol: ruleset.TCP, Port: uint16(1 + i)})
		slice.Ports = append(slice.Ports, SlicePort{Name: fmt.Sprint(i), Protocol: ruleset.TCP, Port: uint16(10000 + i)})
	}
	for i := range endpoints {
		slice.Endpoints = append(slice.Endpoints, Endpoint{Address: address(i), Ready: true, Serving: true})
	}
	return service, slice
}

// A Service of 1,000 ports and 5,000 endpoints is served at all of its ports, by some
// of its endpoints, which are others on another node; and whoever made it is told.
func TestHugeService(t *testing.T) {
	service, slice := manyEndpoints("huge", 0, "10.96.1.1", 1000, 5000)
	compiled := func(node string) ([]Frontend, []Problem) {
		return Compile(Node{Name: node}, testRanges, nil, service, []*Slice{slice})
	}
	here, problems := compiled("node-1")
	if len(problems) != 1 || problems[0].Reason != TooManyEndpoints {
		t.Errorf("problems %v", problems)
	}
	total := 0
	for _, frontend := range here {
		if len(frontend.Endpoints) == 0 {
			t.Fatalf("%s leads nowhere", frontend.Key)
		}
		total += len(frontend.Endpoints)
	}
	if len(here) != 1000 || total > MaxBackends || total < MaxBackends/2 {
		t.Errorf("%d frontends with %d endpoints", len(here), total)
	}
	if again, _ := compiled("node-1"); !cmp.Equal(fmt.Sprint(here), fmt.Sprint(again)) {
		t.Error("the same node chooses otherwise the second time")
	}
	served := map[netip.AddrPort]bool{}
	for node := range 400 {
		there, _ := compiled(fmt.Sprint("node-", node))
		for _, endpoint := range there[0].Endpoints {
			served[endpoint] = true
		}
	}
	if len(served) < 4900 {
		t.Errorf("400 nodes together serve %d of 5000 endpoints", len(served))
	}
	// One endpoint less changes little of the choice.
	slice.Endpoints = slices.Delete(slice.Endpoints, 17, 18)
	fewer, _ := compiled("node-1")
	kept := 0
	for _, endpoint := range fewer[0].Endpoints {
		if slices.Contains(here[0].Endpoints, endpoint) {
			kept++
		}
	}
	if kept < len(here[0].Endpoints)-1 {
		t.Errorf("of %d endpoints %d are kept when another goes", len(here[0].Endpoints), kept)
	}
}

func TestOnePortWithTooManyEndpoints(t *testing.T) {
	service, slice := manyEndpoints("wide", 0, "10.96.1.1", 1, 5000)
	got, problems := Compile(testNode, testRanges, nil, service, []*Slice{slice})
	if len(got) != 1 || len(got[0].Endpoints) != ruleset.MaxEndpoints || len(problems) != 1 {
		t.Errorf("%d frontends, %d endpoints, %v", len(got), len(got[0].Endpoints), problems)
	}
}

func TestTooManyAddresses(t *testing.T) {
	service, _ := manyEndpoints("spread", 0, "10.96.1.1", 1000, 0)
	for i := range 20 {
		service.ExternalIPs = append(service.ExternalIPs, address(i))
	}
	got, problems := Compile(testNode, testRanges, nil, service, nil)
	if len(got) != MaxFrontends || len(problems) != 1 || problems[0].Reason != TooManyAddresses {
		t.Errorf("%d frontends, %v", len(got), problems)
	}
	for _, frontend := range got[:1000] {
		if frontend.Kind != ClusterIP {
			t.Fatalf("%s comes before a cluster IP", frontend.Key)
		}
	}
}

// More in all than a set may hold: older Services go first, the younger are told, and
// all is well again when there are fewer.
func TestTooMuchForOneSet(t *testing.T) {
	table := NewTable(testNode, testRanges)
	put := func(i int) types.NamespacedName {
		// The oldest has the last name and address.
		service, slice := manyEndpoints(fmt.Sprintf("s%02d", 99-i), int64(i), fmt.Sprintf("10.96.1.%d", 200-i), 60, 900)
		table.PutSlice(service.NamespacedName, slice)
		table.PutService(service)
		return service.NamespacedName
	}
	var names []types.NamespacedName
	for i := range 6 { // 54,000 endpoints each
		names = append(names, put(i))
	}
	rules, changed := table.Compile()
	total := 0
	complete := map[netip.Addr]int{}
	for _, rule := range rules {
		total += len(rule.Endpoints)
		complete[rule.Addr]++
	}
	if total > ruleset.MaxBackends || total < ruleset.MaxBackends-900 {
		t.Errorf("%d endpoints", total)
	}
	valid(t, table)
	for i, name := range names {
		_, problems := table.Problems(name)
		want := i >= 4 // 4 x 54,000 and most of the fifth fit
		if (len(problems) > 0) != want {
			t.Errorf("service %d of 6: problems %v", i, problems)
		}
	}
	if len(changed) != 2 || complete[netip.MustParseAddr("10.96.1.200")] != 60 {
		t.Errorf("changed %v, %v", changed, complete)
	}
	table.RemoveService(names[5])
	table.RemoveService(names[0])
	if _, changed = table.Compile(); len(changed) != 1 || changed[0] != names[4] || table.Troubled() != 0 {
		t.Errorf("when there is room: changed %v, %d troubled", changed, table.Troubled())
	}
	valid(t, table)
}

func TestNodePortAddressesAreBounded(t *testing.T) {
	nodes := map[string][]netip.Addr{}
	for i := range 200 {
		nodes[fmt.Sprintf("node-%03d", i)] = []netip.Addr{address(i)}
	}
	got, dropped := NodePortAddresses("node-150", nodes)
	if len(got) != MaxNodeAddresses || dropped != 200-MaxNodeAddresses || got[0] != address(150) || got[1] != address(0) {
		t.Errorf("%d addresses, %d dropped, first %v", len(got), dropped, got[:2])
	}
}

// Whatever stands in a tenant's objects: the rules are valid, and the same again.
func FuzzCompile(f *testing.F) {
	random := rand.New(rand.NewPCG(1, 1))
	for range 5 {
		service, err := json.Marshal(randomService(random, "s"))
		if err != nil {
			f.Fatal(err)
		}
		slice, err := json.Marshal(randomSlice(random, "s", "s-1"))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(service, slice, []byte(`{"metadata":{"name":"node-1"},"status":{"addresses":[{"type":"InternalIP","address":"192.0.2.1"}]}}`))
	}
	f.Add([]byte(`{"spec":{"clusterIP":"::ffff:10.96.0.1","externalIPs":["fe80::1%eth0","::"],"ports":[{"port":65535,"nodePort":-1}]}}`), []byte(`{"addressType":"IPv6","endpoints":[{"addresses":["::ffff:1.2.3.4"]}],"ports":[{}]}`), []byte(`{}`))
	f.Fuzz(func(t *testing.T, serviceData, sliceData, nodeData []byte) {
		service, slice, node := &corev1.Service{}, &discoveryv1.EndpointSlice{}, &corev1.Node{}
		for _, part := range []struct {
			data []byte
			into any
		}{{serviceData, service}, {sliceData, slice}, {nodeData, node}} {
			if json.Unmarshal(part.data, part.into) != nil {
				t.Skip()
			}
		}
		service.Namespace, service.Name = "web", "s"
		slice.Namespace, slice.Labels = "web", map[string]string{discoveryv1.LabelServiceName: "s"}
		other := service.DeepCopy()
		other.Name, other.UID = "other", "other"
		whole := &cluster{services: []*corev1.Service{service, other}, slices: []*discoveryv1.EndpointSlice{slice}, nodes: []*corev1.Node{node}}
		table, again := NewTable(testNode, testRanges), NewTable(testNode, testRanges)
		whole.into(table)
		valid(t, table)
		slices.Reverse(whole.services)
		whole.into(again)
		if a, b := describe(table), describe(again); a != b {
			t.Errorf("the order of objects matters:\n%s\n%s", a, b)
		}
	})
}

// One change among 10,000 Services, and all of them at once.
func BenchmarkCompile(b *testing.B) {
	table := NewTable(testNode, testRanges)
	put := func(i, port int) {
		service := &Service{
			Owner:      Owner{NamespacedName: types.NamespacedName{Namespace: "web", Name: fmt.Sprint("s", i)}, UID: types.UID(fmt.Sprint(i))},
			ClusterIPs: []netip.Addr{netip.AddrFrom4([4]byte{10, 96, byte(i >> 8), byte(i)})},
			Ports:      []Port{{Name: "http", Protocol: ruleset.TCP, Port: 80}},
		}
		table.PutService(service)
		table.PutSlice(service.NamespacedName, &Slice{
			Name: "1", Ports: []SlicePort{{Name: "http", Protocol: ruleset.TCP, Port: uint16(port)}},
			Endpoints: []Endpoint{{Address: address(i), Ready: true}, {Address: address(i + 1), Ready: true}},
		})
	}
	b.Run("first", func(b *testing.B) {
		for b.Loop() {
			table = NewTable(testNode, testRanges)
			for i := range 10000 {
				put(i, 8080)
			}
			table.Compile()
		}
	})
	b.Run("one", func(b *testing.B) {
		b.ReportAllocs()
		for i := 0; b.Loop(); i++ {
			put(i%10000, 8000+i%1000)
			table.Compile()
		}
	})
}
