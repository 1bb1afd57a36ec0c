package traffic

import (
	"context"
	"fmt"
	"net/netip"

	"github.com/bulkhead-dev/bulkhead/internal/ruleset"
)

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
