package policy

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/netip"
	"strings"

	"github.com/bulkhead-dev/bulkhead/fence/table"
)

// shared is a part of the table that is there while something refers to it.
type shared struct {
	references int
	// parts are the keys of what it refers to itself.
	parts []string
	// remove takes it out of the table.
	remove func()
}

// acquire adds a reference to the part of a key. build puts it into the table if it
// is not there, and returns its own parts, acquired, and how to remove it.
func (m *Model) acquire(key string, build func() (parts []string, remove func())) string {
	if m.shared[key] == nil {
		s := &shared{}
		s.parts, s.remove = build()
		m.shared[key] = s
	}
	m.shared[key].references++
	return key
}

// release takes a reference back.
func (m *Model) release(key string) {
	s := m.shared[key]
	if s == nil {
		return
	}
	if s.references--; s.references > 0 {
		return
	}
	delete(m.shared, key)
	s.remove()
	for _, part := range s.parts {
		m.release(part)
	}
}

// addChain puts a chain into the table.
func (m *Model) addChain(name string, rules []table.Rule) (remove func()) {
	m.table.Chains[name] = rules
	return func() { delete(m.table.Chains, name) }
}

// hash is short and the same for the same text.
func hash(text string) string {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:8])
}

// acquireProfile makes the chain that judges pods which these policies select, and
// returns its key, which is its name.
func (m *Model) acquireProfile(d direction, policies []*parsed) string {
	var chains []string
	for _, p := range policies {
		chains = append(chains, policyKey(p, d))
	}
	name := "pods-" + d.String() + "-" + hash(strings.Join(chains, " "))
	return m.acquire(name, func() ([]string, func()) {
		var parts []string
		var rules []table.Rule
		for _, p := range policies {
			parts = append(parts, m.acquirePolicy(p, d))
			rules = append(rules, table.Rule{Verdict: table.Verdict{Action: table.Jump, Chain: policyKey(p, d)}})
		}
		last := table.Rule{Verdict: table.Verdict{Action: table.Drop}, Counter: table.CounterIngress}
		if d == egress {
			// The sender is a pod of this node. What tries to reach somebody who is gone
			// would wait long for nothing.
			last = table.Rule{Verdict: table.Verdict{Action: table.Refuse}, Counter: table.CounterEgress}
		}
		rules = append(rules, last)
		return parts, m.addChain(name, rules)
	})
}

// maxReadable is how much of a policy's name is in that of its chain.
const maxReadable = 120

// policyKey is the name of a policy's chain. Its end keeps apart what is equal once
// joined and cut.
func policyKey(p *parsed, d direction) string {
	readable := strings.ReplaceAll(p.Namespace+"-"+p.Name, ".", "-")
	if len(readable) > maxReadable {
		readable = readable[:maxReadable]
	}
	return d.String() + "-" + readable + "-" + hash(p.String())
}

func (m *Model) acquirePolicy(p *parsed, d direction) string {
	key := policyKey(p, d)
	return m.acquire(key, func() ([]string, func()) {
		c := &compilation{Model: m, direction: d}
		c.policy(p)
		return c.parts, m.addChain(key, c.rules)
	})
}

// recompile puts what a policy says now into its chain, if that is in use.
func (m *Model) recompile(p *parsed, d direction) {
	key := policyKey(p, d)
	s := m.shared[key]
	if s == nil {
		return
	}
	c := &compilation{Model: m, direction: d}
	c.policy(p)
	before := s.parts
	s.parts = c.parts
	m.table.Chains[key] = c.rules
	for _, part := range before {
		m.release(part)
	}
}

// compilation is the making of one chain.
type compilation struct {
	*Model
	direction direction
	parts     []string
	rules     []table.Rule
}

func (c *compilation) policy(p *parsed) {
	for _, rule := range p.rules[c.direction] {
		c.rule(rule)
	}
}

func (c *compilation) add(family table.Family, verdict table.Verdict, matches ...table.Match) {
	c.rules = append(c.rules, table.Rule{Family: family, Matches: matches, Verdict: verdict})
}

func (c *compilation) use(key string) { c.parts = append(c.parts, key) }

var pass = table.Verdict{Action: table.Pass}

func (c *compilation) rule(r rule) {
	if (!r.anyPort && len(r.ports)+len(r.named) == 0) || (!r.anyPeer && len(r.peers)+len(r.blocks) == 0) {
		return // none of them could be read, or exceptions leave nothing
	}
	verdict := pass
	switch {
	case r.anyPeer && r.anyPort:
		c.add(0, pass)
		return
	case r.anyPeer:
		c.ports(r)
		return
	case !r.anyPort:
		verdict = table.Verdict{Action: table.Jump, Chain: c.portsChain(r)}
	}
	address := table.Source
	if c.direction == egress {
		address = table.Destination
	}
	for _, peer := range r.peers {
		name := c.acquirePeers(peer)
		c.use(name)
		for _, family := range table.Families {
			c.add(family, verdict, table.Match{Key: address, Set: table.Named(name, family)})
		}
	}
	for _, family := range table.Families {
		var ranges []addressRange
		for _, block := range r.blocks {
			if table.FamilyOf(block.from) == family {
				ranges = append(ranges, block)
			}
		}
		if len(ranges) > 0 {
			name := c.acquireFixed("net", table.Networks, family, rangeElements(ranges))
			c.use(name)
			c.add(family, verdict, table.Match{Key: address, Set: name})
		}
	}
}

// ports lets pass what is for one of the rule's ports.
func (c *compilation) ports(r rule) {
	if len(r.ports) > 0 {
		var elements []table.Element
		for _, port := range mergedPorts(r.ports) {
			elements = append(elements, table.Element{Protocol: port.protocol, Port: port.from, PortEnd: port.to})
		}
		name := c.acquireFixed("ports", table.Ports, 0, elements)
		c.use(name)
		c.add(0, pass, table.Match{Key: table.Port, Set: name})
	}
	for _, port := range r.named {
		name := c.acquireNamed(port)
		c.use(name)
		for _, family := range table.Families {
			c.add(family, pass, table.Match{Key: table.DestinationPort, Set: table.Named(name, family)})
		}
	}
}

// portsChain has a chain for the rule's ports, which its peers lead to.
func (c *compilation) portsChain(r rule) string {
	key := "to-" + hash(fmt.Sprint(mergedPorts(r.ports), r.named))
	c.use(c.acquire(key, func() ([]string, func()) {
		inner := &compilation{Model: c.Model, direction: c.direction}
		inner.ports(r)
		return inner.parts, c.addChain(key, inner.rules)
	}))
	return key
}

// acquirePeers has the sets of the pods of a selector and returns their common name.
func (m *Model) acquirePeers(s selector) string {
	name := "peers-" + hash(s.String()) + "-"
	return m.acquire(name, func() ([]string, func()) {
		p := &peers{selector: s, name: name, counts: map[netip.Addr]int{}}
		remove := m.addSets(name, table.Addresses)
		candidates := m.pods
		if s.namespaces == nil {
			candidates = m.inside[s.namespace]
		}
		for _, pod := range candidates {
			if p.matches(m, pod) {
				p.add(m, pod)
			}
		}
		m.peers[name] = p
		return nil, func() {
			delete(m.peers, name)
			remove()
		}
	})
}

// acquireNamed has the sets of the pods' ports of a name and returns their common name.
func (m *Model) acquireNamed(port namedPort) string {
	name := "port-" + hash(fmt.Sprint(port)) + "-"
	return m.acquire(name, func() ([]string, func()) {
		n := &named{namedPort: port, name: name, counts: map[table.Element]int{}}
		remove := m.addSets(name, table.AddressPorts)
		for _, pod := range m.pods {
			n.add(m, pod)
		}
		m.named[port] = n
		return nil, func() {
			delete(m.named, port)
			remove()
		}
	})
}

func (m *Model) addSets(name string, kind table.Kind) (remove func()) {
	for _, family := range table.Families {
		m.table.AddSet(table.Named(name, family), kind, family)
	}
	return func() {
		for _, family := range table.Families {
			delete(m.table.Sets, table.Named(name, family))
		}
	}
}

// acquireFixed has a set that is named by its content.
func (m *Model) acquireFixed(prefix string, kind table.Kind, family table.Family, elements []table.Element) string {
	name := fmt.Sprintf("%s%d-%s", prefix, family, hash(fmt.Sprint(elements)))
	return m.acquire(name, func() ([]string, func()) {
		set := m.table.AddSet(name, kind, family)
		for _, element := range elements {
			set.Put(element, table.Verdict{})
		}
		return nil, func() { delete(m.table.Sets, name) }
	})
}

func rangeElements(ranges []addressRange) []table.Element {
	var elements []table.Element
	for _, r := range ranges {
		elements = append(elements, table.Element{From: r.from, To: r.to})
	}
	return elements
}

// Policies counts the policies that select a local pod.
func (m *Model) Policies() int {
	count := 0
	for _, inNamespace := range m.policies {
		for _, p := range inNamespace {
			if m.Selects(p.NamespacedName) {
				count++
			}
		}
	}
	return count
}
