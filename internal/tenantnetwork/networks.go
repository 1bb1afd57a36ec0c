// Package tenantnetwork says which addresses a tenant may reach and be reached from,
// for all who write NetworkPolicies: the syncer for tenants' pods, vc-manager for
// their control planes.
package tenantnetwork

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	networkingv1 "k8s.io/api/networking/v1"
)

// DefaultDenied are the networks that are denied unless the platform says otherwise:
// private ones (RFC 1918, RFC 6598, RFC 4193), where the platform, its nodes and all
// pods are, and link-local ones, where clouds have their metadata.
const DefaultDenied = "10.0.0.0/8,172.16.0.0/12,192.168.0.0/16,100.64.0.0/10,169.254.0.0/16,fc00::/7,fe80::/10"

// Networks are the platform's settings.
type Networks struct {
	// Denied networks are not reached by tenants, except for Allowed ones and for the
	// tenant's own pods.
	Denied []netip.Prefix
	// Allowed networks are parts of denied ones that are reached after all.
	Allowed []netip.Prefix
	// Pods are the networks of all the super cluster's pods: what comes from there and
	// is not the tenant's own is another tenant, or the platform. Without them
	// everything denied is taken for it.
	Pods []netip.Prefix
	// Resolvers are DNS servers that all pods may ask, wherever they are.
	Resolvers []netip.Addr
}

// ParseNetworks reads a list of networks, separated by commas.
func ParseNetworks(text string) ([]netip.Prefix, error) {
	var networks []netip.Prefix
	for _, part := range fields(text) {
		network, err := netip.ParsePrefix(part)
		if err != nil {
			return nil, fmt.Errorf("%q is no network: write it like 10.0.0.0/8", part)
		}
		if network != network.Masked() || network.Addr().Is4In6() {
			return nil, fmt.Errorf("%q is an address inside a network: write %s", part, network.Masked())
		}
		networks = append(networks, network)
	}
	return networks, nil
}

// ParseAddresses reads a list of addresses, separated by commas.
func ParseAddresses(text string) ([]netip.Addr, error) {
	var addresses []netip.Addr
	for _, part := range fields(text) {
		address, err := netip.ParseAddr(part)
		if err != nil || address.Zone() != "" {
			return nil, fmt.Errorf("%q is no address: write it like 192.0.2.53", part)
		}
		addresses = append(addresses, address.Unmap())
	}
	return addresses, nil
}

func fields(text string) []string {
	return strings.FieldsFunc(text, func(r rune) bool { return r == ',' || r == ' ' })
}

// everything is all addresses there are.
var everything = []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0")}

// Outward are the peers outside of the super cluster that a tenant may reach.
func (n Networks) Outward() []networkingv1.NetworkPolicyPeer {
	return peers(everything, func(all netip.Prefix) []networkingv1.IPBlock { return less(all, nil, n.Denied, n.Allowed) })
}

// Inward are the peers outside of the pods' networks that may reach a tenant.
func (n Networks) Inward() []networkingv1.NetworkPolicyPeer {
	return peers(everything, func(all netip.Prefix) []networkingv1.IPBlock { return less(all, nil, n.others(), nil) })
}

// BlockOutward is what of a block a tenant may reach, which may be nothing.
func (n Networks) BlockOutward(network netip.Prefix, except []netip.Prefix) []networkingv1.NetworkPolicyPeer {
	return peers([]netip.Prefix{network}, func(all netip.Prefix) []networkingv1.IPBlock { return less(all, except, n.Denied, n.Allowed) })
}

// BlockInward is what of a block may reach a tenant, which may be nothing.
func (n Networks) BlockInward(network netip.Prefix, except []netip.Prefix) []networkingv1.NetworkPolicyPeer {
	return peers([]netip.Prefix{network}, func(all netip.Prefix) []networkingv1.IPBlock { return less(all, except, n.others(), nil) })
}

// NotPods are all addresses but the pods', where they are known.
func (n Networks) NotPods() []networkingv1.NetworkPolicyPeer {
	return peers(everything, func(all netip.Prefix) []networkingv1.IPBlock { return less(all, nil, n.Pods, nil) })
}

// Outside tells whether an address is outside of the super cluster, where tenants may
// reach it: neither in a network that is denied nor in one of pods.
func (n Networks) Outside(address netip.Addr) bool {
	in := func(networks []netip.Prefix) bool {
		return slices.ContainsFunc(networks, func(network netip.Prefix) bool { return network.Contains(address) })
	}
	return !in(n.Pods) && (!in(n.Denied) || in(n.Allowed))
}

// others are the networks in which other tenants are.
func (n Networks) others() []netip.Prefix {
	if len(n.Pods) == 0 {
		return n.Denied
	}
	return n.Pods
}

func peers(networks []netip.Prefix, blocks func(netip.Prefix) []networkingv1.IPBlock) []networkingv1.NetworkPolicyPeer {
	var out []networkingv1.NetworkPolicyPeer
	for _, network := range networks {
		for _, block := range blocks(network) {
			out = append(out, networkingv1.NetworkPolicyPeer{IPBlock: &block})
		}
	}
	return out
}

// less is a network without some of its parts and without what is denied, but for
// what is allowed.
func less(network netip.Prefix, except, denied, allowed []netip.Prefix) []networkingv1.IPBlock {
	var blocks []networkingv1.IPBlock
	if block, ok := without(network, slices.Concat(except, denied)); ok {
		blocks = append(blocks, block)
	}
	for _, part := range outermost(allowed) {
		both, overlap := intersection(network, part)
		if !overlap || !slices.ContainsFunc(denied, both.Overlaps) {
			continue // it is in the first block already, or none of it
		}
		if block, ok := without(both, except); ok {
			blocks = append(blocks, block)
		}
	}
	return blocks
}

// without is a network less others, as one block.
func without(network netip.Prefix, others []netip.Prefix) (networkingv1.IPBlock, bool) {
	block := networkingv1.IPBlock{CIDR: network.String()}
	for _, other := range outermost(others) {
		if contains(other, network) {
			return networkingv1.IPBlock{}, false
		}
		if contains(network, other) {
			block.Except = append(block.Except, other.String())
		}
	}
	return block, true
}

// outermost are the networks that are not parts of others, in a fixed order.
func outermost(networks []netip.Prefix) []netip.Prefix {
	sorted := slices.Clone(networks)
	slices.SortFunc(sorted, func(a, b netip.Prefix) int {
		if order := a.Addr().Compare(b.Addr()); order != 0 {
			return order
		}
		return a.Bits() - b.Bits()
	})
	var out []netip.Prefix
	for _, network := range sorted {
		if len(out) == 0 || !contains(out[len(out)-1], network) {
			out = append(out, network)
		}
	}
	return out
}

func contains(outer, inner netip.Prefix) bool {
	return outer.Bits() <= inner.Bits() && outer.Contains(inner.Addr())
}

func intersection(a, b netip.Prefix) (netip.Prefix, bool) {
	switch {
	case contains(a, b):
		return b, true
	case contains(b, a):
		return a, true
	}
	return netip.Prefix{}, false
}
