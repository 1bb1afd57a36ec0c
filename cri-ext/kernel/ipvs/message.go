package ipvs

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/bulkhead-dev/bulkhead/cri-ext/kernel/wire"
	"github.com/bulkhead-dev/bulkhead/internal/ruleset"
)

// Commands and attributes of the generic netlink family "IPVS" (uapi, ip_vs.h).
const (
	cmdNewService = 1
	cmdSetService = 2
	cmdDelService = 3
	cmdGetService = 4
	cmdNewDest    = 5
	cmdSetDest    = 6
	cmdDelDest    = 7
	cmdGetDest    = 8

	attrService = 1
	attrDest    = 2

	svcFamily    = 1
	svcProtocol  = 2
	svcAddr      = 3
	svcPort      = 4
	svcScheduler = 6
	svcFlags     = 7
	svcTimeout   = 8
	svcNetmask   = 9

	destAddr     = 1
	destPort     = 2
	destForward  = 3
	destWeight   = 4
	destUpper    = 5
	destLower    = 6
	destActive   = 7
	destInactive = 8
	destFamily   = 11

	flagPersistent = 1
	forwardMasq    = 0
)

// scheduler is how an endpoint is picked: each in turn.
const scheduler = "rr"

// resolve asks for the number of the generic netlink family.
func resolve(ctx context.Context, socket *wire.Socket) (uint16, error) {
	var b wire.Builder
	b.Begin(unix.GENL_ID_CTRL, unix.NLM_F_ACK)
	b.Raw(unix.CTRL_CMD_GETFAMILY, 1, 0, 0)
	b.Text(unix.CTRL_ATTR_FAMILY_NAME, "IPVS")
	b.End()
	id := uint16(0)
	err := socket.Read(ctx, b.Bytes, func(_ uint16, data []byte) error {
		if len(data) >= 4 {
			if value := wire.Find(data[4:], unix.CTRL_ATTR_FAMILY_ID); len(value) == 2 {
				id = binary.NativeEndian.Uint16(value)
			}
		}
		return nil
	})
	if errors.Is(err, unix.ENOENT) || err == nil && id == 0 {
		return 0, errors.New("the kernel has no ip_vs")
	}
	if err != nil {
		return 0, fmt.Errorf("asking for ip_vs: %w", err)
	}
	return id, nil
}

// batch writes commands that are sent at once. They are carried out one by one.
type batch struct {
	wire.Builder
	family uint16
	// count is the number of commands.
	count int
}

func (b *batch) begin(command byte, flags uint16) {
	b.Begin(b.family, flags)
	b.Raw(command, 1, 0, 0)
	b.count++
}

func addrFamily(addr netip.Addr) uint16 {
	if addr.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

// identity writes what names a virtual service, within its attribute.
func (b *batch) identity(key ruleset.Key) {
	b.Native16(svcFamily, addrFamily(key.Addr))
	b.Native16(svcProtocol, uint16(key.Protocol))
	b.Attr(svcAddr, key.Addr.AsSlice())
	b.Big16(svcPort, key.Port)
}

// service adds or changes a virtual service. persistence is in seconds, 0 for none.
func (b *batch) service(command byte, key ruleset.Key, persistence uint32) {
	b.begin(command, 0)
	nest := b.Nest(attrService)
	b.identity(key)
	b.Text(svcScheduler, scheduler)
	flags := make([]byte, 8)
	if persistence > 0 {
		binary.NativeEndian.PutUint32(flags, flagPersistent)
	}
	binary.NativeEndian.PutUint32(flags[4:], ^uint32(0)) // all of the flags are meant
	b.Attr(svcFlags, flags)
	b.Native32(svcTimeout, persistence)
	if key.Addr.Is4() {
		b.Big32(svcNetmask, ^uint32(0))
	} else {
		b.Native32(svcNetmask, 128)
	}
	b.Close(nest)
	b.End()
}

func (b *batch) removeService(key ruleset.Key) {
	b.begin(cmdDelService, 0)
	nest := b.Nest(attrService)
	b.identity(key)
	b.Close(nest)
	b.End()
}

// dest adds or changes a real server.
func (b *batch) dest(command byte, key ruleset.Key, endpoint netip.AddrPort, weight uint32) {
	b.begin(command, 0)
	nest := b.Nest(attrService)
	b.identity(key)
	b.Close(nest)
	nest = b.Nest(attrDest)
	b.endpoint(endpoint)
	b.Native32(destForward, forwardMasq)
	b.Native32(destWeight, weight)
	b.Native32(destUpper, 0)
	b.Native32(destLower, 0)
	b.Close(nest)
	b.End()
}

func (b *batch) removeDest(key ruleset.Key, endpoint netip.AddrPort) {
	b.begin(cmdDelDest, 0)
	nest := b.Nest(attrService)
	b.identity(key)
	b.Close(nest)
	nest = b.Nest(attrDest)
	b.endpoint(endpoint)
	b.Close(nest)
	b.End()
}

func (b *batch) endpoint(endpoint netip.AddrPort) {
	b.Attr(destAddr, endpoint.Addr().AsSlice())
	b.Big16(destPort, endpoint.Port())
	b.Native16(destFamily, addrFamily(endpoint.Addr()))
}

// get asks for a virtual service, or with the flag of a list for its real servers.
func (b *batch) get(command byte, key ruleset.Key, flags uint16) {
	b.begin(command, flags)
	nest := b.Nest(attrService)
	b.identity(key)
	b.Close(nest)
	b.End()
}

// list asks for all virtual services.
func (b *batch) list() {
	b.begin(cmdGetService, unix.NLM_F_DUMP)
	b.End()
}

// parseKey reads what names a virtual service. One by firewall mark has no such name.
func parseKey(data []byte) (key ruleset.Key, ok bool) {
	if len(data) < 4 {
		return key, false
	}
	attributes := wire.Find(data[4:], attrService)
	family, protocol := wire.Find(attributes, svcFamily), wire.Find(attributes, svcProtocol)
	raw, port := wire.Find(attributes, svcAddr), wire.Find(attributes, svcPort)
	if len(family) != 2 || len(protocol) != 2 || len(port) != 2 {
		return key, false
	}
	size := 16
	if binary.NativeEndian.Uint16(family) == unix.AF_INET {
		size = 4
	}
	if len(raw) < size {
		return key, false
	}
	addr, _ := netip.AddrFromSlice(raw[:size])
	number := binary.NativeEndian.Uint16(protocol)
	return ruleset.Key{Addr: addr, Protocol: ruleset.Protocol(number), Port: binary.BigEndian.Uint16(port)}, number <= 0xff
}

// parseService reads the persistence of a virtual service in seconds, 0 for none.
func parseService(data []byte) (persistence uint32, ok bool) {
	if len(data) < 4 {
		return 0, false
	}
	attributes := wire.Find(data[4:], attrService)
	flags, timeout := wire.Find(attributes, svcFlags), wire.Find(attributes, svcTimeout)
	if len(flags) < 4 || len(timeout) != 4 {
		return 0, false
	}
	if binary.NativeEndian.Uint32(flags)&flagPersistent == 0 {
		return 0, true
	}
	return binary.NativeEndian.Uint32(timeout), true
}

// parseDest reads a real server of a virtual service of the key's family.
func parseDest(data []byte, key ruleset.Key) (endpoint netip.AddrPort, s server, ok bool) {
	if len(data) < 4 {
		return endpoint, s, false
	}
	attributes := wire.Find(data[4:], attrDest)
	raw, port := wire.Find(attributes, destAddr), wire.Find(attributes, destPort)
	weight, active, inactive := wire.Find(attributes, destWeight), wire.Find(attributes, destActive), wire.Find(attributes, destInactive)
	size := key.Addr.BitLen() / 8
	if len(raw) < size || len(port) != 2 || len(weight) != 4 || len(active) != 4 || len(inactive) != 4 {
		return endpoint, s, false
	}
	addr, _ := netip.AddrFromSlice(raw[:size])
	s.weight = binary.NativeEndian.Uint32(weight)
	s.connections = binary.NativeEndian.Uint32(active) + binary.NativeEndian.Uint32(inactive)
	return netip.AddrPortFrom(addr, binary.BigEndian.Uint16(port)), s, true
}
