package nft_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	"sigs.k8s.io/yaml"

	"github.com/bulkhead-dev/bulkhead/fence/policy"
)

// patience bounds every wait for something to come true.
const patience = 3 * time.Minute

// pod of the lab.
type pod struct {
	policy.Pod
	*host
	node *node
}

// field is a lab with pods in it, and the model of each node.
type field struct {
	*lab
	pods   map[string]*pod
	models []*policy.Model
}

var namespaces = map[string]map[string]string{
	"one": {"team": "red", "kubernetes.io/metadata.name": "one"},
	"two": {"team": "blue", "kubernetes.io/metadata.name": "two"},
}

// newField makes pods a and b of namespace one on node-1, c of one and x of two on
// node-2, which all answer everywhere.
func newField(t *testing.T) *field {
	t.Helper()
	f := &field{lab: newLab(t), pods: map[string]*pod{}}
	for range f.nodes {
		f.models = append(f.models, policy.New())
	}
	for i, model := range f.models {
		model.SetPodNetworks(f.nodes[i].networks)
		for name, labels := range namespaces {
			model.SetNamespace(name, labels)
		}
	}
	for _, p := range []struct {
		namespace, name string
		node            int
	}{{"one", "a", 0}, {"one", "b", 0}, {"one", "c", 1}, {"two", "x", 1}} {
		f.know(f.start(p.namespace, p.name, p.node))
	}
	for _, h := range f.hosts() {
		serve(t, h, h.name())
	}
	f.commit()
	return f
}

// start makes a pod that the fence does not know yet.
func (f *field) start(namespace, name string, on int) *pod {
	h := f.nodes[on].addPod()
	p := &pod{host: h, node: f.nodes[on], Pod: policy.Pod{
		NamespacedName: types.NamespacedName{Namespace: namespace, Name: name}, UID: types.UID(name),
		Labels: map[string]string{"app": name}, Addresses: h.addresses,
		Ports: []policy.NamedPort{{Name: "web", Protocol: 6, Port: 8080}, {Name: "dns", Protocol: 17, Port: 53}},
	}}
	f.pods[name] = p
	return p
}

// know tells each node of a pod.
func (f *field) know(p *pod) {
	for i, model := range f.models {
		known := p.Pod
		known.Local = p.node == f.nodes[i]
		model.SetPod(known)
	}
}

// commit puts the models into the kernels.
func (f *field) commit() {
	f.t.Helper()
	for i, model := range f.models {
		model.SetInterfaces(f.nodes[i].outside())
		_, err := f.nodes[i].kernel.Apply(model.Table())
		check(f.t, err)
	}
}

// endpoint is who a flow is from or to.
type endpoint interface {
	name() string
	at() *host
}

func (p *pod) name() string { return p.Name }
func (p *pod) at() *host    { return p.host }
func (n *node) at() *host   { return &host{space: n.space, addresses: n.addresses} }

type plain struct {
	*host
	called string
}

func (p plain) name() string { return p.called }
func (p plain) at() *host    { return p.host }

func (f *field) host(name string) endpoint {
	f.t.Helper()
	if p := f.pods[name]; p != nil {
		return p
	}
	for _, n := range f.nodes {
		if n.name == name {
			return plain{n.at(), name}
		}
	}
	switch name {
	case "world":
		return plain{&host{space: f.world, addresses: worldAddresses}, name}
	case "metadata":
		return plain{&host{space: f.world, addresses: []netip.Addr{metadata}}, name}
	}
	f.t.Fatalf("there is no %s", name)
	return nil
}

func (f *field) hosts() []endpoint {
	var all []endpoint
	for _, name := range slices.Sorted(maps.Keys(f.pods)) {
		all = append(all, f.pods[name])
	}
	for _, n := range f.nodes {
		all = append(all, plain{n.at(), n.name})
	}
	return append(all, f.host("world"))
}

// Ports that every host answers at.
var (
	tcpPorts = []int{80, 81, 443, 8080, 9000}
	udpPorts = []int{53, 80}
)

// serve answers each line with the host's name and the address it came from.
func serve(t *testing.T, e endpoint, name string) {
	t.Helper()
	for _, port := range tcpPorts {
		var listener net.Listener
		check(t, e.at().do(func() (err error) {
			listener, err = net.Listen("tcp", ":"+strconv.Itoa(port))
			return err
		}))
		t.Cleanup(func() { listener.Close() })
		go func() {
			for {
				conn, err := listener.Accept()
				if err != nil {
					return
				}
				go func() {
					defer conn.Close()
					buffer := make([]byte, 64)
					for {
						if _, err := conn.Read(buffer); err != nil {
							return
						}
						fmt.Fprint(conn, name)
					}
				}()
			}
		}()
	}
	for _, port := range udpPorts {
		// One socket for each address: the answer comes from where the question went.
		for _, address := range e.at().addresses {
			var conn net.PacketConn
			check(t, e.at().do(func() (err error) {
				conn, err = net.ListenPacket("udp", netip.AddrPortFrom(address, uint16(port)).String())
				return err
			}))
			t.Cleanup(func() { conn.Close() })
			go func() {
				buffer := make([]byte, 64)
				for {
					_, from, err := conn.ReadFrom(buffer)
					if err != nil {
						return
					}
					_, _ = conn.WriteTo([]byte(name), from)
				}
			}()
		}
	}
}

// dial opens a connection from a host, asks and returns who answers.
func dial(ctx context.Context, from *host, protocol string, to netip.AddrPort) (net.Conn, string, error) {
	var conn net.Conn
	err := from.do(func() (err error) {
		conn, err = (&net.Dialer{LocalAddr: from.local(protocol, to.Addr())}).DialContext(ctx, protocol, to.String())
		return err
	})
	if err != nil {
		return nil, "", err
	}
	answer, err := ask(ctx, conn)
	if err != nil {
		conn.Close()
		return nil, "", err
	}
	return conn, answer, nil
}

// local is the host's address of a family, which routes might not choose.
func (h *host) local(protocol string, to netip.Addr) net.Addr {
	for _, address := range h.addresses {
		if address.Is4() != to.Is4() {
			continue
		}
		at := netip.AddrPortFrom(address, 0)
		if protocol == "udp" {
			return net.UDPAddrFromAddrPort(at)
		}
		return net.TCPAddrFromAddrPort(at)
	}
	return nil
}

// ask repeats the question over UDP, which may lose one.
func ask(ctx context.Context, conn net.Conn) (string, error) {
	defer context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })()
	buffer := make([]byte, 64)
	for {
		if _, err := conn.Write([]byte("who?")); err != nil {
			return "", err
		}
		if _, isUDP := conn.(*net.UDPConn); isUDP {
			_ = conn.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
		}
		n, err := conn.Read(buffer)
		if errors.Is(err, os.ErrDeadlineExceeded) && ctx.Err() == nil {
			continue
		}
		if err != nil {
			return "", err
		}
		return string(buffer[:n]), nil
	}
}

// dropped sums what the nodes have dropped.
func (f *field) dropped() map[string]uint64 {
	f.t.Helper()
	sum := map[string]uint64{}
	for _, n := range f.nodes {
		dropped, err := n.kernel.Dropped()
		check(f.t, err)
		for reason, count := range dropped {
			sum[reason] += count
		}
	}
	return sum
}

// open makes sure that a flow passes.
func (f *field) open(from, to, protocol string, target netip.AddrPort) {
	f.t.Helper()
	ctx, cancel := context.WithTimeout(f.t.Context(), patience)
	defer cancel()
	conn, answer, err := dial(ctx, f.host(from).at(), protocol, target)
	if err != nil {
		f.t.Errorf("%s to %s %s %s: %v, dropped so far %v", from, to, protocol, target, err, f.dropped())
		return
	}
	conn.Close()
	if want := strings.Replace(to, "metadata", "world", 1); answer != want {
		f.t.Errorf("%s to %s %s %s: %s answers", from, to, protocol, target, answer)
	}
}

// shut makes sure that a flow does not pass, by what the fence counts: a time without
// an answer would prove nothing, nor would a refusal that may be the server's own.
func (f *field) shut(from, to, protocol string, target netip.AddrPort) {
	f.t.Helper()
	ctx, cancel := context.WithCancel(f.t.Context())
	defer cancel()
	before := f.dropped()
	result := make(chan error, 1)
	go func() {
		conn, answer, err := dial(ctx, f.host(from).at(), protocol, target)
		if err == nil {
			conn.Close()
			err = fmt.Errorf("%s answers", answer)
		} else {
			err = nil
		}
		result <- err
	}()
	err := wait.PollUntilContextTimeout(ctx, 5*time.Millisecond, patience, true, func(context.Context) (bool, error) {
		return !maps.Equal(before, f.dropped()), nil
	})
	cancel()
	if err != nil {
		f.t.Errorf("%s to %s %s %s: %v", from, to, protocol, target, err)
		return
	}
	if err := <-result; err != nil {
		f.t.Errorf("%s to %s %s %s: %v", from, to, protocol, target, err)
	}
}

// flow is "from to protocol/port", and whether it passes.
func (f *field) check(text string) {
	f.t.Helper()
	fields := strings.Fields(text) // a > b tcp/80
	if len(fields) != 4 {
		f.t.Fatalf("%q is no flow", text)
	}
	from, sign, to := fields[0], fields[1], fields[2]
	protocol, number, _ := strings.Cut(fields[3], "/")
	port, err := strconv.Atoi(number)
	check(f.t, err)
	for _, address := range f.host(to).at().addresses {
		target := netip.AddrPortFrom(address, uint16(port))
		switch sign {
		case ">":
			f.open(from, to, protocol, target)
		case "x":
			f.shut(from, to, protocol, target)
		default:
			f.t.Fatalf("%q is no flow", text)
		}
	}
}

// with applies policies while the subtest runs.
func (f *field) with(t *testing.T, text string) *field {
	t.Helper()
	inner := *f
	lab := *f.lab
	inner.lab = &lab
	inner.t = t
	// Its connections are none of the next one's.
	t.Cleanup(f.forget)
	t.Cleanup(f.commit)
	for _, document := range strings.Split(text, "\n---\n") {
		if strings.TrimSpace(document) == "" {
			continue
		}
		var p networkingv1.NetworkPolicy
		check(t, yaml.UnmarshalStrict([]byte(document), &p))
		if p.Namespace == "" {
			p.Namespace = "one"
		}
		for _, model := range f.models {
			if problems := model.SetPolicy(&p); len(problems) > 0 {
				t.Fatal(problems)
			}
		}
		t.Cleanup(func() {
			for _, model := range f.models {
				model.DeletePolicy(types.NamespacedName{Namespace: p.Namespace, Name: p.Name})
			}
		})
	}
	inner.commit()
	return &inner
}

// cut forgets all connections, so that flows of one test are none of the next one's.
func (f *field) forget() {
	for _, n := range f.nodes {
		handle, err := netlink.NewHandleAt(n.ns, 12) // NETLINK_NETFILTER
		check(f.t, err)
		check(f.t, handle.ConntrackTableFlush(netlink.ConntrackTable))
		handle.Close()
	}
}
