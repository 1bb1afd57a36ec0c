package table

import "net/netip"

// Packet is what rules look at. Destination is the final one, after any Service's
// address has been translated.
type Packet struct {
	Source, Destination netip.Addr
	Protocol            uint8
	// DestinationPort is 0 for protocols without ports.
	DestinationPort uint16
}

// Egress tells whether the sender, if it is a local pod, may send the packet. local
// is false if no such pod is known.
func (t *Table) Egress(packet Packet) (passes, local bool) {
	return t.judge(From, packet.Source, packet)
}

// Ingress tells whether the receiver, if it is a local pod, may receive the packet.
func (t *Table) Ingress(packet Packet) (passes, local bool) {
	return t.judge(To, packet.Destination, packet)
}

func (t *Table) judge(set string, address netip.Addr, packet Packet) (passes, local bool) {
	verdict, local := t.Sets[Named(set, FamilyOf(address))].Elements[Element{From: address}]
	if !local {
		return true, false
	}
	action := t.verdict(verdict, packet)
	return action != Drop && action != Refuse, true
}

// verdict follows jumps; 0 means that the end of a chain was reached.
func (t *Table) verdict(verdict Verdict, packet Packet) Action {
	if verdict.Action != Jump {
		return verdict.Action
	}
	for _, rule := range t.Chains[verdict.Chain] {
		if !t.holds(rule, packet) {
			continue
		}
		if action := t.verdict(rule.Verdict, packet); action != 0 {
			return action
		}
	}
	return 0
}

func (t *Table) holds(rule Rule, packet Packet) bool {
	if rule.Family != 0 && rule.Family != FamilyOf(packet.Source) {
		return false
	}
	for _, match := range rule.Matches {
		if !t.Sets[match.Set].has(match.Key, packet) {
			return false
		}
	}
	return true
}

func (s *Set) has(key Key, packet Packet) bool {
	address := packet.Destination
	if key == Source {
		address = packet.Source
	}
	switch s.Kind {
	case Addresses, Verdicts:
		_, ok := s.Elements[Element{From: address}]
		return ok
	case AddressPorts:
		_, ok := s.Elements[Element{From: address, Protocol: packet.Protocol, Port: packet.DestinationPort}]
		return ok
	case Networks:
		for element := range s.Elements {
			if element.From.Compare(address) <= 0 && address.Compare(element.To) <= 0 {
				return true
			}
		}
	case Ports:
		for element := range s.Elements {
			if element.Protocol == packet.Protocol && element.Port <= packet.DestinationPort && packet.DestinationPort <= element.PortEnd {
				return true
			}
		}
	case Interfaces:
	}
	return false
}
