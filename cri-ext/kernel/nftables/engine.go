// Package nftables carries a tenant's Services by nftables (decision D12): one
// table for each IP family, with maps that all Services share, so that a change is
// a few elements, whatever the number of Services is. It needs neither the nft
// program nor ip_vs.
//
//	table ip bulkhead {
//	  set state     { type mark }                                              # comments: generation, digest, tenant, ranges
//	  map services  { type ipv4_addr . inet_proto . inet_service : verdict }   # frontend -> goto of-<number of endpoints>
//	  map endpoints { type ipv4_addr . inet_proto . inet_service . mark : ipv4_addr . inet_service }
//	  set refused   { type ipv4_addr . inet_proto . inet_service }             # frontends without endpoints
//	  chain redirect { type nat hook output priority -100; ip daddr . meta l4proto . th dport vmap @services }
//	  chain of-2     { dnat to ip daddr . meta l4proto . th dport . numgen random mod 2 map @endpoints }
//	  chain filter   { type filter hook output priority -50; ct state != new accept; [destination] @refused goto refuse; jump ranges }
//	  chain ranges   { ip daddr 10.96.0.0/12 goto refuse }
//	  chain refuse   { meta l4proto tcp reject with tcp reset; reject }
//	}
//
// Chains hang on the output hook alone: what only passes through the sandbox is
// never translated. A connection keeps its endpoint by connection tracking, so that
// whatever is done to the table, open connections live on.
package nftables

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/bulkhead-dev/bulkhead/cri-ext/kernel/affinity"
	"github.com/bulkhead-dev/bulkhead/cri-ext/kernel/conntrack"
	"github.com/bulkhead-dev/bulkhead/cri-ext/kernel/held"
	"github.com/bulkhead-dev/bulkhead/cri-ext/kernel/wire"
	"github.com/bulkhead-dev/bulkhead/internal/ruleset"
)

// Engine programs the nftables of one network namespace. It is not for use by
// several goroutines at once.
type Engine struct {
	namespace int
	socket    *wire.Socket
	families  []*family
	choices   affinity.Choices
	// tables is what is known of the tables, in the order of families.
	tables []table
	// generation is the kernel's count of changes to the namespace's rules when
	// the tables were as the set says: as long as it stays they are. 0 if unknown.
	generation uint32
}

// table is what is known of one family's table.
type table struct {
	// counts are the numbers of endpoints for which there is a chain.
	counts map[int]bool
	// structure is the fingerprint of chains and rules, 0 if unknown.
	structure uint64
}

// Probe tells why the kernel cannot carry an IP family in the namespace, nil if it
// can: by a transaction that tries all the kinds of rules, and is taken back.
func Probe(ctx context.Context, namespace int, ipFamily string) error {
	socket, err := wire.Dial(namespace, unix.NETLINK_NETFILTER)
	if err != nil {
		return err
	}
	defer socket.Close()
	f := families[ipFamily]
	b := newBatch(Table+"-probe", 4096)
	b.addTable(f)
	b.addStructure(f)
	b.addCount(f, 2)
	key := ruleset.Key{Addr: netip.IPv4Unspecified(), Protocol: ruleset.TCP, Port: 1}
	prefix := netip.MustParsePrefix("192.0.2.0/24")
	if !f.v4 {
		key.Addr, prefix = netip.IPv6Unspecified(), netip.MustParsePrefix("2001:db8::/32")
	}
	b.addRange(f, prefix)
	element := appendKey(nil, key)
	l := b.add(f, setServices)
	l.frontend(element, 2, 1)
	l.end()
	l = b.add(f, setEndpoints)
	l.endpoint(slotKey(element, 0), netip.AddrPortFrom(key.Addr, key.Port))
	l.end()
	b.begin(f, unix.NFT_MSG_DELTABLE, unix.NLM_F_ACK)
	b.Text(unix.NFTA_TABLE_NAME, b.table)
	b.End()
	if err := socket.Send(ctx, b.Bytes, b.Sequence()); err != nil {
		return fmt.Errorf("trying %s rules: %w", ipFamily, describe(err))
	}
	return nil
}

// Open prepares the engine for IP families that Probe found to work.
func Open(namespace int, ipFamilies []string, seed uint64) (*Engine, error) {
	socket, err := wire.Dial(namespace, unix.NETLINK_NETFILTER)
	if err != nil {
		return nil, err
	}
	e := &Engine{namespace: namespace, socket: socket, choices: affinity.Choices{Seed: seed}}
	for _, name := range ipFamilies {
		e.families = append(e.families, families[name])
	}
	e.tables = make([]table, len(e.families))
	return e, nil
}

// Close gives up the engine. The rules stay.
func (e *Engine) Close() error { return e.socket.Close() }

// Change makes the kernel hold the set to instead of from, in one transaction. With
// from nil it does so whatever the kernel holds; otherwise the kernel must hold
// from, and delta lead from it to to. After an error the kernel may hold either.
func (e *Engine) Change(ctx context.Context, from, to *ruleset.Set, delta *ruleset.Delta) error {
	known := e.generation
	e.generation = 0
	var b *batch
	stale := conntrack.Stale{Services: to}
	if from == nil {
		b = e.whole(to)
		stale.All = true
	} else {
		b = newBatch(Table, 4096)
		for i, f := range e.families {
			if err := e.patch(b, i, f, from, to, delta, &stale); err != nil {
				return err
			}
		}
	}
	b.begin(e.families[0], unix.NFT_MSG_NEWTABLE, unix.NLM_F_CREATE|unix.NLM_F_ACK)
	b.Text(unix.NFTA_TABLE_NAME, b.table)
	b.End()
	last := b.Sequence()
	b.commit()
	if err := e.socket.Send(ctx, b.Bytes, last); err != nil {
		return fmt.Errorf("changing table %s: %w", Table, describe(err))
	}
	if err := e.settle(ctx, known, from == nil); err != nil {
		return err
	}
	for _, f := range e.families {
		if err := stale.Cut(ctx, e.socket, e.namespace, f.v4); err != nil {
			return err
		}
	}
	return nil
}

// settle notes what the tables look like after a transaction.
func (e *Engine) settle(ctx context.Context, known uint32, whole bool) error {
	generation, err := e.kernelGeneration(ctx)
	if err != nil {
		return err
	}
	for i, f := range e.families {
		if e.tables[i].structure == 0 {
			if e.tables[i].structure, err = e.fingerprint(ctx, f); err != nil {
				return err
			}
		}
	}
	// Whatever else was changed since the tables were last known to be right shows
	// in the count, which goes up by one for each transaction.
	if whole || known != 0 && generation == known+1 {
		e.generation = generation
	}
	return nil
}

// whole writes the tables anew.
func (e *Engine) whole(set *ruleset.Set) *batch {
	b := newBatch(Table, 8192+80*len(set.Services())+72*set.Backends())
	for i, f := range e.families {
		services, ranges := held.Services(set.Services(), f.v4), held.Ranges(set.Ranges(), f.v4)
		b.addTable(f) // so that there is one to remove
		b.removeTable(f)
		b.addTable(f)
		b.addStructure(f)
		counts := map[int]bool{}
		for j := range services {
			counts[used(&services[j])] = true
		}
		delete(counts, 0)
		for _, count := range slices.Sorted(maps.Keys(counts)) {
			b.addCount(f, count)
		}
		for _, network := range ranges {
			b.addRange(f, network)
		}
		e.tables[i] = table{counts: counts}
		b.addServices(f, &e.choices, services)
		b.addState(f, set)
	}
	return b
}

// addServices adds all elements of services.
func (b *batch) addServices(f *family, choices *affinity.Choices, services []ruleset.Service) {
	var space [64]byte
	frontends := b.add(f, setServices)
	for i := range services {
		if count := used(&services[i]); count > 0 {
			frontends.frontend(appendKey(space[:0], services[i].Key), count, services[i].Affinity)
		}
	}
	frontends.end()
	endpoints := b.add(f, setEndpoints)
	for i := range services {
		key := appendKey(space[:0], services[i].Key)
		for slot, endpoint := range affinity.Order(&services[i], choices.Choose(&services[i])) {
			endpoints.endpoint(slotKey(key, slot), endpoint)
		}
	}
	endpoints.end()
	refused := b.add(f, setRefused)
	for i := range services {
		if len(services[i].Endpoints) == 0 {
			refused.refuse(appendKey(space[:0], services[i].Key), services[i].Affinity)
		}
	}
	refused.end()
}

// change is what becomes of one frontend.
type change struct {
	key           []byte
	before, after *ruleset.Service
	// old and new are the endpoints by their numbers.
	old, new []netip.AddrPort
}

// patch writes what leads from one set to the next.
func (e *Engine) patch(b *batch, i int, f *family, from, to *ruleset.Set, delta *ruleset.Delta, stale *conntrack.Stale) error {
	var changes []change
	for _, key := range held.Keys(delta.Remove, f.v4) {
		before, found := from.Find(key)
		if !found {
			return fmt.Errorf("%s is to be removed and is not there", key)
		}
		changes = append(changes, change{key: appendKey(nil, key), before: &before, old: affinity.Order(&before, e.choices.Get(key))})
		e.choices.Forget(key)
		stale.Note(&before, nil)
	}
	put := held.Services(delta.Put, f.v4)
	for j := range put {
		after := &put[j]
		c := change{key: appendKey(nil, after.Key), after: after}
		if before, found := from.Find(after.Key); found {
			c.before, c.old = &before, affinity.Order(&before, e.choices.Get(after.Key))
		}
		c.new = affinity.Order(after, e.choices.Choose(after))
		changes = append(changes, c)
		stale.Note(c.before, after)
	}
	b.removeElements(f, changes)
	for _, c := range changes {
		if c.after == nil {
			continue
		}
		if count := used(c.after); count > 0 && !e.tables[i].counts[count] {
			b.addCount(f, count)
			e.tables[i].counts[count] = true
			e.tables[i].structure = 0
		}
	}
	b.addElements(f, changes)
	if ranges := held.Ranges(to.Ranges(), f.v4); !slices.Equal(ranges, held.Ranges(from.Ranges(), f.v4)) {
		b.flushChain(f, chainRanges)
		for _, network := range ranges {
			b.addRange(f, network)
		}
		e.tables[i].structure = 0
	}
	b.flush(f, setState)
	b.addState(f, to)
	return nil
}

// sameFrontend tells whether the element of the frontend stays as it is.
func (c *change) sameFrontend() bool {
	return c.before != nil && c.after != nil && used(c.before) == used(c.after) && c.before.Affinity == c.after.Affinity
}

func (b *batch) removeElements(f *family, changes []change) {
	frontends := b.remove(f, setServices)
	for _, c := range changes {
		if c.before != nil && len(c.before.Endpoints) > 0 && !c.sameFrontend() {
			frontends.plain(c.key)
		}
	}
	frontends.end()
	endpoints := b.remove(f, setEndpoints)
	for _, c := range changes {
		for slot, endpoint := range c.old {
			if slot >= len(c.new) || c.new[slot] != endpoint {
				endpoints.plain(slotKey(c.key, slot))
			}
		}
	}
	endpoints.end()
	refused := b.remove(f, setRefused)
	for _, c := range changes {
		if c.before != nil && len(c.before.Endpoints) == 0 && !c.sameFrontend() {
			refused.plain(c.key)
		}
	}
	refused.end()
}

func (b *batch) addElements(f *family, changes []change) {
	frontends := b.add(f, setServices)
	for _, c := range changes {
		if c.after != nil && len(c.after.Endpoints) > 0 && !c.sameFrontend() {
			frontends.frontend(c.key, used(c.after), c.after.Affinity)
		}
	}
	frontends.end()
	endpoints := b.add(f, setEndpoints)
	for _, c := range changes {
		for slot, endpoint := range c.new {
			if slot >= len(c.old) || c.old[slot] != endpoint {
				endpoints.endpoint(slotKey(c.key, slot), endpoint)
			}
		}
	}
	endpoints.end()
	refused := b.add(f, setRefused)
	for _, c := range changes {
		if c.after != nil && len(c.after.Endpoints) == 0 && !c.sameFrontend() {
			refused.refuse(c.key, c.after.Affinity)
		}
	}
	refused.end()
}

// Repair compares the kernel with the set that it should hold, makes it hold that
// where it does not, and returns how many services were not right.
func (e *Engine) Repair(ctx context.Context, set *ruleset.Set) (int, error) {
	generation, err := e.kernelGeneration(ctx)
	if err != nil {
		return 0, err
	}
	if e.generation != 0 && generation == e.generation {
		return 0, nil
	}
	wrong, right, err := e.compare(ctx, set)
	if err != nil {
		return 0, err
	}
	if right {
		if after, err := e.kernelGeneration(ctx); err == nil && after == generation {
			e.generation = generation
		}
		return 0, nil
	}
	return max(1, wrong), e.Change(ctx, nil, set, nil)
}

// Remove takes the tables away.
func (e *Engine) Remove(ctx context.Context) error {
	e.generation = 0
	for i, f := range e.families {
		e.tables[i] = table{}
		b := newBatch(Table, 256)
		b.begin(f, unix.NFT_MSG_DELTABLE, unix.NLM_F_ACK)
		b.Text(unix.NFTA_TABLE_NAME, Table)
		b.End()
		last := b.Sequence()
		b.commit()
		if err := e.socket.Send(ctx, b.Bytes, last); err != nil && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("removing table %s: %w", Table, describe(err))
		}
	}
	return nil
}

// describe adds to an error of the kernel what kind of message it was about.
func describe(err error) error {
	var refused *wire.Error
	if !errors.As(err, &refused) {
		return err
	}
	names := map[uint16]string{
		unix.NFT_MSG_NEWTABLE: "adding a table", unix.NFT_MSG_DELTABLE: "removing a table",
		unix.NFT_MSG_NEWCHAIN: "adding a chain", unix.NFT_MSG_NEWRULE: "adding a rule", unix.NFT_MSG_DELRULE: "removing a rule",
		unix.NFT_MSG_NEWSET: "adding a set", unix.NFT_MSG_NEWSETELEM: "adding elements", unix.NFT_MSG_DELSETELEM: "removing elements",
	}
	if name := names[refused.Kind&0xff]; name != "" && refused.Kind>>8 == unix.NFNL_SUBSYS_NFTABLES {
		return fmt.Errorf("%s (message %d): %w", name, refused.Sequence, err)
	}
	return fmt.Errorf("message %d of type %#x: %w", refused.Sequence, refused.Kind, err)
}
