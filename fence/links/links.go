// Package links tells a node's interfaces that lead to its own pods from those that
// lead outside, by the node's routes.
package links

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// uplinks are the kinds of interfaces that no pod is behind, whatever routes they
// have. "device" is what has no kind: hardware, and loopback.
var uplinks = []string{"device", "bond", "vlan", "team"}

// Outside lists, sorted, the interfaces that no local pod is behind: those that have
// a route to anything but the pods' networks. An interface without a route, as one
// that was made a moment ago, may be a pod's.
func Outside(handle *netlink.Handle, podNetworks []netip.Prefix) ([]string, error) {
	all, err := handle.LinkList()
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return nil, fmt.Errorf("listing interfaces: %w", err)
	}
	routed, err := routedOutside(handle, podNetworks)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, link := range all {
		if attrs := link.Attrs(); slices.Contains(uplinks, link.Type()) || routed[attrs.Index] {
			names = append(names, attrs.Name)
		}
	}
	slices.Sort(names)
	return names, nil
}

func routedOutside(handle *netlink.Handle, podNetworks []netip.Prefix) (map[int]bool, error) {
	everyTable := &netlink.Route{Table: unix.RT_TABLE_UNSPEC, Type: unix.RTN_UNICAST}
	routes, err := handle.RouteListFiltered(netlink.FAMILY_ALL, everyTable, netlink.RT_FILTER_TABLE|netlink.RT_FILTER_TYPE)
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return nil, fmt.Errorf("listing routes: %w", err)
	}
	routed := map[int]bool{}
	for _, route := range routes {
		if local(route.Dst, podNetworks) {
			continue
		}
		routed[route.LinkIndex] = true
		for _, hop := range route.MultiPath {
			routed[hop.LinkIndex] = true
		}
	}
	return routed, nil
}

// local tells a destination that says nothing about an interface: one of the local
// pods, or one that every interface has.
func local(destination *net.IPNet, podNetworks []netip.Prefix) bool {
	prefix, ok := prefixOf(destination)
	if !ok {
		return false
	}
	if prefix.Bits() > 0 && (prefix.Addr().IsLinkLocalUnicast() || prefix.Addr().IsMulticast()) {
		return true
	}
	return slices.ContainsFunc(podNetworks, func(network netip.Prefix) bool {
		return network.Bits() <= prefix.Bits() && network.Contains(prefix.Addr())
	})
}

func prefixOf(network *net.IPNet) (netip.Prefix, bool) {
	if network == nil { // the default route
		return netip.Prefix{}, false
	}
	address, ok := netip.AddrFromSlice(network.IP)
	bits, _ := network.Mask.Size()
	return netip.PrefixFrom(address, bits), ok
}

// Addresses are those of the node itself.
func Addresses(handle *netlink.Handle) (map[netip.Addr]bool, error) {
	list, err := handle.AddrList(nil, netlink.FAMILY_ALL)
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return nil, fmt.Errorf("listing addresses: %w", err)
	}
	addresses := map[netip.Addr]bool{}
	for _, entry := range list {
		if address, ok := netip.AddrFromSlice(entry.IP); ok {
			addresses[address.Unmap()] = true
		}
	}
	return addresses, nil
}

// Watch calls changed after each change of the interfaces or routes of a network
// namespace, nil for the caller's own, until the context ends. Changes that were lost
// are not noticed: the caller looks from time to time by itself.
func Watch(ctx context.Context, namespace *netns.NsHandle, changed func()) error {
	// Both end with this call, whichever fails.
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	links, routes := make(chan netlink.LinkUpdate, 64), make(chan netlink.RouteUpdate, 64)
	if err := netlink.LinkSubscribeWithOptions(links, ctx.Done(), netlink.LinkSubscribeOptions{Namespace: namespace}); err != nil {
		return fmt.Errorf("watching interfaces: %w", err)
	}
	if err := netlink.RouteSubscribeWithOptions(routes, ctx.Done(), netlink.RouteSubscribeOptions{Namespace: namespace}); err != nil {
		return fmt.Errorf("watching routes: %w", err)
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case _, open := <-links:
			if !open && ctx.Err() == nil {
				return errors.New("watching interfaces: the kernel's messages came too fast")
			}
		case _, open := <-routes:
			if !open && ctx.Err() == nil {
				return errors.New("watching routes: the kernel's messages came too fast")
			}
		}
		changed()
	}
}
