package traffic

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	"github.com/bulkhead-dev/bulkhead/internal/ruleset"
)

var tests = []struct {
	name string
	run  func(ctx context.Context, t *world) error
}{
	{"tcp reaches all endpoints", reachesTCP},
	{"udp reaches all endpoints", reachesUDP},
	{"sctp reaches an endpoint", reachesSCTP},
	{"hairpin", hairpin},
	{"no endpoints is refused", refusesWithoutEndpoints},
	{"unknown address is refused", refusesUnknownAddress},
	{"outside the ranges", outsideRanges},
	{"affinity", affinity},
	{"connection outlives its endpoint", outlives},
	{"udp is cut over", cutsOver},
	{"udp flow from before the service", fromBefore},
	{"rolling replacement", rolls},
	{"nothing from outside is translated", outsideIsNot},
	{"two sandboxes with equal addresses", twoSandboxes},
	{"drift is repaired", repairs},
	{"a later process takes over", takesOver},
	{"many services", many},
	{"whole set keeps connections", wholeKeeps},
	{"removed rules leave nothing", removes},
	{"another tenant's set is refused", refusesTenant},
}

// tries is how many connections find each of up to four endpoints that are picked at
// random, but for one run in a billion.
const tries = 80

// expectTCP connects until every endpoint was reached, and nobody else.
func (s *sandbox) expectTCP(ctx context.Context, service ruleset.Service) error {
	return expectAll(service, func() (netip.AddrPort, error) { return s.who(ctx, service.Key) })
}

func expectAll(service ruleset.Service, ask func() (netip.AddrPort, error)) error {
	missing := map[netip.AddrPort]bool{}
	for _, endpoint := range service.Endpoints {
		missing[endpoint] = true
	}
	for range tries {
		peer, err := ask()
		if err != nil {
			return wrong(err, "asking %s", service.Key)
		}
		if _, ours := missing[peer]; !ours {
			return fmt.Errorf("%s led to %s, which is none of %v", service.Key, peer, service.Endpoints)
		}
		missing[peer] = false
	}
	for endpoint, not := range missing {
		if not {
			return fmt.Errorf("%d connections to %s never reached %s", tries, service.Key, endpoint)
		}
	}
	return nil
}

// who makes a connection of TCP, and tells who answered.
func (s *sandbox) who(ctx context.Context, key ruleset.Key) (netip.AddrPort, error) {
	c, err := s.dial(ctx, netip.AddrPortFrom(key.Addr, key.Port))
	if err != nil {
		return netip.AddrPort{}, err
	}
	defer c.Close()
	return c.peer, c.echo("hello")
}

// whoUDP sends a datagram from a new port, and tells who answered.
func (s *sandbox) whoUDP(ctx context.Context, key ruleset.Key) (netip.AddrPort, error) {
	f, err := s.flow(ctx, netip.AddrPortFrom(key.Addr, key.Port))
	if err != nil {
		return netip.AddrPort{}, err
	}
	defer f.Close()
	return f.ask()
}

// wrong is an error about what should not be, with or without one from below.
func wrong(err error, format string, args ...any) error {
	text := fmt.Sprintf(format, args...)
	if err == nil {
		return errors.New(text)
	}
	return fmt.Errorf("%s: %w", text, err)
}
