package ipvs

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"sort"

	"github.com/bulkhead-dev/bulkhead/cri-ext/kernel/held"
	"github.com/bulkhead-dev/bulkhead/internal/ruleset"
)

// Change makes the kernel hold the set to. What is there is read first.
func (e *Engine) Change(ctx context.Context, from, to *ruleset.Set, delta *ruleset.Delta) error {
	if from == nil {
		_, err := e.level(ctx, to)
		return err
	}
	var keys []ruleset.Key
	want := map[ruleset.Key]*ruleset.Service{}
	for _, key := range delta.Remove {
		if e.carries(key) {
			keys = append(keys, key)
		}
	}
	for i := range delta.Put {
		if service := &delta.Put[i]; e.carries(service.Key) {
			keys = append(keys, service.Key)
			want[service.Key] = service
		}
	}
	have, err := e.some(ctx, keys)
	if err != nil {
		return err
	}
	for key := range have {
		if !slices.Contains(keys, key) {
			delete(have, key)
		}
	}
	if slices.Equal(from.Ranges(), to.Ranges()) {
		return e.patch(ctx, want, have, keys, to)
	}
	if err := e.converge(ctx, want, have); err != nil {
		return err
	}
	_, err = e.level(ctx, to)
	return err
}

// level makes the kernel hold the set whatever it holds, and returns how many
// services were not as the set has them.
func (e *Engine) level(ctx context.Context, set *ruleset.Set) (wrong int, err error) {
	if err := e.prepare(set); err != nil {
		return 0, err
	}
	have, err := e.all(ctx)
	if err != nil {
		return 0, err
	}
	wrong = e.differences(set, have)
	want := map[ruleset.Key]*ruleset.Service{}
	services := set.Services()
	for i := range services {
		if e.carries(services[i].Key) {
			want[services[i].Key] = &services[i]
		}
	}
	if err := e.converge(ctx, want, have); err != nil {
		return wrong, err
	}
	// Frontends that leave need their routes for as long as they do.
	if have, err = e.all(ctx); err != nil {
		return wrong, err
	}
	clear(e.refused)
	e.note(slices.Collect(maps.Keys(have)), have)
	for _, family := range e.families {
		v4 := family == "IPv4"
		ranges := held.Ranges(set.Ranges(), v4)
		keys := make([]ruleset.Key, 0, len(have))
		for key := range have {
			if key.Addr.Is4() == v4 {
				keys = append(keys, key)
			}
		}
		there, err := readPaths(ctx, e.routes, v4)
		if err != nil {
			return wrong, err
		}
		paths := &paths{}
		if len(keys)+len(ranges) > 0 {
			source, err := e.source(v4)
			if err != nil {
				return wrong, err
			}
			paths = wanted(v4, keys, ranges, source)
		}
		if len(paths.rules) > MaxPorts {
			return wrong, fmt.Errorf("%d %s frontends are outside the ranges of Services: ip_vs carries at most %d", len(paths.rules)-1, family, MaxPorts)
		}
		if err := there.change(ctx, e.routes, paths); err != nil {
			return wrong, err
		}
		if err := e.guard(ctx, family, ranges); err != nil {
			return wrong, err
		}
	}
	return wrong, nil
}

// patch changes the services of a few keys, and the routes to them.
func (e *Engine) patch(ctx context.Context, want map[ruleset.Key]*ruleset.Service, have map[ruleset.Key]*virtual, keys []ruleset.Key, to *ruleset.Set) error {
	if err := e.converge(ctx, want, have); err != nil {
		return err
	}
	left, err := e.some(ctx, keys)
	if err != nil {
		return err
	}
	e.note(keys, left)
	for _, family := range e.families {
		v4 := family == "IPv4"
		ranges := held.Ranges(to.Ranges(), v4)
		if err := e.guard(ctx, family, ranges); err != nil {
			return err
		}
		var mine []ruleset.Key
		// there is what is known to be there of what changes.
		there := &paths{routes: map[route]bool{}, rules: map[rule]bool{{v4: v4}: true}}
		for _, network := range ranges {
			there.routes[route{table: tableRanges, to: network}] = true
		}
		for _, key := range keys {
			if key.Addr.Is4() != v4 {
				continue
			}
			if left[key] != nil {
				mine = append(mine, key)
			}
			at := route{table: tableRanges, to: netip.PrefixFrom(key.Addr, key.Addr.BitLen()), local: true}
			if !within(ranges, key.Addr) {
				at.table = tablePorts
				if have[key] != nil {
					there.rules[rule{v4: v4, key: key}] = true
				}
			}
			if have[key] != nil && left[key] == nil && !e.used(key.Addr, to) {
				there.routes[at] = true
			}
		}
		if len(mine) == 0 && len(there.rules) == 1 && len(there.routes) == len(ranges) {
			continue
		}
		source, err := e.source(v4)
		if err != nil {
			return err
		}
		if err := there.change(ctx, e.routes, wanted(v4, mine, ranges, source)); err != nil {
			return err
		}
	}
	return nil
}

// used tells whether there is a frontend at the address, or one that leaves.
func (e *Engine) used(addr netip.Addr, set *ruleset.Set) bool {
	for key := range e.leaving {
		if key.Addr == addr {
			return true
		}
	}
	services := set.Services()
	at := sort.Search(len(services), func(i int) bool { return services[i].Addr.Compare(addr) >= 0 })
	return at < len(services) && services[at].Addr == addr
}

// converge changes the virtual services of have into those that are wanted.
func (e *Engine) converge(ctx context.Context, want map[ruleset.Key]*ruleset.Service, have map[ruleset.Key]*virtual) error {
	b := e.batch()
	var leavers []ruleset.Key
	for key, service := range want {
		delete(e.leaving, key)
		if b.update(service, have[key]) {
			leavers = append(leavers, key)
		}
	}
	for key, v := range have {
		if want[key] != nil {
			continue
		}
		if key.Protocol == ruleset.UDP || len(v.servers) == 0 {
			b.removeService(key)
			continue
		}
		if v.persistence != mark {
			b.service(cmdSetService, key, mark)
		}
		for endpoint, s := range v.servers {
			if s.weight != 0 {
				b.dest(cmdSetDest, key, endpoint, 0)
			}
		}
		leavers = append(leavers, key)
		e.leaving[key] = true
	}
	if err := e.send(ctx, b); err != nil {
		return err
	}
	return e.sweep(ctx, leavers)
}

// update writes what makes a virtual service that of the frontend. It tells whether
// servers are left in it that shall go.
func (b *batch) update(service *ruleset.Service, v *virtual) (leavers bool) {
	if v == nil {
		b.service(cmdNewService, service.Key, service.Affinity)
		v = &virtual{}
	} else if v.persistence != service.Affinity {
		b.service(cmdSetService, service.Key, service.Affinity)
	}
	for _, endpoint := range service.Endpoints {
		if s, found := v.servers[endpoint]; !found {
			b.dest(cmdNewDest, service.Key, endpoint, 1)
		} else if s.weight != 1 {
			b.dest(cmdSetDest, service.Key, endpoint, 1)
		}
	}
	for endpoint, s := range v.servers {
		if slices.Contains(service.Endpoints, endpoint) {
			continue
		}
		if service.Protocol == ruleset.UDP {
			b.removeDest(service.Key, endpoint)
			continue
		}
		if s.weight != 0 {
			b.dest(cmdSetDest, service.Key, endpoint, 0)
		}
		leavers = true
	}
	return leavers
}

// sweep removes servers that take no new connections and have none, and virtual
// services that leave and have no server any more.
func (e *Engine) sweep(ctx context.Context, keys []ruleset.Key) error {
	if len(keys) == 0 {
		return nil
	}
	have, err := e.some(ctx, keys)
	if err != nil {
		return err
	}
	b := e.batch()
	for _, key := range keys {
		v := have[key]
		if v == nil {
			delete(e.leaving, key)
			continue
		}
		busy := 0
		for endpoint, s := range v.servers {
			if s.weight == 0 && s.connections == 0 {
				b.removeDest(key, endpoint)
			} else {
				busy++
			}
		}
		if v.persistence == mark && busy == 0 {
			b.removeService(key)
			delete(e.leaving, key)
		}
	}
	return e.send(ctx, b)
}
