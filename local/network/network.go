// Package network joins the nodes of the embedded super cluster: a bridge on the
// machine, a network namespace per node with one leg on that bridge, routes for
// each node's pods, and address translation for what leaves the machine.
//
//	machine: bh0 .1 ── bh-node-1 ║ eth0 .11 node-1: pods 10.78.1.0/24
//	                └─ bh-node-2 ║ eth0 .12 node-2: pods 10.78.2.0/24
package network

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/bulkhead-dev/bulkhead/local/host"
	"github.com/bulkhead-dev/bulkhead/local/layout"
	"github.com/bulkhead-dev/bulkhead/local/namespace"
)

// nodeLink is the nodes' own interface in their namespaces.
const nodeLink = "eth0"

// Up makes what is missing of the network and leaves alone what is there.
func Up(ctx context.Context, s layout.Settings, sysctls host.Sysctls) error {
	bridge, err := ensureBridge(s)
	if err != nil {
		return err
	}
	for _, node := range s.NodeList() {
		if err := ensureNode(s, node, bridge); err != nil {
			return fmt.Errorf("network of %s: %w", node.Name, err)
		}
	}
	if err := ensureMachineRoutes(s, bridge); err != nil {
		return err
	}
	if err := setFirewall(ctx, s); err != nil {
		return err
	}
	return enableForwarding(sysctls)
}

func ensureBridge(s layout.Settings) (netlink.Link, error) {
	bridge, err := netlink.LinkByName(layout.Bridge)
	if notFound(err) {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = layout.Bridge
		// A fixed address: by itself a bridge takes over the lowest of its ports', which
		// changes as they join and leaves the nodes with a stale neighbour entry.
		ip := s.HostIP().As4()
		attrs.HardwareAddr = net.HardwareAddr{0x0a, 0x58, ip[0], ip[1], ip[2], ip[3]}
		if err := netlink.LinkAdd(&netlink.Bridge{LinkAttrs: attrs}); err != nil {
			return nil, fmt.Errorf("making bridge %s: %w", layout.Bridge, err)
		}
		bridge, err = netlink.LinkByName(layout.Bridge)
	}
	if err != nil {
		return nil, fmt.Errorf("bridge %s: %w", layout.Bridge, err)
	}
	if err := netlink.AddrReplace(bridge, address(netip.PrefixFrom(s.HostIP(), s.NodeCIDR.Bits()))); err != nil {
		return nil, fmt.Errorf("giving bridge %s the address %s: %w", layout.Bridge, s.HostIP(), err)
	}
	return bridge, netlink.LinkSetUp(bridge)
}

func ensureNode(s layout.Settings, node layout.Node, bridge netlink.Link) error {
	path := layout.Netns(node.Name)
	exists, err := namespace.Exists(path)
	if err != nil {
		return err
	}
	if !exists {
		if err := namespace.Create(namespace.Net, path, func() error { return nil }); err != nil {
			return err
		}
	}
	ns, err := netns.GetFromPath(path)
	if err != nil {
		return err
	}
	defer ns.Close()
	inside, err := netlink.NewHandleAt(ns, unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer inside.Close()

	if err := ensureVeth(node, ns, inside, bridge); err != nil {
		return err
	}
	if err := configureNode(s, node, inside); err != nil {
		return err
	}
	return namespace.Do(namespace.Net, path, func() error {
		// A node forwards between its pods and the others. What its pods answer to a
		// Service comes back on another path than the kernel expects.
		for name, value := range map[string]string{
			"ipv4/ip_forward": "1", "ipv4/conf/all/rp_filter": "0", "ipv4/conf/default/rp_filter": "0",
		} {
			if err := os.WriteFile(filepath.Join("/proc/sys/net", name), []byte(value), 0); err != nil {
				return err
			}
		}
		return nil
	})
}

// ensureVeth makes the pair of interfaces between a node and the bridge.
func ensureVeth(node layout.Node, ns netns.NsHandle, inside *netlink.Handle, bridge netlink.Link) error {
	outer := "bh-" + node.Name
	_, innerErr := inside.LinkByName(nodeLink)
	link, outerErr := netlink.LinkByName(outer)
	if innerErr != nil && !notFound(innerErr) {
		return innerErr
	}
	if outerErr != nil && !notFound(outerErr) {
		return outerErr
	}
	if innerErr != nil || outerErr != nil {
		if outerErr == nil { // its other end is in a namespace that is gone
			if err := netlink.LinkDel(link); err != nil {
				return fmt.Errorf("deleting interface %s: %w", outer, err)
			}
		}
		attrs := netlink.NewLinkAttrs()
		attrs.Name = outer
		veth := &netlink.Veth{LinkAttrs: attrs, PeerName: nodeLink, PeerNamespace: netlink.NsFd(ns)}
		if err := netlink.LinkAdd(veth); err != nil {
			return fmt.Errorf("making interface %s: %w", outer, err)
		}
		var err error
		if link, err = netlink.LinkByName(outer); err != nil {
			return err
		}
	}
	if err := netlink.LinkSetMaster(link, bridge); err != nil {
		return fmt.Errorf("adding interface %s to bridge %s: %w", outer, layout.Bridge, err)
	}
	return netlink.LinkSetUp(link)
}

// configureNode gives a node's interface its address and its routes.
func configureNode(s layout.Settings, node layout.Node, inside *netlink.Handle) error {
	lo, err := inside.LinkByName("lo")
	if err != nil {
		return err
	}
	eth, err := inside.LinkByName(nodeLink)
	if err != nil {
		return err
	}
	if err := errors.Join(inside.LinkSetUp(lo), inside.LinkSetUp(eth)); err != nil {
		return err
	}
	if err := inside.AddrReplace(eth, address(netip.PrefixFrom(node.IP, s.NodeCIDR.Bits()))); err != nil {
		return fmt.Errorf("setting address %s: %w", node.IP, err)
	}
	routes := []*netlink.Route{{LinkIndex: eth.Attrs().Index, Gw: s.HostIP().AsSlice()}}
	for _, other := range s.NodeList() {
		if other.Name != node.Name {
			routes = append(routes, route(eth, other.PodCIDR, other.IP))
		}
	}
	for _, r := range routes {
		if err := inside.RouteReplace(r); err != nil {
			return fmt.Errorf("setting route %v: %w", r, err)
		}
	}
	return nil
}

// ensureMachineRoutes lets the machine reach pods on their node, and the super
// cluster's Services through the first node, whose kube-proxy knows them.
func ensureMachineRoutes(s layout.Settings, bridge netlink.Link) error {
	nodes := s.NodeList()
	routes := []*netlink.Route{route(bridge, s.ServiceCIDR, nodes[0].IP)}
	for _, node := range nodes {
		routes = append(routes, route(bridge, node.PodCIDR, node.IP))
	}
	for _, r := range routes {
		if err := netlink.RouteReplace(r); err != nil {
			return fmt.Errorf("setting route %v: %w", r, err)
		}
	}
	return nil
}

// enableForwarding lets packets pass between the bridge and the machine's way
// out. Only these two interfaces are opened, not the machine as a whole.
func enableForwarding(sysctls host.Sysctls) error {
	// The bridge's own setting ends with the bridge.
	err := os.WriteFile(filepath.Join(sysctls.Dir, "net/ipv4/conf", layout.Bridge, "forwarding"), []byte("1"), 0)
	if err != nil {
		return fmt.Errorf("enabling forwarding on %s: %w", layout.Bridge, err)
	}
	uplinks, err := uplinkNames()
	if err != nil {
		return err
	}
	for _, name := range uplinks {
		if err := sysctls.Set(filepath.Join("net/ipv4/conf", name, "forwarding"), "1"); err != nil {
			return err
		}
	}
	return nil
}

// uplinkNames lists the interfaces of the default routes.
func uplinkNames() ([]string, error) {
	routes, err := netlink.RouteList(nil, netlink.FAMILY_V4)
	if err != nil {
		return nil, fmt.Errorf("listing routes: %w", err)
	}
	var names []string
	for _, r := range routes {
		if !isDefault(r) || r.LinkIndex == 0 {
			continue
		}
		link, err := netlink.LinkByIndex(r.LinkIndex)
		if err != nil {
			return nil, err
		}
		names = append(names, link.Attrs().Name)
	}
	return names, nil
}

func isDefault(r netlink.Route) bool {
	if r.Dst == nil {
		return true
	}
	ones, _ := r.Dst.Mask.Size()
	return ones == 0
}

// Clash names a route of the machine that overlaps one of the cluster's networks,
// or returns "".
func Clash(s layout.Settings) (string, error) {
	ours := -1
	if bridge, err := netlink.LinkByName(layout.Bridge); err == nil {
		ours = bridge.Attrs().Index
	}
	routes, err := netlink.RouteList(nil, netlink.FAMILY_V4)
	if err != nil {
		return "", fmt.Errorf("listing routes: %w", err)
	}
	for _, r := range routes {
		if isDefault(r) || r.LinkIndex == ours {
			continue
		}
		dst, ok := netip.AddrFromSlice(r.Dst.IP.To4())
		if !ok {
			continue
		}
		ones, _ := r.Dst.Mask.Size()
		prefix := netip.PrefixFrom(dst, ones)
		for env, network := range map[string]netip.Prefix{
			layout.EnvNodeCIDR: s.NodeCIDR, layout.EnvServiceCIDR: s.ServiceCIDR, layout.EnvPodCIDR: s.PodCIDR,
		} {
			if prefix.Overlaps(network) {
				name := "an interface"
				if link, err := netlink.LinkByIndex(r.LinkIndex); err == nil {
					name = link.Attrs().Name
				}
				return fmt.Sprintf("the network %s overlaps the route to %s on %s: set %s to a free one", network, prefix, name, env), nil
			}
		}
	}
	return "", nil
}

// Down removes everything that Up made, whatever there is of it. No process may
// be left in the nodes' namespaces.
func Down(ctx context.Context, nodes []string) error {
	errs := []error{removeFirewall(ctx)}
	for _, node := range nodes {
		errs = append(errs, deleteLink("bh-"+node), namespace.Remove(layout.Netns(node)))
	}
	errs = append(errs, deleteLink(layout.Bridge))
	// Only if it is empty, then we or a tool like us made it.
	if err := os.Remove(layout.NetnsDir); err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.ENOTEMPTY) && !errors.Is(err, unix.EBUSY) {
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// Left names what is there of the network.
func Left(ctx context.Context, nodes []string) []string {
	var left []string
	if firewallLeft(ctx) {
		left = append(left, "nftables table "+layout.FirewallTable)
	}
	links := []string{layout.Bridge}
	for _, node := range nodes {
		links = append(links, "bh-"+node)
		if _, err := os.Lstat(layout.Netns(node)); err == nil {
			left = append(left, "network namespace "+layout.Netns(node))
		}
	}
	for _, name := range links {
		if _, err := netlink.LinkByName(name); err == nil {
			left = append(left, "interface "+name)
		}
	}
	return left
}

func deleteLink(name string) error {
	link, err := netlink.LinkByName(name)
	if notFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := netlink.LinkDel(link); err != nil {
		return fmt.Errorf("deleting interface %s: %w", name, err)
	}
	return nil
}

func notFound(err error) bool {
	var missing netlink.LinkNotFoundError
	return errors.As(err, &missing)
}

func address(p netip.Prefix) *netlink.Addr {
	return &netlink.Addr{IPNet: &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), 32)}}
}

func route(link netlink.Link, dst netip.Prefix, via netip.Addr) *netlink.Route {
	return &netlink.Route{
		LinkIndex: link.Attrs().Index,
		Dst:       &net.IPNet{IP: dst.Addr().AsSlice(), Mask: net.CIDRMask(dst.Bits(), 32)},
		Gw:        via.AsSlice(),
	}
}
