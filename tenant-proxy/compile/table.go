package compile

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"k8s.io/apimachinery/pkg/types"

	"github.com/bulkhead-dev/bulkhead/internal/ruleset"
)

// Table holds a tenant's Services and keeps the rules that they make together. Only
// what changed is compiled again. It is not safe for concurrent use.
type Table struct {
	node   Node
	ranges []netip.Prefix

	nodes         map[string][]netip.Addr
	nodeAddresses []netip.Addr
	dropped       int

	entries map[types.NamespacedName]*entry
	dirty   map[types.NamespacedName]bool
	// claims are who asks for a frontend, the one who has it first.
	claims map[ruleset.Key][]claim
	// rules are sorted and never changed in place: they are handed out.
	rules     []ruleset.Service
	handedOut bool
	backends  int
	weight    int
	// troubled is the number of entries with problems.
	troubled int
	// cut says that the rules of all Services together exceed what a set may hold.
	cut bool
}

// entry is one Service, or what is known of it: its slices may be there first.
type entry struct {
	service   *Service
	slices    map[string]*Slice
	frontends []Frontend
	problems  []Problem
	// told are all problems as Compile last told them.
	told []Problem
	// taken are the frontends that other Services have.
	taken map[ruleset.Key]types.NamespacedName
	// leftOut are frontends for which there was no room in the set.
	leftOut bool
}

type claim struct {
	entry *entry
	index int
}

func (c claim) frontend() *Frontend { return &c.entry.frontends[c.index] }

// before tells whether a claim wins over another for the same frontend.
func (c claim) before(other claim) bool {
	if c.frontend().Kind == ClusterIP != (other.frontend().Kind == ClusterIP) {
		return c.frontend().Kind == ClusterIP
	}
	return c.entry.service.before(other.entry.service.Owner)
}

// NewTable makes an empty table for the rules of one node. ranges are the tenant's
// service ranges, by our own records.
func NewTable(node Node, ranges []netip.Prefix) *Table {
	return &Table{
		node: node, ranges: ranges,
		nodes: map[string][]netip.Addr{}, entries: map[types.NamespacedName]*entry{}, dirty: map[types.NamespacedName]bool{},
		claims: map[ruleset.Key][]claim{},
	}
}

func (t *Table) entry(name types.NamespacedName) *entry {
	e := t.entries[name]
	if e == nil {
		e = &entry{}
		t.entries[name] = e
	}
	return e
}

// touch marks a Service for compilation.
func (t *Table) touch(name types.NamespacedName) { t.dirty[name] = true }

// PutService takes a Service in and tells whether that changes any rule.
func (t *Table) PutService(service *Service) bool {
	e := t.entry(service.NamespacedName)
	if e.service != nil && e.service.Equal(service) {
		return false
	}
	t.weight += service.weight()
	if e.service != nil {
		t.weight -= e.service.weight()
	}
	e.service = service
	t.touch(service.NamespacedName)
	return true
}

// RemoveService drops a Service; its slices stay until they are removed themselves.
func (t *Table) RemoveService(name types.NamespacedName) bool {
	e := t.entries[name]
	if e == nil || e.service == nil {
		return false
	}
	t.weight -= e.service.weight()
	e.service = nil
	t.touch(name)
	return true
}

// PutSlice takes in an EndpointSlice of a Service.
func (t *Table) PutSlice(service types.NamespacedName, slice *Slice) bool {
	e := t.entry(service)
	if known := e.slices[slice.Name]; known != nil && known.Equal(slice) {
		return false
	}
	if e.slices == nil {
		e.slices = map[string]*Slice{}
	}
	t.weight += slice.weight()
	if known := e.slices[slice.Name]; known != nil {
		t.weight -= known.weight()
	}
	e.slices[slice.Name] = slice
	t.touch(service)
	return e.service != nil
}

// RemoveSlice drops an EndpointSlice of a Service.
func (t *Table) RemoveSlice(service types.NamespacedName, slice string) bool {
	e := t.entries[service]
	if e == nil || e.slices[slice] == nil {
		return false
	}
	t.weight -= e.slices[slice].weight()
	delete(e.slices, slice)
	t.touch(service)
	return e.service != nil
}

// Node is where the rules are for.
func (t *Table) Node() Node { return t.node }

// Weight is how much the table holds; see MaxWeight.
func (t *Table) Weight() int { return t.weight }

// SetRanges sets the tenant's service ranges.
func (t *Table) SetRanges(ranges []netip.Prefix) bool {
	if slices.Equal(t.ranges, ranges) {
		return false
	}
	t.ranges = ranges
	t.touchAll(func(*Service) bool { return true })
	return true
}

// Ranges are the tenant's service ranges.
func (t *Table) Ranges() []netip.Prefix { return t.ranges }

// SetZone sets the zone of the node that rules are for.
func (t *Table) SetZone(zone string) bool {
	if t.node.Zone == zone {
		return false
	}
	t.node.Zone = zone
	t.touchAll(func(*Service) bool { return true })
	return true
}

// PutNode sets the addresses of one of the tenant's nodes; none drops the node.
func (t *Table) PutNode(name string, addresses []netip.Addr) bool {
	if slices.Equal(t.nodes[name], addresses) {
		return false
	}
	if len(addresses) == 0 {
		delete(t.nodes, name)
	} else {
		t.nodes[name] = addresses
	}
	return t.setNodeAddresses()
}

func (t *Table) setNodeAddresses() bool {
	next, dropped := NodePortAddresses(t.node.Name, t.nodes)
	t.dropped = dropped
	if slices.Equal(next, t.nodeAddresses) {
		return false
	}
	t.nodeAddresses = next
	t.touchAll((*Service).HasNodePorts)
	return true
}

// DroppedNodeAddresses is how many node addresses are not served, there being too many.
func (t *Table) DroppedNodeAddresses() int { return t.dropped }

func (t *Table) touchAll(which func(*Service) bool) {
	for name, e := range t.entries {
		if e.service != nil && which(e.service) {
			t.touch(name)
		}
	}
}

// Services are the names of the Services in the table.
func (t *Table) Services() []types.NamespacedName {
	var names []types.NamespacedName
	for name, e := range t.entries {
		if e.service != nil {
			names = append(names, name)
		}
	}
	return names
}

// Slices are the names of each Service's EndpointSlices.
func (t *Table) Slices() map[types.NamespacedName][]string {
	all := map[types.NamespacedName][]string{}
	for name, e := range t.entries {
		for slice := range e.slices {
			all[name] = append(all[name], slice)
		}
	}
	return all
}

// Nodes are the names of the tenant's nodes.
func (t *Table) Nodes() []string { return slices.Collect(maps.Keys(t.nodes)) }

// Compile brings the rules up to date and returns all of them, in order and within
// the bounds of a set. The slice is the caller's, what it refers to is not. changed
// are the Services that have problems other than before.
func (t *Table) Compile() (rules []ruleset.Service, changed []types.NamespacedName) {
	touched := map[ruleset.Key]bool{}
	affected := map[*entry]bool{}
	note := func(e *entry) { affected[e] = true }
	for name := range t.dirty {
		e := t.entries[name]
		note(e)
		t.recompile(e, touched)
	}
	changes := map[ruleset.Key]*ruleset.Service{}
	for key := range touched {
		changes[key] = t.settle(key, note)
	}
	t.merge(changes)
	t.bound(note)
	for e := range affected {
		problems := e.allProblems()
		if slices.Equal(problems, e.told) {
			continue
		}
		if e.service != nil {
			changed = append(changed, e.service.NamespacedName)
		}
		if len(e.told) > 0 {
			t.troubled--
		}
		if len(problems) > 0 {
			t.troubled++
		}
		e.told = problems
	}
	for name := range t.dirty {
		if e := t.entries[name]; e.service == nil && len(e.slices) == 0 {
			delete(t.entries, name)
		}
	}
	clear(t.dirty)
	slices.SortFunc(changed, func(a, b types.NamespacedName) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
	})
	return t.bounded(), changed
}

// recompile replaces an entry's claims. Those of frontends that it keeps are moved to
// their new place.
func (t *Table) recompile(e *entry, touched map[ruleset.Key]bool) {
	for i := range e.frontends {
		key := e.frontends[i].Key
		touched[key] = true
		t.claims[key] = slices.DeleteFunc(t.claims[key], func(c claim) bool { return c.entry == e })
	}
	e.frontends, e.problems, e.taken = nil, nil, nil
	if e.service == nil {
		return
	}
	e.frontends, e.problems = Compile(t.node, t.ranges, t.nodeAddresses, e.service, slices.Collect(maps.Values(e.slices)))
	for i := range e.frontends {
		key := e.frontends[i].Key
		touched[key] = true
		t.claims[key] = append(t.claims[key], claim{e, i})
	}
}

// settle decides who has a frontend and returns its rule, nil if nobody asks for it.
func (t *Table) settle(key ruleset.Key, note func(*entry)) *ruleset.Service {
	claims := t.claims[key]
	if len(claims) == 0 {
		delete(t.claims, key)
		return nil
	}
	slices.SortFunc(claims, func(a, b claim) int {
		switch {
		case a.before(b):
			return -1
		case b.before(a):
			return 1
		}
		return 0
	})
	for i, c := range claims {
		note(c.entry)
		if i == 0 {
			delete(c.entry.taken, key)
			continue
		}
		if c.entry.taken == nil {
			c.entry.taken = map[ruleset.Key]types.NamespacedName{}
		}
		c.entry.taken[key] = claims[0].entry.service.NamespacedName
	}
	return &claims[0].frontend().Service
}

// merge takes changes into the sorted rules; nil is a rule that is gone.
func (t *Table) merge(changes map[ruleset.Key]*ruleset.Service) {
	if len(changes) == 0 {
		return
	}
	keys := slices.SortedFunc(maps.Keys(changes), ruleset.Key.Compare)
	next := make([]ruleset.Service, 0, len(t.rules)+len(keys))
	t.backends = 0
	take := func(rule ruleset.Service) {
		next = append(next, rule)
		t.backends += len(rule.Endpoints)
	}
	i := 0
	for _, key := range keys {
		for ; i < len(t.rules) && t.rules[i].Compare(key) < 0; i++ {
			take(t.rules[i])
		}
		if i < len(t.rules) && t.rules[i].Key == key {
			i++
		}
		if rule := changes[key]; rule != nil {
			take(*rule)
		}
	}
	for ; i < len(t.rules); i++ {
		take(t.rules[i])
	}
	t.rules, t.handedOut = next, false
}

// bound says which Services have to do without some of their rules.
func (t *Table) bound(note func(*entry)) {
	over := len(t.rules) > ruleset.MaxServices || t.backends > ruleset.MaxBackends
	if !over && !t.cut {
		return
	}
	t.cut = over
	for _, e := range t.entries {
		if e.leftOut {
			note(e)
			e.leftOut = false
		}
	}
	if over {
		t.admit(func(c claim) {}, func(c claim) {
			note(c.entry)
			c.entry.leftOut = true
		})
	}
}

// bounded are the rules that fit into a set.
func (t *Table) bounded() []ruleset.Service {
	if !t.cut {
		if t.handedOut {
			return slices.Clone(t.rules)
		}
		t.handedOut = true
		return t.rules
	}
	var rules []ruleset.Service
	t.admit(func(c claim) { rules = append(rules, c.frontend().Service) }, func(claim) {})
	slices.SortFunc(rules, func(a, b ruleset.Service) int { return a.Compare(b.Key) })
	return rules
}

// admit goes through all rules by what must not be left out: cluster IPs before
// other addresses, older Services before younger ones.
func (t *Table) admit(in, out func(claim)) {
	winners := make([]claim, 0, len(t.rules))
	for _, claims := range t.claims {
		winners = append(winners, claims[0])
	}
	slices.SortFunc(winners, func(a, b claim) int {
		switch {
		case a.before(b):
			return -1
		case b.before(a):
			return 1
		default: // of one Service
			return cmp.Compare(a.index, b.index)
		}
	})
	rules, backends := 0, 0
	for _, c := range winners {
		endpoints := len(c.frontend().Endpoints)
		if rules == ruleset.MaxServices || backends+endpoints > ruleset.MaxBackends {
			out(c)
			continue
		}
		rules++
		backends += endpoints
		in(c)
	}
}

func (e *entry) allProblems() []Problem {
	if e.service == nil {
		return nil
	}
	problems := slices.Clone(e.problems)
	if len(e.taken) > 0 {
		key := slices.MinFunc(slices.Collect(maps.Keys(e.taken)), ruleset.Key.Compare)
		// Who may read this event may not know of other namespaces.
		holder := "a service of another namespace"
		if e.taken[key].Namespace == e.service.Namespace {
			holder = "service " + e.taken[key].Name
		}
		problems = append(problems, Problem{AddressTaken, fmt.Sprintf("%s leads to %s, which has it already", key, holder)})
	}
	if e.leftOut {
		problems = append(problems, Problem{TooManyEndpoints, "the services of this cluster have more addresses and endpoints together than can be served: younger services do without some"})
	}
	return problems
}

// Problems are what of a Service did not become a rule.
func (t *Table) Problems(name types.NamespacedName) (Owner, []Problem) {
	e := t.entries[name]
	if e == nil || e.service == nil {
		return Owner{}, nil
	}
	return e.service.Owner, e.allProblems()
}

// Backends is the number of endpoints of all rules together.
func (t *Table) Backends() int { return t.backends }

// Troubled is the number of Services that have problems.
func (t *Table) Troubled() int { return t.troubled }
