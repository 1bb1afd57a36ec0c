package traffic

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"net"
	"net/netip"
	"time"
)

// A kernel may translate SCTP and have no SCTP sockets. So both ends of an
// association's first exchange (RFC 9260, section 5.1) are made by hand on raw
// sockets: the client's INIT, and the INIT ACK in which the server says in its
// initiate tag which of the backends it is.

const (
	sctpInit    = 1
	sctpInitAck = 2
	// sctpBytes is the length of the common header and an INIT without parameters.
	sctpBytes = 12 + 20
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// sctpPacket writes one with an INIT or INIT ACK.
func sctpPacket(source, destination uint16, verification uint32, kind byte, tag uint32) []byte {
	packet := make([]byte, sctpBytes)
	binary.BigEndian.PutUint16(packet, source)
	binary.BigEndian.PutUint16(packet[2:], destination)
	binary.BigEndian.PutUint32(packet[4:], verification)
	packet[12] = kind
	binary.BigEndian.PutUint16(packet[14:], 20)
	binary.BigEndian.PutUint32(packet[16:], tag)
	binary.BigEndian.PutUint32(packet[20:], 65536) // receiver window
	binary.BigEndian.PutUint16(packet[24:], 1)     // streams out and in
	binary.BigEndian.PutUint16(packet[26:], 1)
	binary.BigEndian.PutUint32(packet[28:], 1) // transmission number
	binary.LittleEndian.PutUint32(packet[8:], crc32.Checksum(packet, castagnoli))
	return packet
}

// parseSCTP takes one apart. ok is false for what is no such packet, or damaged.
func parseSCTP(packet []byte) (source, destination uint16, kind byte, tag uint32, ok bool) {
	if len(packet) < sctpBytes {
		return 0, 0, 0, 0, false
	}
	sum := binary.LittleEndian.Uint32(packet[8:])
	whole := append([]byte(nil), packet...)
	copy(whole[8:12], []byte{0, 0, 0, 0})
	return binary.BigEndian.Uint16(packet), binary.BigEndian.Uint16(packet[2:]), packet[12],
		binary.BigEndian.Uint32(packet[16:]), crc32.Checksum(whole, castagnoli) == sum
}

func sctpNetwork(addr netip.Addr) string {
	if addr.Is4() {
		return "ip4:132"
	}
	return "ip6:132"
}

// serveSCTP answers at an address and port until the connection is closed.
func serveSCTP(n *namespace, at netip.AddrPort, tag uint32) (net.PacketConn, error) {
	var conn net.PacketConn
	err := n.inside(func() (err error) {
		conn, err = net.ListenPacket(sctpNetwork(at.Addr()), at.Addr().String())
		return err
	})
	if err != nil {
		return nil, err
	}
	go func() {
		var space [2048]byte
		for {
			length, from, err := conn.ReadFrom(space[:])
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if err != nil {
				continue
			}
			source, destination, kind, theirs, ok := parseSCTP(space[:length])
			if ok && kind == sctpInit && destination == at.Port() {
				_, _ = conn.WriteTo(sctpPacket(destination, source, theirs, sctpInitAck, tag), from)
			}
		}
	}()
	return conn, nil
}

// associate sends an INIT and returns the tag of who answers, which has to come
// from the address that it was sent to.
func (n *namespace) associate(ctx context.Context, local netip.Addr, to netip.AddrPort, port uint16) (uint32, error) {
	var conn net.PacketConn
	err := n.inside(func() (err error) {
		conn, err = net.ListenPacket(sctpNetwork(to.Addr()), local.String())
		return err
	})
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	if deadline, ok := ctx.Deadline(); ok {
		_ = conn.SetDeadline(deadline)
	}
	tag := uint32(time.Now().UnixNano()) | 1
	if _, err := conn.WriteTo(sctpPacket(port, to.Port(), 0, sctpInit, tag), &net.IPAddr{IP: to.Addr().AsSlice()}); err != nil {
		return 0, err
	}
	var space [2048]byte
	for {
		length, from, err := conn.ReadFrom(space[:])
		if err != nil {
			return 0, err
		}
		source, destination, kind, theirs, ok := parseSCTP(space[:length])
		if kind != sctpInitAck || destination != port {
			continue // another one's: a raw socket hears everything
		}
		if !ok {
			return 0, errors.New("the answer's checksum is wrong")
		}
		if addr, _ := netip.ParseAddr(from.String()); addr != to.Addr() || source != to.Port() {
			return 0, fmt.Errorf("the answer comes from %s port %d, not from %s", from, source, to)
		}
		return theirs, nil
	}
}
