package ipvs

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"github.com/bulkhead-dev/bulkhead/internal/ruleset"
)

// virtual is a virtual service in the kernel.
type virtual struct {
	// persistence is in seconds, 0 for none.
	persistence uint32
	servers     map[netip.AddrPort]server
}

// server is a real server of a virtual service.
type server struct {
	weight, connections uint32
}

// parseTable takes in /proc/net/ip_vs. Times in it are in the kernel's ticks, of
// which a second has so many; hz is asked when the first comes. Services by
// firewall mark are nobody's of ours, and left out.
func parseTable(text []byte, hz func(key ruleset.Key, ticks uint64) (uint64, error)) (map[ruleset.Key]*virtual, error) {
	table := map[ruleset.Key]*virtual{}
	var key ruleset.Key
	var current *virtual
	second := uint64(0)
	for number := 1; len(text) > 0; number++ {
		line := text
		if end := bytes.IndexByte(text, '\n'); end >= 0 {
			line, text = text[:end], text[end+1:]
		} else {
			text = nil
		}
		words := strings.Fields(string(line))
		if number <= 3 || len(words) == 0 { // the heading
			continue
		}
		if err := func() (err error) {
			if words[0] == "->" {
				if current == nil {
					return nil
				}
				endpoint, s, err := parseServer(words)
				if err == nil {
					current.servers[endpoint] = s
				}
				return err
			}
			protocol, known := protocols[words[0]]
			if current = nil; !known {
				return nil
			}
			if len(words) < 3 {
				return errors.New("a service without scheduler")
			}
			at, err := parseAddrPort(words[1])
			if err != nil {
				return err
			}
			key = ruleset.Key{Addr: at.Addr(), Protocol: protocol, Port: at.Port()}
			current = &virtual{servers: map[netip.AddrPort]server{}}
			for i, word := range words {
				if word != "persistent" || i+1 == len(words) {
					continue
				}
				ticks, err := strconv.ParseUint(words[i+1], 10, 63)
				if err != nil {
					return err
				}
				if second == 0 {
					if second, err = hz(key, ticks); err != nil {
						return err
					}
				}
				current.persistence = uint32(ticks / max(1, second))
			}
			table[key] = current
			return nil
		}(); err != nil {
			return nil, fmt.Errorf("line %d of the kernel's ip_vs table, %q: %w", number, line, err)
		}
	}
	return table, nil
}

var protocols = map[string]ruleset.Protocol{"TCP": ruleset.TCP, "UDP": ruleset.UDP, "SCTP": ruleset.SCTP}

// parseServer takes in a line such as
// "-> 0A4E0001:1F90 Masq 1 0 0": address, method, weight, active and inactive
// connections.
func parseServer(words []string) (netip.AddrPort, server, error) {
	if len(words) != 6 {
		return netip.AddrPort{}, server{}, fmt.Errorf("a server of %d words", len(words))
	}
	at, err := parseAddrPort(words[1])
	if err != nil {
		return at, server{}, err
	}
	var numbers [3]uint64
	for i := range numbers {
		if numbers[i], err = strconv.ParseUint(words[3+i], 10, 31); err != nil {
			return at, server{}, err
		}
	}
	return at, server{weight: uint32(numbers[0]), connections: uint32(numbers[1] + numbers[2])}, nil
}

// parseAddrPort reads "0A600001:0050", or an IPv6 address in brackets, and the port
// in hexadecimal digits.
func parseAddrPort(text string) (netip.AddrPort, error) {
	colon := strings.LastIndexByte(text, ':')
	if colon < 0 {
		return netip.AddrPort{}, fmt.Errorf("%q has no port", text)
	}
	port, err := strconv.ParseUint(text[colon+1:], 16, 16)
	if err != nil {
		return netip.AddrPort{}, err
	}
	host := text[:colon]
	if bracketed, ok := strings.CutPrefix(host, "["); ok {
		addr, err := netip.ParseAddr(strings.TrimSuffix(bracketed, "]"))
		if err == nil && (!addr.Is6() || addr.Is4In6() || addr.Zone() != "") {
			err = fmt.Errorf("%q is no IPv6 address", host)
		}
		return netip.AddrPortFrom(addr, uint16(port)), err
	}
	raw, err := hex.DecodeString(host)
	if err != nil || len(raw) != 4 {
		return netip.AddrPort{}, fmt.Errorf("%q is no IPv4 address", host)
	}
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte(raw)), uint16(port)), nil
}
