package traffic

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"syscall"
	"time"

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

func reachesTCP(ctx context.Context, t *world) error {
	s, err := t.sandbox(ctx)
	if err != nil {
		return err
	}
	a, b := t.service(t.vip(0), ruleset.TCP, 80, 0, 1, 2), t.service(t.vip(0), ruleset.TCP, 443, 3)
	if err := s.replace(ctx, a, b, t.service(t.vip(1), ruleset.TCP, 80, 3)); err != nil {
		return err
	}
	if err := s.holds(ctx); err != nil {
		return err
	}
	if err := s.expectTCP(ctx, a); err != nil {
		return err
	}
	return s.expectTCP(ctx, b)
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

func reachesUDP(ctx context.Context, t *world) error {
	s, err := t.sandbox(ctx)
	if err != nil {
		return err
	}
	service := t.service(t.vip(0), ruleset.UDP, 53, 0, 1, 2)
	if err := s.replace(ctx, service, t.service(t.vip(0), ruleset.TCP, 53, 3)); err != nil {
		return err
	}
	if err := s.holds(ctx); err != nil {
		return err
	}
	return expectAll(service, func() (netip.AddrPort, error) { return s.whoUDP(ctx, service.Key) })
}

func reachesSCTP(ctx context.Context, t *world) error {
	if t.options.NoSCTP {
		return errNotMeant
	}
	s, err := t.sandbox(ctx)
	if err != nil {
		return err
	}
	service := t.service(t.vip(0), ruleset.SCTP, 3868, 1)
	if err := s.replace(ctx, service, t.service(t.vip(0), ruleset.TCP, 3868, 0)); err != nil {
		return err
	}
	if err := s.holds(ctx); err != nil {
		return err
	}
	tag, err := s.associate(ctx, s.addr, netip.AddrPortFrom(service.Addr, service.Port), 40001)
	if err != nil {
		return err
	}
	if tag != 2 {
		return fmt.Errorf("backend %d answered, not 1", int(tag)-1)
	}
	return nil
}

func hairpin(ctx context.Context, t *world) error {
	s, err := t.sandbox(ctx)
	if err != nil {
		return err
	}
	self, err := serve(s.namespace, netip.AddrPortFrom(s.addr, 9090))
	if err != nil {
		return err
	}
	defer self.close()
	service := t.service(t.vip(0), ruleset.TCP, 80, 0)
	service.Endpoints = append(service.Endpoints, self.at)
	alone := ruleset.Service{Key: ruleset.Key{Addr: t.vip(1), Protocol: ruleset.UDP, Port: 80}, Endpoints: []netip.AddrPort{self.at}}
	if err := s.replace(ctx, service, alone); err != nil {
		return err
	}
	if err := s.expectTCP(ctx, service); err != nil {
		return err
	}
	peer, err := s.whoUDP(ctx, alone.Key)
	if err == nil && peer != self.at {
		err = fmt.Errorf("%s answered", peer)
	}
	return err
}

// refused tells whether an error is a refusal: by a reset, an unreachable port, or
// a route that says that there is nobody. A datagram that the kernel does not let
// out also is EPERM to its sender.
func refused(err error) bool {
	return errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, syscall.EHOSTUNREACH) || errors.Is(err, syscall.EPERM)
}

func (s *sandbox) expectRefusal(ctx context.Context, key ruleset.Key) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	var err error
	if key.Protocol == ruleset.UDP {
		_, err = s.whoUDP(ctx, key)
	} else {
		_, err = s.who(ctx, key)
	}
	if !refused(err) {
		return wrong(err, "%s was not refused", key)
	}
	return nil
}

func refusesWithoutEndpoints(ctx context.Context, t *world) error {
	s, err := t.sandbox(ctx)
	if err != nil {
		return err
	}
	tcp, udp := t.service(t.vip(0), ruleset.TCP, 80), t.service(t.vip(0), ruleset.UDP, 80)
	outside := t.service(t.node(), ruleset.TCP, 30080)
	other := t.service(t.vip(1), ruleset.TCP, 80, 0)
	if err := s.replace(ctx, tcp, udp, outside, other); err != nil {
		return err
	}
	if err := s.holds(ctx); err != nil {
		return err
	}
	for _, service := range []ruleset.Service{tcp, udp, outside} {
		if err := s.expectRefusal(ctx, service.Key); err != nil {
			return err
		}
	}
	// And from there to endpoints, and back.
	tcp = t.service(t.vip(0), ruleset.TCP, 80, 1)
	if err := s.apply(ctx, tcp, udp, outside, other); err != nil {
		return err
	}
	if err := s.expectTCP(ctx, tcp); err != nil {
		return err
	}
	if err := s.apply(ctx, t.service(t.vip(0), ruleset.TCP, 80), udp, outside, other); err != nil {
		return err
	}
	return s.expectRefusal(ctx, tcp.Key)
}

func refusesUnknownAddress(ctx context.Context, t *world) error {
	s, err := t.sandbox(ctx)
	if err != nil {
		return err
	}
	// The sandbox listens everywhere, which must not make it answer for others.
	self, err := serve(s.namespace, netip.AddrPortFrom(t.anywhere(), 80))
	if err != nil {
		return err
	}
	defer self.close()
	known := t.service(t.vip(0), ruleset.TCP, 80, 0)
	if err := s.replace(ctx, known); err != nil {
		return err
	}
	for _, protocol := range []ruleset.Protocol{ruleset.TCP, ruleset.UDP} {
		for _, port := range []uint16{80, 81} {
			if err := s.expectRefusal(ctx, ruleset.Key{Addr: t.vip(5), Protocol: protocol, Port: port}); err != nil {
				return err
			}
		}
		// Nor does an address with a service have other ports.
		if err := s.expectRefusal(ctx, ruleset.Key{Addr: t.vip(0), Protocol: protocol, Port: 81}); err != nil {
			return err
		}
	}
	return s.expectTCP(ctx, known)
}

func (n *network) anywhere() netip.Addr {
	if n.v4 {
		return netip.IPv4Unspecified()
	}
	return netip.IPv6Unspecified()
}

func outsideRanges(ctx context.Context, t *world) error {
	s, err := t.sandbox(ctx)
	if err != nil {
		return err
	}
	// The node has a server of its own beside the tenant's port.
	if err := t.outside.address("lo", single(t.node())); err != nil {
		return err
	}
	own, err := serve(t.outside, netip.AddrPortFrom(t.node(), 22022))
	if err != nil {
		return err
	}
	defer own.close()
	tcp, udp := t.service(t.node(), ruleset.TCP, 30080, 0, 1), t.service(t.node(), ruleset.UDP, 30080, 2)
	if err := s.replace(ctx, tcp, udp); err != nil {
		return err
	}
	if err := s.expectTCP(ctx, tcp); err != nil {
		return err
	}
	if peer, err := s.whoUDP(ctx, udp.Key); err != nil || peer != udp.Endpoints[0] {
		return wrong(err, "%s answered for %s", peer, udp.Key)
	}
	untouched := ruleset.Key{Addr: t.node(), Protocol: ruleset.TCP, Port: 22022}
	if peer, err := s.who(ctx, untouched); err != nil || peer != own.at {
		return wrong(err, "%s answered for %s, which no service has", peer, untouched)
	}
	untouched.Protocol = ruleset.UDP
	if peer, err := s.whoUDP(ctx, untouched); err != nil || peer != own.at {
		return wrong(err, "%s answered for %s, which no service has", peer, untouched)
	}
	// With the service gone, the address is what it was.
	if err := s.apply(ctx, udp); err != nil {
		return err
	}
	untouched.Protocol = ruleset.TCP
	if peer, err := s.who(ctx, untouched); err != nil || peer != own.at {
		return wrong(err, "%s answered for %s after the service was gone", peer, untouched)
	}
	if peer, err := s.who(ctx, tcp.Key); err == nil {
		return fmt.Errorf("%s answered for %s, whose service is gone", peer, tcp.Key)
	}
	return nil
}

func affinity(ctx context.Context, t *world) error {
	s, err := t.sandbox(ctx)
	if err != nil {
		return err
	}
	with := func(servers ...int) ruleset.Service {
		service := t.service(t.vip(0), ruleset.TCP, 80, servers...)
		service.Affinity = 600
		return service
	}
	stays := func(want netip.AddrPort) (netip.AddrPort, error) {
		for range 20 {
			peer, err := s.who(ctx, with().Key)
			if err != nil {
				return peer, err
			}
			if want.IsValid() && peer != want {
				return peer, fmt.Errorf("went to %s and then to %s", want, peer)
			}
			want = peer
		}
		return want, nil
	}
	if err := s.replace(ctx, with(0, 1, 2)); err != nil {
		return err
	}
	if err := s.holds(ctx); err != nil {
		return err
	}
	first, err := stays(netip.AddrPort{})
	if err != nil {
		return err
	}
	if err := s.apply(ctx, with(0, 1, 2, 3)); err != nil {
		return err
	}
	if _, err := stays(first); err != nil {
		return fmt.Errorf("with one endpoint more: %w", err)
	}
	if err := s.replace(ctx, with(0, 1, 2, 3)); err != nil {
		return err
	}
	if _, err := stays(first); err != nil {
		return fmt.Errorf("after a whole set: %w", err)
	}
	var rest []int
	for i := range backends {
		if t.backend(i) != first {
			rest = append(rest, i)
		}
	}
	if err := s.apply(ctx, with(rest...)); err != nil {
		return err
	}
	second, err := stays(netip.AddrPort{})
	if err != nil {
		return fmt.Errorf("with the endpoint gone: %w", err)
	}
	if second == first {
		return fmt.Errorf("%s is gone and was reached", first)
	}
	return s.holds(ctx)
}

func outlives(ctx context.Context, t *world) error {
	s, err := t.sandbox(ctx)
	if err != nil {
		return err
	}
	key := t.service(t.vip(0), ruleset.TCP, 80).Key
	if err := s.replace(ctx, t.service(key.Addr, key.Protocol, key.Port, 0)); err != nil {
		return err
	}
	c, err := s.dial(ctx, netip.AddrPortFrom(key.Addr, key.Port))
	if err != nil {
		return err
	}
	defer c.Close()
	for _, servers := range [][]int{{1}, {}, {2}} {
		service := t.service(key.Addr, key.Protocol, key.Port, servers...)
		if err := s.apply(ctx, service); err != nil {
			return err
		}
		if len(servers) > 0 {
			if err := s.expectTCP(ctx, service); err != nil {
				return err
			}
		} else if err := s.expectRefusal(ctx, key); err != nil {
			return err
		}
		if err := c.echo("still there"); err != nil {
			return wrong(err, "the open connection with endpoints %v", servers)
		}
	}
	return s.holds(ctx)
}

func cutsOver(ctx context.Context, t *world) error {
	s, err := t.sandbox(ctx)
	if err != nil {
		return err
	}
	key := t.service(t.vip(0), ruleset.UDP, 53).Key
	other := t.service(t.vip(1), ruleset.UDP, 53, 3)
	if err := s.replace(ctx, t.service(key.Addr, key.Protocol, key.Port, 0), other); err != nil {
		return err
	}
	f, err := s.flow(ctx, netip.AddrPortFrom(key.Addr, key.Port))
	if err != nil {
		return err
	}
	defer f.Close()
	step := func(want int, whole bool) error {
		service := t.service(key.Addr, key.Protocol, key.Port, want)
		change := s.apply
		if whole {
			change = s.replace
		}
		if err := change(ctx, service, other); err != nil {
			return err
		}
		peer, err := f.ask()
		if err == nil && peer != t.backend(want) {
			err = fmt.Errorf("the flow goes to %s, the endpoint is %s", peer, t.backend(want))
		}
		return err
	}
	if peer, err := f.ask(); err != nil || peer != t.backend(0) {
		return wrong(err, "%s answered first", peer)
	}
	if err := step(1, false); err != nil {
		return err
	}
	return step(2, true)
}

func fromBefore(ctx context.Context, t *world) error {
	s, err := t.sandbox(ctx)
	if err != nil {
		return err
	}
	if err := s.replace(ctx); err != nil {
		return err
	}
	service := t.service(t.node(), ruleset.UDP, 30053, 1)
	f, err := s.flow(ctx, netip.AddrPortFrom(service.Addr, service.Port))
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := f.Write([]byte("is anybody there")); err != nil {
		return err
	}
	if err := s.apply(ctx, service); err != nil {
		return err
	}
	// The first answer may be a refusal that the first datagram brought about.
	peer, err := f.ask()
	for errors.Is(err, syscall.ECONNREFUSED) && ctx.Err() == nil {
		peer, err = f.ask()
	}
	if err == nil && peer != service.Endpoints[0] {
		err = fmt.Errorf("%s answered", peer)
	}
	return err
}

func rolls(ctx context.Context, t *world) error {
	s, err := t.sandbox(ctx)
	if err != nil {
		return err
	}
	service := ruleset.Service{Key: ruleset.Key{Addr: t.vip(0), Protocol: ruleset.TCP, Port: 80}}
	var running []*backend
	defer func() {
		for _, b := range running {
			b.close()
		}
	}()
	start := func(i int) error {
		b, err := serve(t.outside, netip.AddrPortFrom(t.backend(i%backends).Addr(), uint16(20000+i)))
		if err == nil {
			running = append(running, b)
		}
		return err
	}
	endpoints := func() ruleset.Service {
		next := service
		next.Endpoints = nil
		for _, b := range running {
			next.Endpoints = append(next.Endpoints, b.at)
		}
		return next
	}
	for i := range 3 {
		if err := start(i); err != nil {
			return err
		}
	}
	if err := s.replace(ctx, endpoints()); err != nil {
		return err
	}
	const clients = 4
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type report struct {
		client int
		err    error
	}
	reports := make(chan report)
	for i := range clients {
		go func() {
			for ctx.Err() == nil {
				_, err := s.who(ctx, service.Key)
				select {
				case reports <- report{i, err}:
				case <-ctx.Done():
				}
			}
		}()
	}
	// round waits until each client has made requests that began after now.
	round := func() error {
		done := [clients]int{}
		for missing := clients; missing > 0; {
			select {
			case r := <-reports:
				if r.err != nil {
					return fmt.Errorf("a request was lost: %w", r.err)
				}
				// The first may have begun before.
				if done[r.client]++; done[r.client] == 2 {
					missing--
				}
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		return nil
	}
	for i := 3; i < 15; i++ {
		if err := start(i); err != nil {
			return err
		}
		old := running[0]
		running = running[1:]
		if err := s.apply(ctx, endpoints()); err != nil {
			return err
		}
		err := round()
		before := old.accepted.Load()
		if err == nil {
			err = round()
		}
		if err == nil && old.accepted.Load() != before {
			err = fmt.Errorf("%s got a connection after it was removed", old.at)
		}
		old.close()
		if err != nil {
			return err
		}
	}
	return nil
}

func outsideIsNot(ctx context.Context, t *world) error {
	s, err := t.sandbox(ctx)
	if err != nil {
		return err
	}
	service := t.service(t.vip(0), ruleset.TCP, 80, 0)
	service.Endpoints = append(service.Endpoints, netip.AddrPortFrom(s.addr, 9090))
	node := t.service(t.node(), ruleset.TCP, 30080, 0)
	if err := s.replace(ctx, service, node); err != nil {
		return err
	}
	// The sandbox itself listens at the service's port and the endpoint's.
	for _, port := range []uint16{80, 9090} {
		self, err := serve(s.namespace, netip.AddrPortFrom(t.anywhere(), port))
		if err != nil {
			return err
		}
		defer self.close()
	}
	forwarding := "net/ipv6/conf/all/forwarding"
	if t.v4 {
		forwarding = "net/ipv4/ip_forward"
	}
	if err := s.sysctl(forwarding, "1"); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	for _, key := range []ruleset.Key{service.Key, node.Key} {
		if err := t.outside.route(single(key.Addr), s.addr); err != nil {
			return err
		}
		before := t.servers[0].accepted.Load()
		short, cancel := context.WithTimeout(ctx, 500*time.Millisecond)
		c, err := t.outside.dial(short, netip.AddrPortFrom(key.Addr, key.Port))
		cancel()
		if err == nil {
			c.Close()
			return fmt.Errorf("%s was reached through the sandbox: %s answered", key, c.peer)
		}
		if t.servers[0].accepted.Load() != before {
			return fmt.Errorf("a connection to %s through the sandbox got to %s", key, t.servers[0].at)
		}
	}
	return nil
}

func twoSandboxes(ctx context.Context, t *world) error {
	a, err := t.sandbox(ctx)
	if err != nil {
		return err
	}
	b, err := t.sandbox(ctx)
	if err != nil {
		return err
	}
	ours, theirs := t.service(t.vip(0), ruleset.TCP, 80, 0, 1), t.service(t.vip(0), ruleset.TCP, 80, 2, 3)
	if err := errors.Join(a.replace(ctx, ours), b.replace(ctx, theirs)); err != nil {
		return err
	}
	if err := errors.Join(a.expectTCP(ctx, ours), b.expectTCP(ctx, theirs)); err != nil {
		return err
	}
	if err := a.apply(ctx, t.service(t.vip(0), ruleset.TCP, 80)); err != nil {
		return err
	}
	return errors.Join(a.expectRefusal(ctx, ours.Key), b.expectTCP(ctx, theirs), b.holds(ctx))
}

func repairs(ctx context.Context, t *world) error {
	if t.options.Flush == nil {
		return errNotMeant
	}
	s, err := t.sandbox(ctx)
	if err != nil {
		return err
	}
	service := t.service(t.vip(0), ruleset.TCP, 80, 0, 1)
	if err := s.replace(ctx, service, t.service(t.vip(1), ruleset.UDP, 53, 2), t.service(t.vip(2), ruleset.TCP, 80)); err != nil {
		return err
	}
	if n, err := s.Repair(ctx); err != nil || n != 0 {
		return wrong(err, "%d services were repaired that nobody had touched", n)
	}
	if err := s.inside(t.options.Flush); err != nil {
		return fmt.Errorf("flushing behind the engine's back: %w", err)
	}
	if n, err := s.Repair(ctx); err != nil || n != 3 {
		return wrong(err, "%d services were repaired, not 3", n)
	}
	if err := errors.Join(s.holds(ctx), s.expectTCP(ctx, service), s.expectRefusal(ctx, ruleset.Key{Addr: t.vip(2), Protocol: ruleset.TCP, Port: 80})); err != nil {
		return err
	}
	if n, err := s.Repair(ctx); err != nil || n != 0 {
		return wrong(err, "%d services were repaired again", n)
	}
	// A delta on top of what is gone fails, or is whole.
	if err := s.inside(t.options.Flush); err != nil {
		return err
	}
	changed := t.service(t.vip(0), ruleset.TCP, 80, 3)
	if err := s.apply(ctx, changed); err != nil {
		if generation, _ := s.Held(); generation != 0 {
			return fmt.Errorf("after a delta that failed, generation %d is held", generation)
		}
		if err := s.replace(ctx, changed); err != nil {
			return err
		}
	}
	if _, err := s.Repair(ctx); err != nil {
		return err
	}
	return errors.Join(s.holds(ctx), s.expectTCP(ctx, changed))
}

func takesOver(ctx context.Context, t *world) error {
	s, err := t.sandbox(ctx)
	if err != nil {
		return err
	}
	sticky := t.service(t.vip(1), ruleset.TCP, 80, 0, 1, 2, 3)
	sticky.Affinity = 60
	service := t.service(t.vip(0), ruleset.TCP, 80, 0, 1)
	if err := s.replace(ctx, service, sticky, t.service(t.vip(2), ruleset.UDP, 80)); err != nil {
		return err
	}
	peer, err := s.who(ctx, sticky.Key)
	if err != nil {
		return err
	}
	c, err := s.dial(ctx, netip.AddrPortFrom(service.Addr, service.Port))
	if err != nil {
		return err
	}
	defer c.Close()
	if err := s.Close(); err != nil {
		return err
	}
	if s.Kernel, err = s.open(ctx); err != nil {
		return err
	}
	if err := s.holds(ctx); err != nil {
		return err
	}
	generation, digest := s.Held()
	changed := t.service(t.vip(0), ruleset.TCP, 80, 2)
	if t.options.Stores {
		if generation != s.set.Generation() || digest != s.set.Digest() {
			return fmt.Errorf("generation %d, digest %s were found, not %d, %s", generation, digest, s.set.Generation(), s.set.Digest())
		}
		if n, err := s.Repair(ctx); err != nil || n != 0 {
			return wrong(err, "%d services were repaired", n)
		}
		err = s.apply(ctx, changed, sticky)
	} else {
		err = s.replace(ctx, changed, sticky)
	}
	if err != nil {
		return err
	}
	if again, err := s.who(ctx, sticky.Key); err != nil || again != peer {
		return wrong(err, "affinity moved from %s to %s", peer, again)
	}
	return errors.Join(s.holds(ctx), s.expectTCP(ctx, changed), c.echo("still there"))
}

func many(ctx context.Context, t *world) error {
	s, err := t.sandbox(ctx)
	if err != nil {
		return err
	}
	services := make([]ruleset.Service, t.options.Services)
	vip := t.vip(0)
	for i := range services {
		services[i] = t.service(vip, ruleset.TCP, 80, i%backends, (i+1)%backends)
		vip = vip.Next()
	}
	if err := s.replace(ctx, services...); err != nil {
		return err
	}
	if err := s.holds(ctx); err != nil {
		return err
	}
	last := services[len(services)-1]
	for _, service := range []ruleset.Service{services[0], services[len(services)/2], last} {
		if err := s.expectTCP(ctx, service); err != nil {
			return err
		}
	}
	more := append(append([]ruleset.Service(nil), services...), t.service(vip, ruleset.TCP, 80, 2))
	if err := s.apply(ctx, more...); err != nil {
		return err
	}
	return errors.Join(s.expectTCP(ctx, more[len(more)-1]), s.expectRefusal(ctx, ruleset.Key{Addr: vip.Next(), Protocol: ruleset.TCP, Port: 80}), s.holds(ctx))
}

func wholeKeeps(ctx context.Context, t *world) error {
	s, err := t.sandbox(ctx)
	if err != nil {
		return err
	}
	service := t.service(t.vip(0), ruleset.TCP, 80, 0, 1)
	if err := s.replace(ctx, service); err != nil {
		return err
	}
	c, err := s.dial(ctx, netip.AddrPortFrom(service.Addr, service.Port))
	if err != nil {
		return err
	}
	defer c.Close()
	for range 3 {
		if err := s.replace(ctx, service, t.service(t.vip(1), ruleset.TCP, 80, 2)); err != nil {
			return err
		}
		if err := c.echo("still there"); err != nil {
			return err
		}
	}
	return nil
}

func removes(ctx context.Context, t *world) error {
	s, err := t.sandbox(ctx)
	if err != nil {
		return err
	}
	service := t.service(t.vip(0), ruleset.TCP, 80, 0)
	if err := s.replace(ctx, service, t.service(t.node(), ruleset.TCP, 30080, 0)); err != nil {
		return err
	}
	for range 2 { // removing nothing is fine
		if err := s.Remove(ctx); err != nil {
			return err
		}
	}
	services, err := s.Dump(ctx)
	if err != nil || len(services) > 0 {
		return wrong(err, "%d services are left", len(services))
	}
	if generation, _ := s.Held(); generation != 0 {
		return fmt.Errorf("generation %d is held", generation)
	}
	if err := s.replace(ctx, service); err != nil {
		return err
	}
	return s.expectTCP(ctx, service)
}

func refusesTenant(ctx context.Context, t *world) error {
	s, err := t.sandbox(ctx)
	if err != nil {
		return err
	}
	service := t.service(t.vip(0), ruleset.TCP, 80, 0)
	if err := s.replace(ctx, service); err != nil {
		return err
	}
	other, err := ruleset.New("other", 2, t.ranges(), []ruleset.Service{t.service(t.vip(0), ruleset.TCP, 80, 1)})
	if err != nil {
		return err
	}
	var mismatch *ruleset.MismatchError
	if err := s.Replace(ctx, other); !errors.As(err, &mismatch) {
		return wrong(err, "a set of another tenant was not refused as such")
	}
	return errors.Join(s.holds(ctx), s.expectTCP(ctx, service))
}

// wrong is an error about what should not be, with or without one from below.
func wrong(err error, format string, args ...any) error {
	text := fmt.Sprintf(format, args...)
	if err == nil {
		return errors.New(text)
	}
	return fmt.Errorf("%s: %w", text, err)
}
