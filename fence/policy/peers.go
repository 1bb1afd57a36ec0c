package policy

import (
	"net/netip"

	"k8s.io/apimachinery/pkg/labels"

	"github.com/bulkhead-dev/bulkhead/fence/table"
)

// peers are the pods that a selector selects, as a set of addresses for each family.
type peers struct {
	selector
	name   string
	counts map[netip.Addr]int
}

func (p *peers) matchesNamespace(m *Model, namespace string) bool {
	if p.namespaces == nil {
		return p.namespace == namespace
	}
	return p.namespaces.Matches(m.namespaces[namespace])
}

func (p *peers) matches(m *Model, pod *Pod) bool {
	return pod != nil && p.matchesNamespace(m, pod.Namespace) && p.pods.Matches(labels.Set(pod.Labels))
}

// Two pods may have one address for a moment; it stays until both are gone.
func (p *peers) add(m *Model, pod *Pod) {
	for _, address := range pod.Addresses {
		if p.counts[address]++; p.counts[address] == 1 {
			m.table.Sets[table.Named(p.name, table.FamilyOf(address))].Put(table.Element{From: address}, table.Verdict{})
		}
	}
}

func (p *peers) remove(m *Model, pod *Pod) {
	for _, address := range pod.Addresses {
		if p.counts[address]--; p.counts[address] == 0 {
			delete(p.counts, address)
			m.table.Sets[table.Named(p.name, table.FamilyOf(address))].Remove(table.Element{From: address})
		}
	}
}

// named are the pods' addresses that have a port of a name.
type named struct {
	namedPort
	name   string
	counts map[table.Element]int
}

func (n *named) add(m *Model, pod *Pod) {
	n.each(pod, func(element table.Element) {
		if n.counts[element]++; n.counts[element] == 1 {
			m.table.Sets[table.Named(n.name, table.FamilyOf(element.From))].Put(element, table.Verdict{})
		}
	})
}

func (n *named) remove(m *Model, pod *Pod) {
	n.each(pod, func(element table.Element) {
		if n.counts[element]--; n.counts[element] == 0 {
			delete(n.counts, element)
			m.table.Sets[table.Named(n.name, table.FamilyOf(element.From))].Remove(element)
		}
	})
}

func (n *named) each(pod *Pod, visit func(table.Element)) {
	for _, port := range pod.Ports {
		if port.Name != n.namedPort.name || port.Protocol != n.protocol {
			continue
		}
		for _, address := range pod.Addresses {
			visit(table.Element{From: address, Protocol: port.Protocol, Port: port.Port})
		}
	}
}

// movePeers changes the sets that one pod is in. What it is in afterwards is added
// first, so that an address which stays is never missing.
func (m *Model) movePeers(before, after *Pod) {
	for _, p := range m.peers {
		was, is := p.matches(m, before), p.matches(m, after)
		if is {
			p.add(m, after)
		}
		if was {
			p.remove(m, before)
		}
	}
	for _, n := range m.named {
		if after != nil {
			n.add(m, after)
		}
		if before != nil {
			n.remove(m, before)
		}
	}
}
