package compile

import (
	"encoding/binary"
	"hash/fnv"
	"net/netip"
	"slices"

	"github.com/bulkhead-dev/bulkhead/internal/ruleset"
)

// Endpoints by IP family, sorted, each once.
type families [2][]netip.AddrPort

func family(address netip.Addr) int {
	if address.Is4() {
		return 0
	}
	return 1
}

// backends are the endpoints of one port of a Service.
type backends struct {
	// cluster are those for traffic that may go anywhere, local those on this node.
	cluster, local families
}

// candidate is an endpoint of a port before the choice.
type candidate struct {
	address  netip.AddrPort
	endpoint *Endpoint
}

// backends chooses the endpoints of each port of the Service, from slices in the
// order of their names.
func (c *compiler) backends(endpointSlices []*Slice) []backends {
	chosen := make([]backends, len(c.service.Ports))
	for i, port := range c.service.Ports {
		var byFamily [2][]candidate
		for _, slice := range endpointSlices {
			for _, slicePort := range slice.Ports {
				if slicePort.Name != port.Name || slicePort.Protocol != port.Protocol {
					continue
				}
				for j := range slice.Endpoints {
					endpoint := &slice.Endpoints[j]
					in := family(endpoint.Address)
					byFamily[in] = append(byFamily[in], candidate{netip.AddrPortFrom(endpoint.Address, slicePort.Port), endpoint})
				}
			}
		}
		for in, candidates := range byFamily {
			candidates = merge(candidates)
			chosen[i].cluster[in] = c.clusterEndpoints(candidates)
			if c.service.InternalLocal {
				chosen[i].local[in] = localEndpoints(candidates)
			}
		}
	}
	return chosen
}

// merge keeps each address once. While an endpoint moves from one slice to another
// it may stand in both, and a new pod may have the address of one that is ending:
// the one that is better to send to counts.
func merge(candidates []candidate) []candidate {
	slices.SortStableFunc(candidates, func(a, b candidate) int {
		if order := a.address.Compare(b.address); order != 0 {
			return order
		}
		return b.endpoint.fitness() - a.endpoint.fitness()
	})
	return slices.CompactFunc(candidates, func(a, b candidate) bool { return a.address == b.address })
}

// clusterEndpoints are the ready endpoints that the topology allows, or those that
// still serve while they end where no endpoint is ready (KEP-1669).
func (c *compiler) clusterEndpoints(candidates []candidate) []netip.AddrPort {
	allowed := c.topology(candidates)
	chosen := choose(candidates, func(e *Endpoint) bool { return e.Ready && allowed(e) })
	if len(chosen) == 0 {
		chosen = choose(candidates, func(e *Endpoint) bool { return e.Serving && e.Terminating })
	}
	return chosen
}

// localEndpoints are the same among those on this node.
func localEndpoints(candidates []candidate) []netip.AddrPort {
	chosen := choose(candidates, func(e *Endpoint) bool { return e.Local && e.Ready })
	if len(chosen) == 0 {
		chosen = choose(candidates, func(e *Endpoint) bool { return e.Local && e.Serving && e.Terminating })
	}
	return chosen
}

// topology says which endpoints the hints allow on this node: those hinted for the
// node, else those hinted for its zone. Hints count if every ready endpoint has one
// and some are for here.
func (c *compiler) topology(candidates []candidate) func(*Endpoint) bool {
	ready, nodeHints, zoneHints, forNode, forZone := false, true, true, false, false
	inZone := func(e *Endpoint) bool { return c.node.Zone != "" && slices.Contains(e.Zones, c.node.Zone) }
	for _, candidate := range candidates {
		e := candidate.endpoint
		if !e.Ready {
			continue
		}
		ready = true
		nodeHints = nodeHints && e.NodeHints
		forNode = forNode || e.HintedHere
		zoneHints = zoneHints && len(e.Zones) > 0
		forZone = forZone || inZone(e)
	}
	switch {
	case ready && nodeHints && forNode:
		return func(e *Endpoint) bool { return e.HintedHere }
	case ready && zoneHints && forZone:
		return inZone
	default:
		return func(*Endpoint) bool { return true }
	}
}

func choose(candidates []candidate, wanted func(*Endpoint) bool) []netip.AddrPort {
	var chosen []netip.AddrPort
	for _, candidate := range candidates {
		if wanted(candidate.endpoint) {
			if chosen == nil {
				chosen = make([]netip.AddrPort, 0, len(candidates))
			}
			chosen = append(chosen, candidate.address)
		}
	}
	return chosen
}

// rank orders endpoints in a way that differs from node to node.
func rank(node string, endpoint netip.AddrPort) uint64 {
	hash := fnv.New64a()
	_, _ = hash.Write([]byte(node))
	bytes := endpoint.Addr().As16()
	_, _ = hash.Write(bytes[:])
	var port [2]byte
	binary.BigEndian.PutUint16(port[:], endpoint.Port())
	_, _ = hash.Write(port[:])
	// The last steps of FNV leave neighbours near each other; this spreads them.
	sum := hash.Sum64()
	sum ^= sum >> 33
	sum *= 0xff51afd7ed558ccd
	return sum ^ sum>>33
}

// isEndpoint tells whether an address may stand behind a Service.
func isEndpoint(address netip.Addr) bool {
	return isFrontend(address) && !address.IsLinkLocalUnicast()
}

// isFrontend tells whether an address may be a Service's.
func isFrontend(address netip.Addr) bool {
	return address.IsValid() && address.Zone() == "" && !address.IsUnspecified() && !address.IsLoopback() && !address.IsMulticast()
}

// protocols by their names in the API.
var protocols = map[string]ruleset.Protocol{"TCP": ruleset.TCP, "UDP": ruleset.UDP, "SCTP": ruleset.SCTP}
