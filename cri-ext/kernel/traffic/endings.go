package traffic

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"syscall"

	"github.com/bulkhead-dev/bulkhead/internal/ruleset"
)

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
