// Package connections ends open connections that the policies do not let through any
// more, by forgetting them: what comes of them afterwards is judged as if it were new.
package connections

import (
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"

	"github.com/bulkhead-dev/bulkhead/fence/table"
)

// Cut deletes, from the connection tracking of handle's network namespace, each
// connection that is not allowed, and returns how many that were. allowed gets what
// a packet from client to server looks like once all addresses are translated.
func Cut(handle *netlink.Handle, allowed func(table.Packet) bool) (int, error) {
	cut := 0
	for _, family := range []netlink.InetFamily{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		count, err := handle.ConntrackDeleteFilters(netlink.ConntrackTable, family, filter(allowed))
		cut += int(count)
		if err != nil {
			return cut, fmt.Errorf("deleting connections that are not allowed any more: %w", err)
		}
	}
	return cut, nil
}

// filter matches what is not allowed.
type filter func(table.Packet) bool

// MatchConntrackFlow implements netlink.CustomConntrackFilter.
func (allowed filter) MatchConntrackFlow(flow *netlink.ConntrackFlow) bool {
	packet, ok := packetOf(flow)
	return ok && !allowed(packet)
}

// packetOf is a connection as its client's packets look behind all translation: the
// server is who answers.
func packetOf(flow *netlink.ConntrackFlow) (table.Packet, bool) {
	client, ok := addressOf(flow.Forward.SrcIP)
	server, also := addressOf(flow.Reverse.SrcIP)
	packet := table.Packet{Source: client, Destination: server, Protocol: flow.Forward.Protocol}
	if hasPorts(packet.Protocol) {
		packet.DestinationPort = flow.Reverse.SrcPort
	}
	return packet, ok && also
}

func addressOf(ip net.IP) (netip.Addr, bool) {
	address, ok := netip.AddrFromSlice(ip)
	return address.Unmap(), ok
}

// hasPorts: for the others the kernel has something else in their place.
func hasPorts(protocol uint8) bool {
	const tcp, udp, sctp = 6, 17, 132
	return protocol == tcp || protocol == udp || protocol == sctp
}
