package nft_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"

	"github.com/bulkhead-dev/bulkhead/fence/connections"
	"github.com/bulkhead-dev/bulkhead/fence/nft"
	"github.com/bulkhead-dev/bulkhead/fence/table"
)

// eventually waits until something is true.
func eventually(t *testing.T, what string, condition func() bool) {
	t.Helper()
	err := wait.PollUntilContextTimeout(t.Context(), 5*time.Millisecond, patience, true, func(context.Context) (bool, error) { return condition(), nil })
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
}

// A pod that nobody knows yet neither sends nor receives.
func TestUnknownPod(t *testing.T) {
	f := newField(t)
	p := f.start("one", "new", 0)
	serve(t, p, "new")
	f.commit()
	for _, flow := range []string{"new x b tcp/80", "new x c udp/53", "new x world tcp/80", "new x node-1 tcp/80", "b x new tcp/80", "c x new tcp/80", "world x new tcp/80"} {
		f.check(flow)
	}
	f.check("node-1 > new tcp/80")
	if f.dropped()[table.CounterUnknown] == 0 {
		t.Errorf("dropped %v", f.dropped())
	}
	f.know(p)
	f.commit()
	for _, flow := range []string{"new > b tcp/80", "new > world tcp/80", "new > node-1 tcp/80", "b > new tcp/80", "c > new tcp/80"} {
		f.check(flow)
	}
	for _, model := range f.models {
		model.DeletePod(p.NamespacedName)
	}
	f.commit()
	f.forget()
	f.check("b x new tcp/80")
}

// Nobody sends in the name of somebody else.
func TestSpoofedSources(t *testing.T) {
	f := newField(t)
	for _, tc := range []struct{ from, as, to string }{
		{"a", "b", "c"}, {"a", "c", "b"}, {"a", "world", "c"}, {"a", "node-1", "c"}, {"a", "node-2", "b"}, {"a", "b", "node-1"}, {"a", "b", "world"},
		{"world", "a", "b"}, {"c", "a", "b"},
	} {
		for i, address := range f.host(tc.as).at().addresses {
			from := f.host(tc.from).at()
			lo := from.up("lo")
			from.address(lo, address, address.BitLen())
			before := f.dropped()[table.CounterSpoofed]
			check(t, from.do(func() error {
				conn, err := net.DialUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(address, 0)),
					net.UDPAddrFromAddrPort(netip.AddrPortFrom(f.host(tc.to).at().addresses[i], 53)))
				if err != nil {
					return err
				}
				defer conn.Close()
				_, err = conn.Write([]byte("who?"))
				return err
			}))
			eventually(t, fmt.Sprintf("%s as %s (%s) to %s is dropped", tc.from, tc.as, address, tc.to), func() bool {
				return f.dropped()[table.CounterSpoofed] > before
			})
			check(t, from.handle.AddrDel(lo, &netlink.Addr{IPNet: ipNet(netip.PrefixFrom(address, address.BitLen()))}))
		}
	}
	f.check("a > b tcp/80")
}

// A Service is judged by what is behind it.
func TestBehindServices(t *testing.T) {
	f := newField(t)
	services := map[string]string{"10.96.0.1": "a", "10.96.0.2": "b", "10.96.0.3": "c"}
	conn, err := nftables.New(nftables.WithNetNSFd(int(f.nodes[0].ns)))
	check(t, err)
	nat := conn.AddTable(&nftables.Table{Family: nftables.TableFamilyIPv4, Name: "services"})
	prerouting := conn.AddChain(&nftables.Chain{Table: nat, Name: "prerouting", Type: nftables.ChainTypeNAT, Hooknum: nftables.ChainHookPrerouting, Priority: nftables.ChainPriorityNATDest})
	for service, backend := range services {
		conn.AddRule(&nftables.Rule{Table: nat, Chain: prerouting, Exprs: []expr.Any{
			&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: 16, Len: 4},
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: netip.MustParseAddr(service).AsSlice()},
			&expr.Immediate{Register: 1, Data: f.pods[backend].Addresses[0].AsSlice()},
			&expr.NAT{Type: expr.NATTypeDestNAT, Family: unix.NFPROTO_IPV4, RegAddrMin: 1},
		}})
	}
	// What comes back to its sender is masqueraded, as kube-proxy does.
	postrouting := conn.AddChain(&nftables.Chain{Table: nat, Name: "postrouting", Type: nftables.ChainTypeNAT, Hooknum: nftables.ChainHookPostrouting, Priority: nftables.ChainPriorityNATSource})
	own := f.pods["a"].Addresses[0].AsSlice()
	conn.AddRule(&nftables.Rule{Table: nat, Chain: postrouting, Exprs: []expr.Any{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: 12, Len: 4},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: own},
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: 16, Len: 4},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: own},
		&expr.Masq{},
	}})
	check(t, conn.Flush())
	at := func(service string) netip.AddrPort { return netip.AddrPortFrom(netip.MustParseAddr(service), 80) }
	for service, backend := range services {
		f.open("a", backend, "tcp", at(service))
	}
	f.forget()
	f = f.with(t, `
metadata: {name: allow}
spec: {podSelector: {matchLabels: {app: a}}, policyTypes: [Ingress, Egress],
  ingress: [{from: [{podSelector: {matchLabels: {app: a}}}]}],
  egress: [{to: [{podSelector: {matchExpressions: [{key: app, operator: In, values: [a, c]}]}}, {ipBlock: {cidr: 10.96.0.0/16}}]}]}`)
	f.open("a", "a", "tcp", at("10.96.0.1"))
	f.open("a", "c", "tcp", at("10.96.0.3"))
	f.shut("a", "b", "tcp", at("10.96.0.2"))
}

// A change holds for connections that are open.
func TestOpenConnections(t *testing.T) {
	f := newField(t)
	for i := range f.pods["b"].Addresses {
		t.Run(f.pods["b"].Addresses[i].String(), func(t *testing.T) {
			to := netip.AddrPortFrom(f.pods["b"].Addresses[i], 80)
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			open, _, err := dial(ctx, f.pods["a"].host, "tcp", to)
			check(t, err)
			defer open.Close()
			other, _, err := dial(ctx, f.pods["c"].host, "tcp", to)
			check(t, err)
			defer other.Close()

			denied := f.with(t, `
metadata: {name: allow}
spec: {podSelector: {matchLabels: {app: b}}, ingress: [{from: [{podSelector: {matchLabels: {app: c}}}]}]}`)
			before := denied.dropped()
			answered := make(chan string, 1)
			go func() {
				answer, _ := ask(ctx, open)
				answered <- answer
			}()
			eventually(t, "the connection is stopped", func() bool { return denied.dropped()[table.CounterIngress] > before[table.CounterIngress] })
			if answer, err := ask(ctx, other); err != nil || answer != "b" {
				t.Errorf("the connection that is allowed: %q, %v", answer, err)
			}
			cancel()
			if answer := <-answered; answer != "" {
				t.Errorf("%s answers", answer)
			}
		})
	}
}

// A server that sends by itself is stopped once its connection is forgotten, and
// nobody else's.
func TestCut(t *testing.T) {
	f := newField(t)
	server := f.pods["b"]
	for i, address := range server.Addresses {
		var listener *net.UDPConn
		check(t, server.do(func() (err error) {
			listener, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(address, 7000)))
			return err
		}))
		defer listener.Close()
		clients := map[string]netip.AddrPort{}
		received := map[string]*net.UDPConn{}
		for _, name := range []string{"a", "c"} {
			client := f.pods[name]
			check(t, client.do(func() error {
				conn, err := net.DialUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(client.Addresses[i], 0)), net.UDPAddrFromAddrPort(netip.AddrPortFrom(address, 7000)))
				if err == nil {
					received[name] = conn
					_, err = conn.Write([]byte("hello"))
				}
				return err
			}))
			defer received[name].Close()
			buffer := make([]byte, 16)
			check(t, listener.SetReadDeadline(time.Now().Add(patience)))
			_, from, err := listener.ReadFromUDPAddrPort(buffer)
			check(t, err)
			clients[name] = from
		}
		// reaches sends until it arrives, or is dropped.
		reaches := func(name string) bool {
			before := f.dropped()
			arrived := false
			eventually(t, "a datagram to "+name+" arrives or is dropped", func() bool {
				_, err := listener.WriteToUDPAddrPort([]byte("news"), clients[name])
				check(t, err)
				check(t, received[name].SetReadDeadline(time.Now().Add(20*time.Millisecond)))
				_, err = received[name].Read(make([]byte, 16))
				arrived = err == nil
				return arrived || f.dropped()[table.CounterEgress] > before[table.CounterEgress]
			})
			return arrived
		}
		if !reaches("a") || !reaches("c") {
			t.Fatal("an answer does not arrive")
		}
		denied := f.with(t, `
metadata: {name: b}
spec: {podSelector: {matchLabels: {app: b}}, policyTypes: [Ingress, Egress], ingress: [{from: [{podSelector: {matchLabels: {app: c}}}]}]}`)
		rules := denied.models[0].Table()
		handle, err := netlink.NewHandleAt(f.nodes[0].ns, unix.NETLINK_NETFILTER)
		check(t, err)
		defer handle.Close()
		cut, err := connections.Cut(handle, func(p table.Packet) bool {
			out, _ := rules.Egress(p)
			in, _ := rules.Ingress(p)
			return out && in
		})
		check(t, err)
		if cut != 1 {
			t.Errorf("%d connections were cut", cut)
		}
		if reaches("a") {
			t.Error("the server reaches a client that may not reach it")
		}
		if !reaches("c") {
			t.Error("the server does not reach a client that may reach it")
		}
		for _, model := range f.models {
			model.DeletePolicy(types.NamespacedName{Namespace: "one", Name: "b"})
		}
		f.commit()
		f.forget()
	}
}

// A new process takes over without a moment in which anything passes that should
// not, or does not pass that should.
func TestReplaceLeavesNoGap(t *testing.T) {
	f := newField(t).with(t, `
metadata: {name: allow}
spec: {podSelector: {matchLabels: {app: b}}, ingress: [{from: [{podSelector: {matchLabels: {app: c}}}]}]}`)
	to := f.pods["b"].Addresses[0]
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	allowed, _, err := dial(ctx, f.pods["c"].host, "tcp", netip.AddrPortFrom(to, 80))
	check(t, err)
	defer allowed.Close()
	var listener, sender *net.UDPConn
	check(t, f.pods["b"].do(func() (err error) {
		listener, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(to, 7000)))
		return err
	}))
	defer listener.Close()
	check(t, f.pods["a"].do(func() (err error) {
		sender, err = net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(netip.AddrPortFrom(to, 7000)))
		return err
	}))
	defer sender.Close()
	sending, stop := context.WithCancel(ctx)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for sending.Err() == nil {
			_, _ = sender.Write([]byte("in"))
		}
	}()
	for range 30 {
		kernel := nft.New(int(f.nodes[0].ns)) // a new process
		_, err := kernel.Apply(f.models[0].Table())
		check(t, err)
		if answer, err := ask(ctx, allowed); err != nil || answer != "b" {
			t.Fatalf("%q, %v", answer, err)
		}
	}
	stop()
	<-ended
	check(t, listener.SetReadDeadline(time.Now().Add(50*time.Millisecond)))
	if n, _, err := listener.ReadFromUDPAddrPort(make([]byte, 16)); err == nil {
		t.Errorf("a datagram of %d bytes passed", n)
	}
}

// What others do to the rules is noticed and made good.
func TestRepair(t *testing.T) {
	f := newField(t).with(t, denyAll)
	kernel, rules := f.nodes[0].kernel, f.models[0].Table()
	ours := &nftables.Table{Family: nftables.TableFamilyINet, Name: nft.TableName}
	profile := ""
	for name := range rules.Chains {
		if strings.HasPrefix(name, "pods-in-") {
			profile = name
		}
	}
	for name, damage := range map[string]func(*nftables.Conn){
		"a flushed chain": func(c *nftables.Conn) { c.FlushChain(&nftables.Chain{Table: ours, Name: profile}) },
		"a flushed hook":  func(c *nftables.Conn) { c.FlushChain(&nftables.Chain{Table: ours, Name: "ingress"}) },
		"a flushed map":   func(c *nftables.Conn) { c.FlushSet(&nftables.Set{Table: ours, Name: "to4"}) },
		"another element": func(c *nftables.Conn) {
			check(t, c.SetAddElements(&nftables.Set{Table: ours, Name: table.Outside}, []nftables.SetElement{{Key: make([]byte, 16)}}))
		},
		"another chain":     func(c *nftables.Conn) { c.AddChain(&nftables.Chain{Table: ours, Name: "more"}) },
		"no table":          func(c *nftables.Conn) { c.DelTable(ours) },
		"no rules whatever": func(c *nftables.Conn) { c.FlushRuleset() },
		"a rule in between": func(c *nftables.Conn) {
			c.InsertRule(&nftables.Rule{Table: ours, Chain: &nftables.Chain{Table: ours, Name: profile}, Exprs: []expr.Any{&expr.Verdict{Kind: expr.VerdictAccept}}})
		},
	} {
		conn, err := nftables.New(nftables.WithNetNSFd(int(f.nodes[0].ns)))
		check(t, err)
		damage(conn)
		check(t, conn.Flush())
		drift, err := kernel.Verify()
		check(t, err)
		if len(drift) == 0 {
			t.Errorf("%s is not noticed", name)
		}
		kernel.Forget()
		_, err = kernel.Apply(rules)
		check(t, err)
		if drift, err := kernel.Verify(); err != nil || len(drift) > 0 {
			t.Errorf("%s: after the repair %q, %v", name, drift, err)
		}
	}
	f.check("b x a tcp/80")
	// Changes after a loss that nobody has noticed yet.
	conn, err := nftables.New(nftables.WithNetNSFd(int(f.nodes[0].ns)))
	check(t, err)
	conn.DelTable(ours)
	check(t, conn.Flush())
	f.models[0].DeletePod(f.pods["b"].NamespacedName)
	_, err = kernel.Apply(rules)
	check(t, err)
	if drift, err := kernel.Verify(); err != nil || len(drift) > 0 {
		t.Errorf("%q, %v", drift, err)
	}
	check(t, kernel.Remove())
	check(t, kernel.Remove())
	f.forget()
	f.check("world > a tcp/80")
}

// What is put into the kernel for a change is what differs.
func TestChangesAreSmall(t *testing.T) {
	f := newField(t).with(t, denyAll+`
---
metadata: {name: allow}
spec: {podSelector: {}, ingress: [{from: [{podSelector: {}}], ports: [{port: web}, {port: 80}]}]}`)
	kernel, model := f.nodes[0].kernel, f.models[0]
	apply := func() int {
		t.Helper()
		changed, err := kernel.Apply(model.Table())
		check(t, err)
		drift, err := kernel.Verify()
		check(t, err)
		if len(drift) > 0 {
			t.Errorf("%q", drift)
		}
		return changed
	}
	if changed := apply(); changed != 0 {
		t.Errorf("%d changes for nothing", changed)
	}
	pod := f.pods["a"].Pod
	pod.Name, pod.Local = "another", true
	pod.Addresses = []netip.Addr{netip.MustParseAddr("10.78.1.77"), netip.MustParseAddr("fd78:0:0:1::77")}
	model.SetPod(pod)
	// For each address: what judges it twice, itself as a peer, and its port's name.
	if changed := apply(); changed != 8 {
		t.Errorf("a pod is %d changes", changed)
	}
	model.DeletePod(pod.NamespacedName)
	if changed := apply(); changed != 8 {
		t.Errorf("a pod that goes is %d changes", changed)
	}
}

// A set that goes and comes again between two transactions has other elements.
func TestASetOfTheSameName(t *testing.T) {
	f := newField(t)
	const allow = `
metadata: {name: allow}
spec: {podSelector: {matchLabels: {app: a}}, ingress: [{from: [{podSelector: {matchLabels: {circle: inner}}}]}]}`
	befriend := func(name, circle string) {
		f.pods[name].Labels = map[string]string{"app": name, "circle": circle}
		f.know(f.pods[name])
	}
	befriend("b", "inner")
	t.Run("one friend", func(t *testing.T) {
		f := f.with(t, allow)
		f.check("b > a tcp/80")
		f.check("c x a tcp/80")
		// Without a transaction in between.
		for _, model := range f.models {
			model.DeletePolicy(types.NamespacedName{Namespace: "one", Name: "allow"})
		}
		befriend("b", "outer")
		befriend("c", "inner")
		f = f.with(t, allow)
		f.check("c > a tcp/80")
		f.forget()
		f.check("b x a tcp/80")
	})
}

// SCTP, which the kernel need not speak itself: packets made by hand.
func TestSCTP(t *testing.T) {
	f := newField(t).with(t, `
metadata: {name: allow}
spec: {podSelector: {matchLabels: {app: b}}, ingress: [{ports: [{port: 80, protocol: SCTP}]}]}`)
	to := f.pods["b"].Addresses[0].AsSlice()
	var listener, sender *net.IPConn
	check(t, f.pods["b"].do(func() (err error) {
		listener, err = net.ListenIP("ip4:132", &net.IPAddr{IP: to})
		return err
	}))
	defer listener.Close()
	check(t, f.pods["a"].do(func() (err error) {
		sender, err = net.DialIP("ip4:132", nil, &net.IPAddr{IP: to})
		return err
	}))
	defer sender.Close()
	send := func(port byte) {
		t.Helper()
		// Ports, no tag, no checksum, an INIT chunk (RFC 9260).
		_, err := sender.Write(slices.Concat([]byte{0x80, 0, 0, port}, make([]byte, 8), []byte{1, 0, 0, 20}, make([]byte, 16)))
		check(t, err)
	}
	send(80)
	check(t, listener.SetReadDeadline(time.Now().Add(patience)))
	if _, _, err := listener.ReadFrom(make([]byte, 128)); err != nil {
		t.Errorf("what is allowed: %v", err)
	}
	before := f.dropped()[table.CounterIngress]
	send(81)
	eventually(t, "what is not allowed is dropped", func() bool { return f.dropped()[table.CounterIngress] > before })
	check(t, listener.SetReadDeadline(time.Now().Add(time.Millisecond)))
	if _, _, err := listener.ReadFrom(make([]byte, 128)); err == nil || !errors.Is(err, context.DeadlineExceeded) && !strings.Contains(err.Error(), "timeout") {
		t.Errorf("what is not allowed: %v", err)
	}
}

// The interfaces of pods are told from others by their routes.
func TestOutside(t *testing.T) {
	l := newLab(t)
	n := l.nodes[0]
	n.addPod()
	want := []string{"eth0", "lo"}
	if got := n.outside(); !slices.Equal(got, want) {
		t.Errorf("%v", got)
	}
	// Another network that pods are not from, such as one of containers without Kubernetes.
	out, _ := veth(n.space, newSpace(t), "other", "eth0")
	if got := n.outside(); !slices.Equal(got, want) {
		t.Errorf("an interface without routes may be a pod's: %v", got)
	}
	n.route(out, netip.MustParsePrefix("192.168.7.0/24"), netip.Addr{})
	if got := n.outside(); !slices.Equal(got, []string{"eth0", "lo", "other"}) {
		t.Errorf("%v", got)
	}
}
