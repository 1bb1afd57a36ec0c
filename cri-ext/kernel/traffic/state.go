package traffic

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/bulkhead-dev/bulkhead/internal/ruleset"
)

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
	// So many more that a kernel does not tell them all at once.
	var more []ruleset.Service
	for vip := t.vip(1); len(more) < 100; vip = vip.Next() {
		more = append(more, t.service(vip, ruleset.TCP, 80, 0, 1))
	}
	if err := errors.Join(a.replace(ctx, slices.Concat(more, []ruleset.Service{ours})...), b.replace(ctx, slices.Concat(more, []ruleset.Service{theirs})...)); err != nil {
		return err
	}
	for _, s := range []*sandbox{a, b} {
		if err := s.holds(ctx); err != nil {
			return err
		}
		if n, err := s.Repair(ctx); err != nil || n != 0 {
			return wrong(err, "%d services were repaired that nobody had touched", n)
		}
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
