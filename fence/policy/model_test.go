package policy

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/bulkhead-dev/bulkhead/fence/table"
)

// dice makes random objects out of few parts, so that they meet.
type dice struct{ *rand.Rand }

func (d dice) chance(percent int) bool { return d.IntN(100) < percent }

func pick[T any](d dice, from ...T) T { return from[d.IntN(len(from))] }

func (d dice) labels() map[string]string {
	out := map[string]string{}
	for _, key := range []string{"app", "tier"} {
		if d.chance(70) {
			out[key] = pick(d, "a", "b")
		}
	}
	return out
}

func (d dice) selector() metav1.LabelSelector {
	var out metav1.LabelSelector
	if d.chance(50) {
		out.MatchLabels = map[string]string{pick(d, "app", "tier"): pick(d, "a", "b")}
	}
	if d.chance(30) {
		out.MatchExpressions = []metav1.LabelSelectorRequirement{{Key: pick(d, "app", "tier"), Operator: pick(d, metav1.LabelSelectorOpExists, metav1.LabelSelectorOpDoesNotExist)}}
	}
	if d.chance(20) {
		out.MatchExpressions = append(out.MatchExpressions, metav1.LabelSelectorRequirement{Key: "app", Operator: pick(d, metav1.LabelSelectorOpIn, metav1.LabelSelectorOpNotIn), Values: []string{"a"}})
	}
	return out
}

var (
	namespaceNames = []string{"one", "two", "three"}
	podNames       = []string{"p", "q", "r"}
	policyNames    = []string{"x", "y"}
	blocks         = []string{"10.0.0.0/28", "10.0.0.0/30", "10.0.0.4/31", "0.0.0.0/0", "fd00::/124", "::/0", "fd00::4/127"}
)

// few addresses, so that some are given to another pod while the first still has them.
func (d dice) addresses() []netip.Addr {
	last := byte(d.IntN(12))
	four := netip.AddrFrom4([4]byte{10, 0, 0, last})
	six := netip.AddrFrom16([16]byte{0xfd, 15: last})
	return pick(d, []netip.Addr{four}, []netip.Addr{six}, []netip.Addr{four, six})
}

func (d dice) pod(clock int) Pod {
	p := Pod{
		NamespacedName: types.NamespacedName{Namespace: pick(d, namespaceNames...), Name: pick(d, podNames...)},
		UID:            types.UID(fmt.Sprint(clock)), Created: time.Unix(int64(clock), 0), Labels: d.labels(), Addresses: d.addresses(), Local: d.chance(50),
	}
	if d.chance(60) {
		p.Ports = []NamedPort{{Name: pick(d, "web", "dns"), Protocol: pick[uint8](d, 6, 17), Port: pick[uint16](d, 80, 81)}}
	}
	return p
}

func (d dice) ports() []networkingv1.NetworkPolicyPort {
	var out []networkingv1.NetworkPolicyPort
	for range d.IntN(3) {
		port := networkingv1.NetworkPolicyPort{}
		if d.chance(70) {
			protocol := pick(d, corev1.ProtocolTCP, corev1.ProtocolUDP, corev1.ProtocolSCTP)
			port.Protocol = &protocol
		}
		switch value := pick(d, intstr.FromInt32(80), intstr.FromInt32(81), intstr.FromString("web"), intstr.FromString("dns")); {
		case d.chance(20):
		case value.Type == intstr.Int && d.chance(40):
			end := value.IntVal + int32(d.IntN(3))
			port.Port, port.EndPort = &value, &end
		default:
			port.Port = &value
		}
		out = append(out, port)
	}
	return out
}

func (d dice) peers() []networkingv1.NetworkPolicyPeer {
	var out []networkingv1.NetworkPolicyPeer
	for range d.IntN(3) {
		peer := networkingv1.NetworkPolicyPeer{}
		if d.chance(40) {
			peer.IPBlock = &networkingv1.IPBlock{CIDR: pick(d, blocks...)}
			for range d.IntN(3) {
				except := pick(d, blocks...)
				if strings.Contains(except, ":") == strings.Contains(peer.IPBlock.CIDR, ":") {
					peer.IPBlock.Except = append(peer.IPBlock.Except, except)
				}
			}
			out = append(out, peer)
			continue
		}
		if d.chance(60) {
			selector := d.selector()
			peer.PodSelector = &selector
		}
		if peer.PodSelector == nil || d.chance(50) {
			selector := d.selector()
			peer.NamespaceSelector = &selector
		}
		out = append(out, peer)
	}
	return out
}

func (d dice) policy() *networkingv1.NetworkPolicy {
	p := &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: pick(d, namespaceNames...), Name: pick(d, policyNames...)}}
	p.Spec.PodSelector = d.selector()
	both := []networkingv1.PolicyType{networkingv1.PolicyTypeIngress, networkingv1.PolicyTypeEgress}
	p.Spec.PolicyTypes = pick(d, both, both[:1], both[1:])
	for range d.IntN(3) {
		p.Spec.Ingress = append(p.Spec.Ingress, networkingv1.NetworkPolicyIngressRule{From: d.peers(), Ports: d.ports()})
		p.Spec.Egress = append(p.Spec.Egress, networkingv1.NetworkPolicyEgressRule{To: d.peers(), Ports: d.ports()})
	}
	return p
}

// change does something to the model and to the world alike.
func (d dice) change(t *testing.T, m *Model, w *world, clock int) {
	name := types.NamespacedName{Namespace: pick(d, namespaceNames...), Name: pick(d, podNames...)}
	switch d.IntN(10) {
	case 0, 1, 2:
		pod := d.pod(clock)
		m.SetPod(pod)
		w.pods[pod.NamespacedName] = pod
	case 3:
		m.DeletePod(name)
		delete(w.pods, name)
	case 4: // only its labels change
		if pod, ok := w.pods[name]; ok {
			pod.Labels = d.labels()
			m.SetPod(pod)
			w.pods[name] = pod
		}
	case 5:
		set := d.labels()
		m.SetNamespace(name.Namespace, set)
		w.namespaces[name.Namespace] = set
	case 6:
		m.DeleteNamespace(name.Namespace)
		delete(w.namespaces, name.Namespace)
	case 7, 8:
		policy := d.policy()
		if problems := m.SetPolicy(policy); len(problems) > 0 {
			t.Fatalf("%+v: %q", policy.Spec, problems)
		}
		w.policies[types.NamespacedName{Namespace: policy.Namespace, Name: policy.Name}] = policy
	case 9:
		name.Name = pick(d, policyNames...)
		m.DeletePolicy(name)
		delete(w.policies, name)
	}
}

// packets are all there may be between the addresses in use and some others.
func packets(visit func(table.Packet)) {
	four := func(last byte) netip.Addr { return netip.AddrFrom4([4]byte{10, 0, 0, last}) }
	six := func(last byte) netip.Addr { return netip.AddrFrom16([16]byte{0xfd, 15: last}) }
	for _, at := range []func(byte) netip.Addr{four, six} {
		for from := range byte(14) {
			for to := range byte(14) {
				for _, protocol := range []uint8{1, 6, 17, 132} {
					for _, port := range []uint16{80, 81, 82} {
						if protocol == 1 {
							port = 0
						}
						visit(table.Packet{Source: at(from), Destination: at(to), Protocol: protocol, DestinationPort: port})
					}
				}
			}
		}
	}
}

// After any changes the table judges every packet as the policies say, holds nothing
// that nobody needs, and lacks nothing that somebody does.
func TestModelJudgesAsPoliciesSay(t *testing.T) {
	for seed := range uint64(40) {
		d := dice{rand.New(rand.NewPCG(seed, 7))}
		m, w := New(), newWorld()
		for step := range 60 {
			d.change(t, m, w, step)
			if step%6 != 5 {
				continue
			}
			whole(t, m)
			packets(func(p table.Packet) {
				out, _ := m.Table().Egress(p)
				in, _ := m.Table().Ingress(p)
				if out != w.egress(p) || in != w.ingress(p) {
					t.Fatalf("seed %d, step %d, %+v: the table says egress %v, ingress %v, the policies egress %v, ingress %v", seed, step, p, out, in, w.egress(p), w.ingress(p))
				}
			})
		}
		for name := range w.policies {
			m.DeletePolicy(name)
		}
		for name := range w.pods {
			m.DeletePod(name)
		}
		if diff := cmp.Diff(New().Table().Chains, m.Table().Chains); diff != "" || len(m.Table().Sets) != len(New().Table().Sets) || len(m.shared) > 0 {
			t.Fatalf("seed %d: something is left: %s", seed, diff)
		}
	}
}

// whole makes sure that what is referred to is there, and what is there is referred to.
func whole(t *testing.T, m *Model) {
	t.Helper()
	all := m.Table()
	used := map[string]bool{table.Outside: true}
	var follow func(verdict table.Verdict)
	follow = func(verdict table.Verdict) {
		if verdict.Action != table.Jump || used[verdict.Chain] {
			return
		}
		used[verdict.Chain] = true
		rules, there := all.Chains[verdict.Chain]
		if !there {
			t.Fatalf("there is no chain %s", verdict.Chain)
		}
		for _, rule := range rules {
			for _, match := range rule.Matches {
				if all.Sets[match.Set] == nil {
					t.Fatalf("there is no set %s", match.Set)
				}
				used[match.Set] = true
			}
			follow(rule.Verdict)
		}
	}
	for _, family := range table.Families {
		for _, name := range []string{table.From, table.To, table.PodNetworks} {
			used[table.Named(name, family)] = true
			for _, verdict := range all.Sets[table.Named(name, family)].Elements {
				follow(verdict)
			}
		}
	}
	// A pod whose addresses another has taken over may get them back.
	for _, profile := range m.profiles {
		for _, chain := range profile {
			if chain != "" {
				follow(table.Verdict{Action: table.Jump, Chain: chain})
			}
		}
	}
	for name := range all.Chains {
		if !used[name] {
			t.Fatalf("chain %s is of no use", name)
		}
	}
	for name := range all.Sets {
		// Peers and ports' names have a set for each family, whichever is used.
		if !used[name] && !used[strings.TrimSuffix(name, "4")+"6"] && !used[strings.TrimSuffix(name, "6")+"4"] {
			t.Fatalf("set %s is of no use", name)
		}
	}
}

// What a policy says that cannot be read lets nothing pass, and is said.
func TestProblems(t *testing.T) {
	protocol, end := corev1.Protocol("DCCP"), int32(70)
	number, name := intstr.FromInt32(80), intstr.FromString("web")
	peer := networkingv1.NetworkPolicyPeer{PodSelector: &metav1.LabelSelector{}}
	for want, rule := range map[string]networkingv1.NetworkPolicyIngressRule{
		`spec.ingress[0].from[0]: names no peer that is known`:                    {From: []networkingv1.NetworkPolicyPeer{{}}},
		`spec.ingress[0].from[0]: has an ipBlock beside a selector`:               {From: []networkingv1.NetworkPolicyPeer{{IPBlock: &networkingv1.IPBlock{CIDR: "0.0.0.0/0"}, PodSelector: &metav1.LabelSelector{}}}},
		`spec.ingress[0].from[0].ipBlock: "x" is no network`:                      {From: []networkingv1.NetworkPolicyPeer{{IPBlock: &networkingv1.IPBlock{CIDR: "x"}}}},
		`spec.ingress[0].from[0].ipBlock: ::/0 is not of the family of 0.0.0.0/0`: {From: []networkingv1.NetworkPolicyPeer{{IPBlock: &networkingv1.IPBlock{CIDR: "0.0.0.0/0", Except: []string{"::/0"}}}}},
		`spec.ingress[0].ports[0].protocol: "DCCP" is not known`:                  {From: []networkingv1.NetworkPolicyPeer{peer}, Ports: []networkingv1.NetworkPolicyPort{{Protocol: &protocol}}},
		`spec.ingress[0].ports[0]: 80 to 70 is no range of ports`:                 {Ports: []networkingv1.NetworkPolicyPort{{Port: &number, EndPort: &end}}},
		`spec.ingress[0].ports[0].endPort: stands beside a port's name`:           {Ports: []networkingv1.NetworkPolicyPort{{Port: &name, EndPort: &end}}},
		`spec.ingress[0].ports[0].endPort: stands without a port`:                 {Ports: []networkingv1.NetworkPolicyPort{{EndPort: &end}}},
	} {
		m := New()
		address := netip.MustParseAddr("10.0.0.1")
		m.SetPod(Pod{NamespacedName: types.NamespacedName{Namespace: "one", Name: "p"}, Addresses: []netip.Addr{address}, Local: true})
		problems := m.SetPolicy(&networkingv1.NetworkPolicy{
			ObjectMeta: metav1.ObjectMeta{Namespace: "one", Name: "x"},
			Spec:       networkingv1.NetworkPolicySpec{PolicyTypes: []networkingv1.PolicyType{networkingv1.PolicyTypeIngress}, Ingress: []networkingv1.NetworkPolicyIngressRule{rule}},
		})
		if len(problems) != 1 || !strings.HasPrefix(problems[0], want) {
			t.Errorf("%q, want %q", problems, want)
		}
		if passes, local := m.Table().Ingress(table.Packet{Source: address, Destination: address, Protocol: 6, DestinationPort: 75}); passes || !local {
			t.Errorf("%s: it passes", want)
		}
	}
}

// A pod that comes costs a few elements, whatever else there is.
func TestAPodIsAFewElements(t *testing.T) {
	m := New()
	pod := func(i int, local bool) Pod {
		return Pod{NamespacedName: types.NamespacedName{Namespace: "one", Name: fmt.Sprint(i)}, Addresses: []netip.Addr{netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)})}, Local: local}
	}
	for i := range 1000 {
		m.SetPod(pod(i, i%10 == 0))
	}
	m.SetPolicy(&networkingv1.NetworkPolicy{
		ObjectMeta: metav1.ObjectMeta{Namespace: "one", Name: "x"},
		Spec: networkingv1.NetworkPolicySpec{
			PolicyTypes: []networkingv1.PolicyType{networkingv1.PolicyTypeIngress},
			Ingress:     []networkingv1.NetworkPolicyIngressRule{{From: []networkingv1.NetworkPolicyPeer{{PodSelector: &metav1.LabelSelector{}}}}},
		},
	})
	// Each change takes the next number of the table.
	count := func() (n uint64) {
		for _, set := range m.Table().Sets {
			n = max(n, set.Version)
		}
		return n
	}
	chains, before := len(m.Table().Chains), count()
	m.SetPod(pod(1001, true))
	if changes := count() - before; changes != 3 || len(m.Table().Chains) != chains {
		t.Errorf("%d changes of sets and %d chains", changes, len(m.Table().Chains)-chains)
	}
}

// Whatever the API holds, the table made of it is whole.
func FuzzSetPolicy(f *testing.F) {
	f.Add([]byte("bytes that become a policy"), uint64(1))
	f.Fuzz(func(t *testing.T, data []byte, seed uint64) {
		in := fuzzed(data)
		before := in.DeepCopy()
		m, w := New(), newWorld()
		d := dice{rand.New(rand.NewPCG(seed, 9))}
		for i := range 6 {
			pod := d.pod(i)
			pod.Local = true
			m.SetPod(pod)
			w.pods[pod.NamespacedName] = pod
		}
		m.SetPolicy(in)
		whole(t, m)
		if diff := cmp.Diff(before, in); diff != "" {
			t.Errorf("the policy was changed: %s", diff)
		}
		m.DeletePolicy(types.NamespacedName{Namespace: in.Namespace, Name: in.Name})
		if len(m.Table().Chains) > 0 {
			t.Errorf("left: %v", m.Table().Chains)
		}
	})
}
