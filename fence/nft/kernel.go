// Package nft puts a table.Table into the kernel, as the nftables table
// "inet bulkhead-fence" of one network namespace, and keeps it there.
package nft

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/mdlayher/netlink"

	"github.com/bulkhead-dev/bulkhead/fence/table"
)

// TableName is the name of the nftables table.
const TableName = "bulkhead-fence"

// Sizes of the socket's buffers, in bytes: a transaction is sent as one message, and
// each of its parts is acknowledged.
const (
	sendBuffer    = 64 << 20
	receiveBuffer = 32 << 20
)

// elementsAtOnce is how many elements go into one message: its parts have a length
// of 16 bits.
const elementsAtOnce = 500

// Kernel is the table of one network namespace. It is not safe for concurrent use.
type Kernel struct {
	namespace int
	// held is what the kernel has, as far as is known; nil if it is not.
	held *held
}

// held is what was put into the kernel.
type held struct {
	versions map[string]uint64
	sets     map[string]map[element]string
	chains   map[string][]string
}

// New makes a Kernel of a network namespace, given by an open file of it, or of the
// caller's own if namespace is 0.
func New(namespace int) *Kernel { return &Kernel{namespace: namespace} }

func (k *Kernel) connect() (*nftables.Conn, error) {
	options := []nftables.ConnOption{nftables.WithSockOptions(func(conn *netlink.Conn) error {
		return errors.Join(conn.SetWriteBuffer(sendBuffer), conn.SetReadBuffer(receiveBuffer))
	})}
	if k.namespace != 0 {
		options = append(options, nftables.WithNetNSFd(k.namespace))
	}
	conn, err := nftables.New(options...)
	if err != nil {
		return nil, fmt.Errorf("connecting to nftables: %w", err)
	}
	return conn, nil
}

func nftTable() *nftables.Table {
	return &nftables.Table{Family: nftables.TableFamilyINet, Name: TableName}
}

// Replace puts the whole table into the kernel in one transaction: whatever was
// there of ours is in force until the new table is.
func (k *Kernel) Replace(want *table.Table) error {
	k.held = nil
	conn, err := k.connect()
	if err != nil {
		return err
	}
	t := &transaction{conn: conn, table: nftTable(), want: want}
	conn.AddTable(t.table)
	conn.DelTable(t.table)
	conn.AddTable(t.table)
	for _, name := range table.Counters {
		conn.AddObj(&nftables.NamedObj{Table: t.table, Name: name, Type: nftables.ObjTypeCounter, Obj: counter()})
	}
	now := snapshot(want)
	for _, name := range slices.Sorted(maps.Keys(want.Sets)) {
		t.addSet(want.Sets[name])
	}
	for _, name := range slices.Sorted(maps.Keys(want.Chains)) {
		conn.AddChain(&nftables.Chain{Table: t.table, Name: name})
	}
	t.endings()
	for _, name := range slices.Sorted(maps.Keys(want.Chains)) {
		t.addRules(name)
	}
	for _, name := range slices.Sorted(maps.Keys(want.Sets)) {
		t.addElements(want.Sets[name], slices.Collect(maps.Keys(now.sets[name])), now.sets[name])
	}
	t.hooks()
	if err := t.commit(); err != nil {
		return fmt.Errorf("replacing table %s: %w", TableName, err)
	}
	k.held = now
	return nil
}

// Apply changes in one transaction what differs from what was put into the kernel
// last, and returns how many elements, chains and sets that were. If that is not
// known, or it fails, the whole table is replaced.
func (k *Kernel) Apply(want *table.Table) (changed int, err error) {
	if k.held == nil {
		return 0, k.Replace(want)
	}
	now := k.held.next(want)
	changed, err = k.change(want, k.held, now)
	if err != nil {
		if replaced := k.Replace(want); replaced != nil {
			return 0, errors.Join(err, replaced)
		}
		return 0, nil
	}
	k.held = now
	return changed, nil
}

// change makes of before what now is.
func (k *Kernel) change(want *table.Table, before, now *held) (changed int, err error) {
	for name, elements := range before.sets {
		// Ranges are not taken out of sets one by one.
		if set := want.Sets[name]; set != nil && isFixed(set.Kind) && !maps.Equal(elements, now.sets[name]) {
			return 0, fmt.Errorf("set %s has changed", name)
		}
	}
	conn, err := k.connect()
	if err != nil {
		return 0, err
	}
	t := &transaction{conn: conn, table: nftTable(), want: want}
	for _, name := range slices.Sorted(maps.Keys(now.sets)) {
		if before.sets[name] == nil {
			t.addSet(want.Sets[name])
			t.changed++
		}
	}
	for _, name := range slices.Sorted(maps.Keys(now.chains)) {
		if _, there := before.chains[name]; !there {
			conn.AddChain(&nftables.Chain{Table: t.table, Name: name})
		}
	}
	for _, name := range slices.Sorted(maps.Keys(now.chains)) {
		rules, there := before.chains[name]
		if there && slices.Equal(rules, now.chains[name]) {
			continue
		}
		if there {
			conn.FlushChain(&nftables.Chain{Table: t.table, Name: name})
		}
		t.addRules(name)
		t.changed++
	}
	for _, name := range slices.Sorted(maps.Keys(now.sets)) {
		if before.sets[name] != nil && before.versions[name] == now.versions[name] {
			continue
		}
		gone, come := difference(before.sets[name], now.sets[name])
		t.deleteElements(want.Sets[name], gone)
		t.addElements(want.Sets[name], come, now.sets[name])
		t.changed += len(gone) + len(come)
	}
	// What nothing refers to any more: rules first, for they refer to the others.
	for _, pass := range []func(string){
		func(name string) { conn.FlushChain(&nftables.Chain{Table: t.table, Name: name}) },
		func(name string) { conn.DelChain(&nftables.Chain{Table: t.table, Name: name}); t.changed++ },
	} {
		for _, name := range slices.Sorted(maps.Keys(before.chains)) {
			if _, stays := now.chains[name]; !stays {
				pass(name)
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(before.sets)) {
		if now.sets[name] == nil {
			conn.DelSet(&nftables.Set{Table: t.table, Name: name})
			t.changed++
		}
	}
	return t.changed, t.commit()
}

// Forget has the next Apply replace the whole table.
func (k *Kernel) Forget() { k.held = nil }

// Remove takes the table out of the kernel, if it is there.
func (k *Kernel) Remove() error {
	k.held = nil
	conn, err := k.connect()
	if err != nil {
		return err
	}
	conn.AddTable(nftTable())
	conn.DelTable(nftTable())
	if err := conn.Flush(); err != nil {
		return fmt.Errorf("removing table %s: %w", TableName, err)
	}
	return nil
}

// snapshot is what a table will be in the kernel.
func snapshot(want *table.Table) *held {
	return (&held{}).next(want)
}

// next is what will be in the kernel after want; the sets that have not changed are
// those of h.
func (h *held) next(want *table.Table) *held {
	now := &held{versions: map[string]uint64{}, sets: map[string]map[element]string{}, chains: map[string][]string{}}
	for name, set := range want.Sets {
		now.versions[name] = set.Version
		if version, known := h.versions[name]; known && version == set.Version && h.sets[name] != nil {
			now.sets[name] = h.sets[name]
			continue
		}
		now.sets[name] = encode(set)
	}
	for name, rules := range want.Chains {
		for _, rule := range rules {
			now.chains[name] = append(now.chains[name], ruleText(rule))
		}
		if len(rules) == 0 {
			now.chains[name] = nil
		}
	}
	return now
}

func difference(before, now map[element]string) (gone, come []element) {
	for e, value := range before {
		if other, stays := now[e]; !stays || other != value {
			gone = append(gone, e)
		}
	}
	for e, value := range now {
		if other, was := before[e]; !was || other != value {
			come = append(come, e)
		}
	}
	return gone, come
}

// transaction collects what is sent to the kernel at once.
type transaction struct {
	conn    *nftables.Conn
	table   *nftables.Table
	want    *table.Table
	changed int
	problem error
	// recorded, if there is one, gets the texts of rules by chain instead of the kernel.
	recorded map[string][]string
}

func (t *transaction) commit() error {
	if t.problem != nil {
		return t.problem
	}
	return t.conn.Flush()
}

func (t *transaction) fail(err error) {
	if t.problem == nil {
		t.problem = err
	}
}

func (t *transaction) addSet(set *table.Set) {
	if err := t.conn.AddSet(t.nftSet(set), nil); err != nil {
		t.fail(fmt.Errorf("adding set %s: %w", set.Name, err))
	}
}

func (t *transaction) addElements(set *table.Set, elements []element, values map[element]string) {
	// The kernel takes the ends of ranges in their order only: anything else looks to it
	// like ranges that overlap.
	slices.SortFunc(elements, func(a, b element) int { return strings.Compare(a.key, b.key) })
	for chunk := range slices.Chunk(elements, elementsAtOnce) {
		var out []nftables.SetElement
		for _, e := range chunk {
			out = append(out, e.nft(values[e]))
		}
		if err := t.conn.SetAddElements(t.nftSet(set), out); err != nil {
			t.fail(fmt.Errorf("adding elements to set %s: %w", set.Name, err))
		}
	}
}

func (t *transaction) deleteElements(set *table.Set, elements []element) {
	for chunk := range slices.Chunk(elements, elementsAtOnce) {
		var out []nftables.SetElement
		for _, e := range chunk {
			out = append(out, e.nft(""))
		}
		if err := t.conn.SetDeleteElements(t.nftSet(set), out); err != nil {
			t.fail(fmt.Errorf("deleting elements of set %s: %w", set.Name, err))
		}
	}
}

func (t *transaction) addRules(chain string) {
	for _, rule := range t.want.Chains[chain] {
		t.rule(chain, ruleText(rule), t.expressions(rule)...)
	}
}
