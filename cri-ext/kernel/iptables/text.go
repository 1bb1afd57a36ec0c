package iptables

import (
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"k8s.io/apimachinery/pkg/types"

	"github.com/bulkhead-dev/bulkhead/cri-ext/kernel/affinity"
	"github.com/bulkhead-dev/bulkhead/cri-ext/kernel/held"
	"github.com/bulkhead-dev/bulkhead/internal/ruleset"
)

// layout is the version of the rules' form.
const layout = 1

// affinityComment comes before the seconds in the comment of a frontend's rules.
const affinityComment = "affinity="

func (f *family) sample(protocol ruleset.Protocol) ruleset.Service {
	addr, endpoint := "192.0.2.1", "192.0.2.2:1"
	if !f.v4 {
		addr, endpoint = "2001:db8::1", "[2001:db8::2]:1"
	}
	return ruleset.Service{Key: ruleset.Key{Addr: netip.MustParseAddr(addr), Protocol: protocol, Port: 1},
		Endpoints: []netip.AddrPort{netip.MustParseAddrPort(endpoint)}}
}

func name(p ruleset.Protocol) string { return strings.ToLower(p.String()) }

// render writes the tables for iptables-restore. The state is in a comment of a rule
// that does nothing; the tenant's UID in hexadecimal digits, so that it is no more
// than a word, whatever it is.
func render(f *family, set *ruleset.Set, choices *affinity.Choices) string {
	services := held.Services(set.Services(), f.v4)
	var nat, filter strings.Builder
	fmt.Fprintf(&nat, "*nat\n:%s - [0:0]\n", chainServices)
	digest := set.Digest()
	fmt.Fprintf(&filter, "*filter\n:%s - [0:0]\n-A %s -m comment --comment \"%d %d %s %s\"\n", chainRefuse, chainRefuse,
		layout, set.Generation(), hex.EncodeToString(digest[:]), hex.EncodeToString([]byte(set.Tenant())))
	for i := range services {
		s := &services[i]
		match := fmt.Sprintf("-d %s -p %s -m %s --dport %d", netip.PrefixFrom(s.Addr, s.Addr.BitLen()), name(s.Protocol), name(s.Protocol), s.Port)
		if s.Affinity > 0 {
			match += fmt.Sprintf(" -m comment --comment \"%s%d\"", affinityComment, s.Affinity)
		}
		if len(s.Endpoints) == 0 {
			fmt.Fprintf(&filter, "-A %s %s -j REJECT --reject-with %s\n", chainRefuse, match, f.answer(s.Protocol))
		}
		for j, endpoint := range affinity.Order(s, choices.Choose(s)) {
			// Of those that are left, each gets its share; the last gets the rest.
			// With affinity all goes to the first, and the others are never reached.
			fmt.Fprintf(&nat, "-A %s %s", chainServices, match)
			if left := len(s.Endpoints) - j; left > 1 && s.Affinity == 0 {
				fmt.Fprintf(&nat, " -m statistic --mode random --probability %.10f", 1/float64(left))
			}
			fmt.Fprintf(&nat, " -j DNAT --to-destination %s\n", endpoint)
		}
	}
	for _, network := range held.Ranges(set.Ranges(), f.v4) {
		fmt.Fprintf(&filter, "-A %s -d %s -p tcp -j REJECT --reject-with %s\n", chainRefuse, network, f.answer(ruleset.TCP))
		fmt.Fprintf(&filter, "-A %s -d %s -j REJECT --reject-with %s\n", chainRefuse, network, f.reject)
	}
	return nat.String() + "COMMIT\n" + filter.String() + "COMMIT\n"
}

func (f *family) answer(p ruleset.Protocol) string {
	if p == ruleset.TCP {
		return "tcp-reset"
	}
	return f.reject
}

// content is what was read of a family's tables.
type content struct {
	part held.Part
	// whole tells that everything is there that belongs to it. Endpoints are in the
	// order of their rules.
	whole bool
}

// parse takes in what iptables-save prints of both tables.
func parse(text []byte, f *family) (*content, error) {
	c := &content{}
	found := map[ruleset.Key]*ruleset.Service{}
	seen, state, orphans := 0, false, false
	ranges := map[netip.Prefix]int{}
	for _, line := range strings.Split(string(text), "\n") {
		for _, jump := range jumps {
			if line == "-A "+jump[1]+" "+jump[2] {
				seen++
			}
		}
		rest, ours := strings.CutPrefix(line, "-A "+chainServices+" ")
		nat := ours
		if !ours {
			rest, ours = strings.CutPrefix(line, "-A "+chainRefuse+" ")
		}
		if !ours {
			continue
		}
		r, err := parseRule(rest)
		if err != nil {
			return nil, fmt.Errorf("rule %q: %w", line, err)
		}
		switch {
		case !nat && r.target == "" && !state:
			state = readState(&c.part, r.comment)
		case !nat && r.port == 0 && r.target == "REJECT":
			if r.destination.Addr().Is4() == f.v4 && r.destination == r.destination.Masked() {
				ranges[r.destination]++
			}
		default:
			key := ruleset.Key{Addr: r.destination.Addr(), Protocol: r.protocol, Port: r.port}
			if !r.destination.IsSingleIP() || key.Addr.Is4() != f.v4 || r.endpoint.IsValid() != nat {
				orphans = true
				continue
			}
			service := found[key]
			if service == nil {
				service = &ruleset.Service{Key: key, Affinity: r.affinity}
				found[key] = service
			}
			if r.endpoint.IsValid() {
				service.Endpoints = append(service.Endpoints, r.endpoint)
			}
		}
	}
	for _, service := range found {
		c.part.Services = append(c.part.Services, *service)
	}
	slices.SortFunc(c.part.Services, func(a, b ruleset.Service) int { return a.Compare(b.Key) })
	for network, count := range ranges {
		orphans = orphans || count != 2
		c.part.Ranges = append(c.part.Ranges, network)
	}
	slices.SortFunc(c.part.Ranges, func(a, b netip.Prefix) int {
		if order := a.Addr().Compare(b.Addr()); order != 0 {
			return order
		}
		return a.Bits() - b.Bits()
	})
	c.whole = state && seen == len(jumps) && !orphans
	return c, nil
}

// rule is what we need of one.
type rule struct {
	destination netip.Prefix
	protocol    ruleset.Protocol
	port        uint16
	comment     string
	affinity    uint32
	target      string
	endpoint    netip.AddrPort
}

// parseRule takes apart what follows the name of the chain.
func parseRule(text string) (rule, error) {
	var r rule
	words, err := split(text)
	if err != nil {
		return r, err
	}
	for i := 0; i+1 < len(words); i += 2 {
		value := words[i+1]
		switch words[i] {
		case "-d":
			if r.destination, err = netip.ParsePrefix(value); err != nil {
				addr, aerr := netip.ParseAddr(value)
				r.destination, err = netip.PrefixFrom(addr, addr.BitLen()), aerr
			}
		case "-p":
			r.protocol = map[string]ruleset.Protocol{"tcp": ruleset.TCP, "udp": ruleset.UDP, "sctp": ruleset.SCTP}[value]
		case "--dport":
			var port uint64
			port, err = strconv.ParseUint(value, 10, 16)
			r.port = uint16(port)
		case "--comment":
			r.comment = value
			if digits, ok := strings.CutPrefix(value, affinityComment); ok {
				var seconds uint64
				seconds, err = strconv.ParseUint(digits, 10, 32)
				r.affinity = uint32(seconds)
			}
		case "-j":
			r.target = value
		case "--to-destination":
			r.endpoint, err = netip.ParseAddrPort(value)
		}
		if err != nil {
			return r, err
		}
	}
	return r, nil
}

// split cuts a line into words. A word in double quotes may hold spaces, and a
// backslash before any of its characters.
func split(text string) ([]string, error) {
	var words []string
	var word strings.Builder
	quoted, some := false, false
	for i := 0; i < len(text); i++ {
		switch c := text[i]; {
		case c == '\\' && quoted && i+1 < len(text):
			i++
			word.WriteByte(text[i])
		case c == '"':
			quoted, some = !quoted, true
		case c == ' ' && !quoted:
			if some {
				words = append(words, word.String())
			}
			word.Reset()
			some = false
		default:
			word.WriteByte(c)
			some = true
		}
	}
	if quoted {
		return nil, errors.New("a quotation does not end")
	}
	if some {
		words = append(words, word.String())
	}
	return words, nil
}

func readState(part *held.Part, comment string) bool {
	fields := strings.Split(comment, " ")
	if len(fields) != 4 || fields[0] != strconv.Itoa(layout) {
		return false
	}
	generation, err := strconv.ParseUint(fields[1], 10, 64)
	digest, derr := hex.DecodeString(fields[2])
	tenant, terr := hex.DecodeString(fields[3])
	if err != nil || derr != nil || terr != nil || len(digest) != len(part.Digest) {
		return false
	}
	part.Generation, part.Digest, part.Tenant = generation, ruleset.Digest(digest), types.UID(tenant)
	return true
}

func sortEndpoints(services []ruleset.Service) {
	for i := range services {
		slices.SortFunc(services[i].Endpoints, netip.AddrPort.Compare)
	}
}

func equal[T comparable](a, b []T) bool { return slices.Equal(a, b) }
