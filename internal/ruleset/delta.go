package ruleset

import (
	"fmt"
	"net/netip"
	"slices"

	"k8s.io/apimachinery/pkg/types"
)

// Delta leads from the set of generation From to that of generation To.
type Delta struct {
	Tenant   types.UID
	From, To uint64
	// Ranges are those afterwards, all of them.
	Ranges []netip.Prefix
	// Put are services that are new or different, in the order of their keys.
	Put []Service
	// Remove are services that are gone, in order.
	Remove []Key
	// Digest is that of the set afterwards.
	Digest Digest
}

// Diff returns what leads from one set of a tenant to another.
func Diff(from, to *Set) (*Delta, error) {
	if from.tenant != to.tenant {
		return nil, fmt.Errorf("rule set of %s cannot follow that of %s", to.tenant, from.tenant)
	}
	d := &Delta{Tenant: to.tenant, From: from.generation, To: to.generation, Ranges: to.ranges, Digest: to.Digest()}
	i, j := 0, 0
	for i < len(from.services) || j < len(to.services) {
		var order int
		switch {
		case i == len(from.services):
			order = 1
		case j == len(to.services):
			order = -1
		default:
			order = from.services[i].Compare(to.services[j].Key)
		}
		switch {
		case order < 0:
			d.Remove = append(d.Remove, from.services[i].Key)
			i++
		case order > 0:
			d.Put = append(d.Put, to.services[j])
			j++
		default:
			if !from.services[i].equal(to.services[j]) {
				d.Put = append(d.Put, to.services[j])
			}
			i++
			j++
		}
	}
	return d, nil
}

// Size is the number of services that the delta touches.
func (d *Delta) Size() int { return len(d.Put) + len(d.Remove) }

// Apply returns the set after the delta. It fails if the delta was made for
// another set, or leads to another digest than it says; then a whole set is needed.
func (s *Set) Apply(d *Delta) (*Set, error) {
	if d.Tenant != s.tenant {
		return nil, fmt.Errorf("delta of tenant %s does not fit the rule set of %s", d.Tenant, s.tenant)
	}
	if d.From != s.generation || d.To <= d.From {
		return nil, fmt.Errorf("delta of %s from generation %d to %d does not fit generation %d", d.Tenant, d.From, d.To, s.generation)
	}
	// What the delta does not touch was found to be in order before.
	if err := d.check(); err != nil {
		return nil, err
	}
	next := &Set{tenant: s.tenant, generation: d.To, ranges: d.Ranges, sum: s.sum, backends: s.backends}
	next.services = make([]Service, 0, max(0, len(s.services)+len(d.Put)-len(d.Remove)))
	rest, put, remove := s.services, d.Put, d.Remove
	// upTo takes over what stands before the key, and whether the key itself follows.
	upTo := func(key Key) (follows bool) {
		n, follows := slices.BinarySearchFunc(rest, key, func(s Service, k Key) int { return s.Compare(k) })
		next.services = append(next.services, rest[:n]...)
		rest = rest[n:]
		if follows {
			next.sum.subtract(rest[0].hash())
			next.backends -= len(rest[0].Endpoints)
			rest = rest[1:]
		}
		return follows
	}
	for len(put) > 0 || len(remove) > 0 {
		if len(remove) == 0 || len(put) > 0 && put[0].Compare(remove[0]) < 0 {
			upTo(put[0].Key)
			next.take(put[0])
			put = put[1:]
			continue
		}
		if !upTo(remove[0]) {
			return nil, fmt.Errorf("delta of %s removes %s, which the rule set does not have", d.Tenant, remove[0])
		}
		remove = remove[1:]
	}
	next.services = append(next.services, rest...)
	if len(next.services) > MaxServices || next.backends > MaxBackends {
		return nil, fmt.Errorf("delta of %s leads to %d services and %d endpoints, more than %d and %d", d.Tenant, len(next.services), next.backends, MaxServices, MaxBackends)
	}
	if digest := next.Digest(); digest != d.Digest {
		return nil, fmt.Errorf("delta of %s to generation %d: the digest is %s, not %s", d.Tenant, d.To, digest, d.Digest)
	}
	return next, nil
}

func (s *Set) take(service Service) {
	s.services = append(s.services, service)
	s.sum.add(service.hash())
	s.backends += len(service.Endpoints)
}

// check verifies order and bounds of a delta by itself.
func (d *Delta) check() error {
	set := Set{tenant: d.Tenant, ranges: d.Ranges, services: d.Put}
	for i := range d.Put {
		set.backends += len(d.Put[i].Endpoints)
	}
	if err := set.check(); err != nil {
		return err
	}
	if len(d.Remove) > MaxServices {
		return fmt.Errorf("delta of %s: %d removals exceed %d", d.Tenant, len(d.Remove), MaxServices)
	}
	for i, key := range d.Remove {
		if err := key.check(); err != nil {
			return fmt.Errorf("delta of %s: %w", d.Tenant, err)
		}
		if i > 0 && d.Remove[i-1].Compare(key) >= 0 {
			return fmt.Errorf("delta of %s: removal of %s is there twice or out of order", d.Tenant, key)
		}
		if _, both := slices.BinarySearchFunc(d.Put, key, func(s Service, k Key) int { return s.Compare(k) }); both {
			return fmt.Errorf("delta of %s both puts and removes %s", d.Tenant, key)
		}
	}
	return nil
}
