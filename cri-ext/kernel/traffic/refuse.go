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

// refused tells whether an error is a refusal: by a reset, an unreachable port, or
// a route that says that there is nobody. A datagram that the kernel does not let
// out also is EPERM to its sender.
func refused(err error) bool {
	return errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, syscall.EHOSTUNREACH) || errors.Is(err, syscall.EPERM)
}

func (s *sandbox) expectRefusal(ctx context.Context, key ruleset.Key) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
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
