package ipvs

import (
	"context"
	"encoding/binary"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/bulkhead-dev/bulkhead/cri-ext/kernel/wire"
	"github.com/bulkhead-dev/bulkhead/internal/ruleset"
)

// A packet to a frontend has to be routed somewhere before IPVS sees it, and with
// the pod's own address as its source. So each frontend's address is a local one,
// in tables that only packets of local origin are looked up in ("iif lo"): from
// outside it cannot be reached. Addresses of the ranges are in one table, with the
// rest of the ranges unreachable; for addresses outside the ranges the table is for
// the frontend's protocol and port alone, so that their other ports stay.
const (
	tableRanges  = 2839
	tablePorts   = 2840
	priorityPort = 98
	priorityAll  = 99
	// routeProtocol marks routes and rules as ours.
	routeProtocol = 98
)

// Attributes of FIB rules that package unix does not name (uapi, fib_rules.h).
const (
	fraDst       = 1
	fraIifname   = 3
	fraPriority  = 6
	fraTable     = 15
	fraProtocol  = 21
	fraIPProto   = 22
	fraDportR    = 24
	actionLookup = 1 // FR_ACT_TO_TBL
)

// route is one of our routes.
type route struct {
	table  uint32
	to     netip.Prefix
	local  bool // or unreachable
	source netip.Addr
}

// rule is one of our FIB rules. Without destination it is the one for all.
type rule struct {
	v4  bool
	key ruleset.Key
}

const loopback = 1 // the index of lo in every namespace

func appendRoute(b *wire.Builder, kind, flags uint16, r route) {
	b.Begin(kind, flags)
	family, routeType, scope := byte(addrFamily(r.to.Addr())), byte(unix.RTN_UNREACHABLE), byte(unix.RT_SCOPE_UNIVERSE)
	if r.local {
		routeType, scope = unix.RTN_LOCAL, unix.RT_SCOPE_HOST
	}
	b.Raw(family, byte(r.to.Bits()), 0, 0, unix.RT_TABLE_UNSPEC, routeProtocol, scope, routeType, 0, 0, 0, 0)
	b.Attr(unix.RTA_DST, r.to.Addr().AsSlice())
	b.Native32(unix.RTA_TABLE, r.table)
	if r.local || !r.to.Addr().Is4() {
		b.Native32(unix.RTA_OIF, loopback)
	}
	if r.source.IsValid() {
		b.Attr(unix.RTA_PREFSRC, r.source.AsSlice())
	}
	b.End()
}

func appendRule(b *wire.Builder, kind, flags uint16, r rule) {
	b.Begin(kind, flags)
	table, priority, family, bits := uint32(tableRanges), uint32(priorityAll), byte(unix.AF_INET6), 0
	if r.v4 {
		family = unix.AF_INET
	}
	if r.key.Port != 0 {
		table, priority, bits = tablePorts, priorityPort, r.key.Addr.BitLen()
	}
	b.Raw(family, byte(bits), 0, 0, unix.RT_TABLE_UNSPEC, 0, 0, actionLookup, 0, 0, 0, 0)
	b.Text(fraIifname, "lo")
	b.Native32(fraPriority, priority)
	b.Native32(fraTable, table)
	b.Attr(fraProtocol, []byte{routeProtocol})
	if r.key.Port != 0 {
		b.Attr(fraDst, r.key.Addr.AsSlice())
		b.Attr(fraIPProto, []byte{byte(r.key.Protocol)})
		ports := binary.NativeEndian.AppendUint16(nil, r.key.Port)
		b.Attr(fraDportR, binary.NativeEndian.AppendUint16(ports, r.key.Port))
	}
	b.End()
}

// parseRoute reads one of our routes. ok is false for others'.
func parseRoute(data []byte) (r route, ok bool) {
	if len(data) < unix.SizeofRtMsg || data[5] != routeProtocol {
		return r, false
	}
	attributes := data[unix.SizeofRtMsg:]
	table, raw := wire.Find(attributes, unix.RTA_TABLE), wire.Find(attributes, unix.RTA_DST)
	addr, valid := netip.AddrFromSlice(raw)
	if len(table) != 4 || !valid {
		return r, false
	}
	r.table, r.to, r.local = binary.NativeEndian.Uint32(table), netip.PrefixFrom(addr, int(data[1])), data[7] == unix.RTN_LOCAL
	r.source, _ = netip.AddrFromSlice(wire.Find(attributes, unix.RTA_PREFSRC))
	return r, r.to.IsValid() && (r.table == tableRanges || r.table == tablePorts)
}

// parseRule reads one of our rules. ok is false for others'.
func parseRule(data []byte) (r rule, ok bool) {
	if len(data) < unix.SizeofRtMsg {
		return r, false
	}
	attributes := data[unix.SizeofRtMsg:]
	r.v4 = data[0] == unix.AF_INET
	if protocol := wire.Find(attributes, fraProtocol); len(protocol) != 1 || protocol[0] != routeProtocol {
		return r, false
	}
	ports := wire.Find(attributes, fraDportR)
	if len(ports) != 4 {
		return r, true
	}
	addr, valid := netip.AddrFromSlice(wire.Find(attributes, fraDst))
	protocol := wire.Find(attributes, fraIPProto)
	if !valid || len(protocol) != 1 {
		return r, false
	}
	r.key = ruleset.Key{Addr: addr, Protocol: ruleset.Protocol(protocol[0]), Port: binary.NativeEndian.Uint16(ports)}
	return r, true
}

// paths are the routes and rules of one IP family.
type paths struct {
	routes map[route]bool
	rules  map[rule]bool
}

// wanted are the paths for the keys that IPVS is to see.
func wanted(v4 bool, keys []ruleset.Key, ranges []netip.Prefix, source netip.Addr) *paths {
	p := &paths{routes: map[route]bool{}, rules: map[rule]bool{{v4: v4}: true}}
	for _, network := range ranges {
		p.routes[route{table: tableRanges, to: network}] = true
	}
	for _, key := range keys {
		r := route{table: tableRanges, to: netip.PrefixFrom(key.Addr, key.Addr.BitLen()), local: true, source: source}
		if !within(ranges, key.Addr) {
			r.table = tablePorts
			p.rules[rule{v4: v4, key: key}] = true
		}
		p.routes[r] = true
	}
	return p
}

func within(ranges []netip.Prefix, addr netip.Addr) bool {
	for _, network := range ranges {
		if network.Contains(addr) {
			return true
		}
	}
	return false
}

// readPaths lists what there is of ours.
func readPaths(ctx context.Context, socket *wire.Socket, v4 bool) (*paths, error) {
	p := &paths{routes: map[route]bool{}, rules: map[rule]bool{}}
	family := byte(unix.AF_INET6)
	if v4 {
		family = unix.AF_INET
	}
	list := func(kind uint16, take func(data []byte)) error {
		for try := 1; ; try++ {
			var b wire.Builder
			b.Begin(kind, unix.NLM_F_DUMP)
			b.Raw(family, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)
			b.End()
			err := socket.Read(ctx, b.Bytes, func(_ uint16, data []byte) error { take(data); return nil })
			if err == nil || try == 4 || !isInterrupted(err) {
				return err
			}
		}
	}
	err := list(unix.RTM_GETROUTE, func(data []byte) {
		if r, ok := parseRoute(data); ok {
			p.routes[r] = true
		}
	})
	if err == nil {
		err = list(unix.RTM_GETRULE, func(data []byte) {
			if r, ok := parseRule(data); ok {
				p.rules[r] = true
			}
		})
	}
	if err != nil {
		return nil, fmt.Errorf("listing routes: %w", err)
	}
	return p, nil
}

// change makes the kernel have the wanted paths. New ones come before old ones go.
func (p *paths) change(ctx context.Context, socket *wire.Socket, want *paths) error {
	var b wire.Builder
	count := 0
	for r := range want.routes {
		if !p.routes[r] {
			appendRoute(&b, unix.RTM_NEWROUTE, unix.NLM_F_CREATE|unix.NLM_F_REPLACE, r)
			count++
		}
	}
	for r := range want.rules {
		if !p.rules[r] {
			appendRule(&b, unix.RTM_NEWRULE, unix.NLM_F_CREATE|unix.NLM_F_EXCL, r)
			count++
		}
	}
	for r := range p.rules {
		if !want.rules[r] {
			appendRule(&b, unix.RTM_DELRULE, 0, r)
			count++
		}
	}
	replaced := map[route]bool{}
	for r := range want.routes {
		replaced[route{table: r.table, to: r.to}] = true
	}
	for r := range p.routes {
		if !want.routes[r] && !replaced[route{table: r.table, to: r.to}] {
			appendRoute(&b, unix.RTM_DELROUTE, 0, r)
			count++
		}
	}
	if count == 0 {
		return nil
	}
	if err := finish(ctx, socket, &b); err != nil {
		return fmt.Errorf("changing %d routes: %w", count, err)
	}
	return nil
}

// finish sends messages. What is there already, or gone already, is fine.
func finish(ctx context.Context, socket *wire.Socket, b *wire.Builder) error {
	b.Acknowledge()
	return socket.Send(ctx, b.Bytes, b.Sequence(), unix.EEXIST, unix.ENOENT, unix.ESRCH)
}
