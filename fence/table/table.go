// Package table is the language between the compiler of policies and the kernel:
// named sets, maps and chains of simple rules, as values that can be compared and
// judged without a kernel.
//
// What never changes (the hooks, and how a packet gets from them to the maps of this
// package) is not in it; package nft has that.
package table

import (
	"net/netip"
)

// Family is an IP family: 4, 6, or 0 for both.
type Family uint8

// FamilyOf is the family of an address.
func FamilyOf(address netip.Addr) Family {
	if address.Is4() {
		return 4
	}
	return 6
}

// Families are both of them.
var Families = []Family{4, 6}

// Kind says what the elements of a set are.
type Kind uint8

const (
	// Addresses are single ones, From.
	Addresses Kind = iota + 1
	// Networks are ranges of addresses, From to To. A set of them does not change.
	Networks
	// Ports are ranges of ports of a protocol. A set of them does not change.
	Ports
	// AddressPorts are an address From with a protocol and one port each.
	AddressPorts
	// Verdicts are single addresses, From, with what to do.
	Verdicts
	// Interfaces are names of them.
	Interfaces
)

// Element of a set; which fields count is the kind's matter.
type Element struct {
	From, To netip.Addr
	// Protocol is the number that IANA gave it.
	Protocol uint8
	// Port to PortEnd, both included.
	Port, PortEnd uint16
	Interface     string
}

// Action ends a rule.
type Action uint8

const (
	// Pass lets the packet through this direction: the other one still judges it.
	Pass Action = iota + 1
	// Drop ends the packet without an answer.
	Drop
	// Refuse ends the packet and tells its sender, who need not wait for an answer.
	Refuse
	// Jump goes on in another chain and comes back after its end.
	Jump
)

// Verdict is what becomes of a packet. Chain is set for Jump.
type Verdict struct {
	Action Action
	Chain  string
}

// Set holds elements. Only the values of Verdicts are not zero.
type Set struct {
	Name   string
	Kind   Kind
	Family Family
	// Version is another one after each change of Elements, and no other set's of the
	// table: also not that of one of the same name before it.
	Version  uint64
	Elements map[Element]Verdict
	clock    *uint64
}

func (s *Set) changed() {
	*s.clock++
	s.Version = *s.clock
}

// Put adds an element, or gives it another verdict.
func (s *Set) Put(element Element, verdict Verdict) {
	if before, ok := s.Elements[element]; ok && before == verdict {
		return
	}
	s.Elements[element] = verdict
	s.changed()
}

// Remove takes an element away, if it is there.
func (s *Set) Remove(element Element) {
	if _, ok := s.Elements[element]; ok {
		delete(s.Elements, element)
		s.changed()
	}
}

// Key is what of a packet a rule looks up.
type Key uint8

const (
	// Source address.
	Source Key = iota + 1
	// Destination address, the final one.
	Destination
	// Port is protocol and destination port, in a set of Ports.
	Port
	// DestinationPort is destination address, protocol and destination port, in a set
	// of AddressPorts.
	DestinationPort
)

// Match holds if the packet's key is in the set.
type Match struct {
	Key Key
	Set string
}

// Rule holds if the packet is of its family and all its matches hold.
type Rule struct {
	Family  Family
	Matches []Match
	Verdict Verdict
	// Counter counts the packets for which it held; empty for none.
	Counter string
}

// Counters of packets that did not pass, by reason.
const (
	// CounterEgress counts what no policy lets the local pod send it.
	CounterEgress = "egress"
	// CounterIngress counts what no policy lets the local pod receive it.
	CounterIngress = "ingress"
	// CounterSpoofed: the source address is not that of the interface's pod.
	CounterSpoofed = "spoofed"
	// CounterUnknown: from or to a local address of which no pod is known.
	CounterUnknown = "unknown"
)

// Counters are all of them.
var Counters = []string{CounterEgress, CounterIngress, CounterSpoofed, CounterUnknown}

// Names of the sets that packets are looked up in first.
const (
	// Outside are the interfaces that no local pod is behind.
	Outside = "outside"
	// From and To are the local pods, with what judges what they send and receive; the
	// family is appended.
	From = "from"
	To   = "to"
	// PodNetworks are those that local pods' addresses are from; the family is appended.
	PodNetworks = "pod-networks"
)

// Named is the name of a set that exists once for each family.
func Named(name string, family Family) string {
	if family == 4 {
		return name + "4"
	}
	return name + "6"
}

// Table is all of it.
type Table struct {
	Sets   map[string]*Set
	Chains map[string][]Rule
	clock  *uint64
}

// New makes a table with the sets that are always there, empty.
func New() *Table {
	t := &Table{Sets: map[string]*Set{}, Chains: map[string][]Rule{}, clock: new(uint64)}
	t.AddSet(Outside, Interfaces, 0)
	for _, family := range Families {
		t.AddSet(Named(From, family), Verdicts, family)
		t.AddSet(Named(To, family), Verdicts, family)
		t.AddSet(Named(PodNetworks, family), Networks, family)
	}
	return t
}

// AddSet adds an empty set.
func (t *Table) AddSet(name string, kind Kind, family Family) *Set {
	set := &Set{Name: name, Kind: kind, Family: family, Elements: map[Element]Verdict{}, clock: t.clock}
	set.changed()
	t.Sets[name] = set
	return set
}
