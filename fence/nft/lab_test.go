package nft_test

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/bulkhead-dev/bulkhead/fence/links"
	"github.com/bulkhead-dev/bulkhead/fence/nft"
)

// lab is a network of namespaces without names, which go with their last file:
//
//	pod ── node-1 ──┐
//	pod ─┘          ├── world: routes between nodes, and has addresses of its own
//	pod ── node-2 ──┘
//
// Nodes are as the embedded super cluster has them: the pods' interfaces are veths
// with a host route each.
type lab struct {
	t     *testing.T
	world *space
	nodes []*node
}

// space is a network namespace.
type space struct {
	t      *testing.T
	ns     netns.NsHandle
	handle *netlink.Handle
}

type node struct {
	*space
	name      string
	addresses []netip.Addr
	networks  []netip.Prefix
	kernel    *nft.Kernel
	pods      int
}

// host is a pod's namespace, or the world, or a node: who sends and receives.
type host struct {
	*space
	addresses []netip.Addr
}

var (
	worldAddresses = []netip.Addr{netip.MustParseAddr("203.0.113.5"), netip.MustParseAddr("2001:db8:113::5")}
	metadata       = netip.MustParseAddr("169.254.169.254")
)

func newSpace(t *testing.T) *space {
	t.Helper()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	own, err := netns.Get()
	check(t, err)
	defer own.Close()
	ns, err := netns.New() // and enters it
	check(t, err)
	defer func() { check(t, netns.Set(own)) }()
	t.Cleanup(func() { ns.Close() })
	handle, err := netlink.NewHandleAt(ns)
	check(t, err)
	t.Cleanup(handle.Close)
	s := &space{t: t, ns: ns, handle: handle}
	s.up("lo")
	return s
}

// do runs f with the calling thread in the namespace. Sockets that f opens stay in it.
func (s *space) do(f func() error) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	own, err := netns.Get()
	if err != nil {
		return err
	}
	defer own.Close()
	if err := netns.Set(s.ns); err != nil {
		return err
	}
	defer func() {
		if err := netns.Set(own); err != nil {
			panic(err) // the thread is of no use to anybody else
		}
	}()
	return f()
}

func (s *space) up(name string) netlink.Link {
	s.t.Helper()
	link, err := s.handle.LinkByName(name)
	check(s.t, err)
	check(s.t, s.handle.LinkSetUp(link))
	return link
}

func (s *space) address(link netlink.Link, address netip.Addr, bits int) {
	s.t.Helper()
	// Without duplicate address detection, which takes a second.
	entry := &netlink.Addr{IPNet: ipNet(netip.PrefixFrom(address, bits))}
	if address.Is6() {
		entry.Flags = unix.IFA_F_NODAD
	}
	check(s.t, s.handle.AddrAdd(link, entry))
}

func (s *space) route(link netlink.Link, to netip.Prefix, via netip.Addr) {
	s.t.Helper()
	route := &netlink.Route{LinkIndex: link.Attrs().Index, Dst: ipNet(to), Scope: netlink.SCOPE_LINK}
	if via.IsValid() {
		route.Gw, route.Scope = via.AsSlice(), netlink.SCOPE_UNIVERSE
	}
	check(s.t, s.handle.RouteReplace(route))
}

func (s *space) sysctl(name, value string) {
	s.t.Helper()
	check(s.t, s.do(func() error { return os.WriteFile(filepath.Join("/proc/sys/net", name), []byte(value), 0) }))
}

func ipNet(prefix netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: prefix.Addr().AsSlice(), Mask: net.CIDRMask(prefix.Bits(), prefix.Addr().BitLen())}
}

// veth joins two namespaces and returns both ends, up.
func veth(a, b *space, nameA, nameB string) (netlink.Link, netlink.Link) {
	a.t.Helper()
	attrs := netlink.NewLinkAttrs()
	attrs.Name = nameA
	check(a.t, a.handle.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: nameB, PeerNamespace: netlink.NsFd(b.ns)}))
	return a.up(nameA), b.up(nameB)
}

func newLab(t *testing.T) *lab {
	t.Helper()
	l := &lab{t: t, world: newSpace(t)}
	l.world.forward()
	lo := l.world.up("lo")
	for _, address := range append([]netip.Addr{metadata}, worldAddresses...) {
		l.world.address(lo, address, address.BitLen())
	}
	for i := 1; i <= 2; i++ {
		l.addNode(i)
	}
	return l
}

func (s *space) forward() {
	for _, name := range []string{"ipv4/ip_forward", "ipv6/conf/all/forwarding"} {
		s.sysctl(name, "1")
	}
	for _, name := range []string{"all", "default"} {
		s.sysctl("ipv4/conf/"+name+"/rp_filter", "0")
		s.sysctl("ipv6/conf/"+name+"/accept_dad", "0")
	}
}

func (l *lab) addNode(i int) {
	l.t.Helper()
	n := &node{
		space: newSpace(l.t), name: fmt.Sprintf("node-%d", i),
		addresses: addresses("172.31.0.1%d", "fd31::1%d", i),
		networks:  []netip.Prefix{netip.MustParsePrefix(fmt.Sprintf("10.78.%d.0/24", i)), netip.MustParsePrefix(fmt.Sprintf("fd78:0:0:%d::/64", i))},
	}
	n.forward()
	out, in := veth(l.world, n.space, n.name, "eth0")
	// A link of its own to each node, so that the world is the router between them.
	gateways := addresses("172.31.%d.1", "fd31:%d::1", i)
	for j, gateway := range gateways {
		bits := gateway.BitLen()
		l.world.address(out, gateway, bits)
		n.address(in, n.addresses[j], bits)
		l.world.route(out, netip.PrefixFrom(n.addresses[j], bits), netip.Addr{})
		l.world.route(out, n.networks[j], n.addresses[j])
		n.route(in, netip.PrefixFrom(gateway, bits), netip.Addr{})
		n.route(in, netip.PrefixFrom(unspecified(gateway), 0), gateway)
	}
	n.kernel = nft.New(int(n.ns))
	l.nodes = append(l.nodes, n)
}

func addresses(four, six string, i int) []netip.Addr {
	return []netip.Addr{netip.MustParseAddr(fmt.Sprintf(four, i)), netip.MustParseAddr(fmt.Sprintf(six, i))}
}

func unspecified(like netip.Addr) netip.Addr {
	if like.Is4() {
		return netip.IPv4Unspecified()
	}
	return netip.IPv6Unspecified()
}

// addPod makes a pod's namespace as the ptp plugin does.
func (n *node) addPod() *host {
	n.t.Helper()
	n.pods++
	h := &host{space: newSpace(n.t)}
	h.sysctl("ipv6/conf/default/accept_dad", "0")
	out, in := veth(n.space, h.space, fmt.Sprintf("veth%d", n.pods), "eth0")
	for _, network := range n.networks {
		gateway := network.Addr().Next()
		address := gateway
		for range n.pods + 3 {
			address = address.Next()
		}
		bits := address.BitLen()
		n.address(out, gateway, bits)
		n.route(out, netip.PrefixFrom(address, bits), netip.Addr{})
		h.address(in, address, bits)
		h.route(in, netip.PrefixFrom(gateway, bits), netip.Addr{})
		h.route(in, netip.PrefixFrom(unspecified(gateway), 0), gateway)
		h.addresses = append(h.addresses, address)
	}
	return h
}

func (n *node) outside() []string {
	n.t.Helper()
	names, err := links.Outside(n.handle, n.networks)
	check(n.t, err)
	return names
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
