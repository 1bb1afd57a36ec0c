// Package conntrack ends UDP flows that go on to an endpoint that a service no
// longer has. The kernel picks an endpoint for the first packet of a flow only, and
// a UDP flow lasts as long as somebody sends, so that a client would send to
// nobody for ever. Connections of TCP and SCTP are left alone: they end with their
// endpoint.
package conntrack

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/bulkhead-dev/bulkhead/cri-ext/kernel/wire"
	"github.com/bulkhead-dev/bulkhead/internal/ruleset"
)

// Stale says which flows to end.
type Stale struct {
	// Services are those that the kernel holds now.
	Services *ruleset.Set
	// All has every flow looked at that goes to one of the services or into one of
	// their ranges, not only those noted.
	All  bool
	keys map[ruleset.Key]struct{}
}

// Note looks after the flows of a service that was changed; nil is one that is not
// there.
func (s *Stale) Note(before, after *ruleset.Service) {
	var old, now []netip.AddrPort
	var key ruleset.Key
	if before != nil {
		key, old = before.Key, before.Endpoints
	}
	if after != nil {
		key, now = after.Key, after.Endpoints
	}
	if key.Protocol != ruleset.UDP {
		return
	}
	lost := slices.ContainsFunc(old, func(e netip.AddrPort) bool { return !slices.Contains(now, e) })
	// Before there were endpoints, a flow may have got through untranslated.
	if lost || len(old) == 0 && len(now) > 0 {
		if s.keys == nil {
			s.keys = map[ruleset.Key]struct{}{}
		}
		s.keys[key] = struct{}{}
	}
}

// stale tells whether a flow to key, whose answers come from source, has to end.
func (s *Stale) stale(key ruleset.Key, source netip.AddrPort) bool {
	if key.Protocol != ruleset.UDP {
		return false
	}
	if _, noted := s.keys[key]; !noted && !s.All {
		return false
	}
	if service, found := s.Services.Find(key); found {
		return !slices.Contains(service.Endpoints, source)
	}
	if !s.All {
		return true
	}
	return slices.ContainsFunc(s.Services.Ranges(), func(p netip.Prefix) bool { return p.Contains(key.Addr) })
}

// MatchConntrackFlow is for the library that lists the flows.
func (s *Stale) MatchConntrackFlow(flow *netlink.ConntrackFlow) bool {
	destination, ok := addrPort(flow.Forward.DstIP, flow.Forward.DstPort)
	source, also := addrPort(flow.Reverse.SrcIP, flow.Reverse.SrcPort)
	key := ruleset.Key{Addr: destination.Addr(), Protocol: ruleset.Protocol(flow.Forward.Protocol), Port: destination.Port()}
	return ok && also && s.stale(key, source)
}

func addrPort(ip net.IP, port uint16) (netip.AddrPort, bool) {
	addr, ok := netip.AddrFromSlice(ip)
	return netip.AddrPortFrom(addr.Unmap(), port), ok
}

// Cut ends the flows in the namespace. socket is one of NETLINK_NETFILTER in it. A
// kernel that does not list its flows keeps them.
func (s *Stale) Cut(ctx context.Context, socket *wire.Socket, namespace int, v4 bool) error {
	if !s.All && len(s.keys) == 0 {
		return nil
	}
	flows, err := count(ctx, socket)
	switch {
	case errors.Is(err, unix.EINVAL), errors.Is(err, unix.EOPNOTSUPP):
		return nil // no such list in this kernel
	case err != nil:
		return fmt.Errorf("counting flows: %w", err)
	case flows == 0:
		return nil
	}
	handle, err := netlink.NewHandleAt(netns.NsHandle(namespace), unix.NETLINK_NETFILTER)
	if err != nil {
		return fmt.Errorf("opening the connection tracking: %w", err)
	}
	defer handle.Close()
	family := netlink.InetFamily(unix.AF_INET6)
	if v4 {
		family = unix.AF_INET
	}
	_, err = handle.ConntrackDeleteFilters(netlink.ConntrackTable, family, s)
	for try := 1; errors.Is(err, netlink.ErrDumpInterrupted) && try < 4 && ctx.Err() == nil; try++ {
		_, err = handle.ConntrackDeleteFilters(netlink.ConntrackTable, family, s)
	}
	if err != nil {
		return fmt.Errorf("ending UDP flows to endpoints that are gone: %w", err)
	}
	return nil
}

// The message and attribute that tell the number of flows in a namespace (uapi,
// nfnetlink_conntrack.h).
const (
	getStats      = 5
	globalEntries = 1
)

func count(ctx context.Context, socket *wire.Socket) (flows uint32, err error) {
	var b wire.Builder
	b.Begin(unix.NFNL_SUBSYS_CTNETLINK<<8|getStats, unix.NLM_F_ACK)
	b.Raw(0, 0, 0, 0)
	b.End()
	err = socket.Read(ctx, b.Bytes, func(_ uint16, data []byte) error {
		if len(data) >= 4 {
			if value := wire.Find(data[4:], globalEntries); len(value) == 4 {
				flows = binary.BigEndian.Uint32(value)
			}
		}
		return nil
	})
	return flows, err
}
