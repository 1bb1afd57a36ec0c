package compile

import (
	"cmp"
	"encoding/binary"
	"hash/fnv"
	"net/netip"
	"slices"

	"github.com/bulkhead-dev/bulkhead/internal/ruleset"
)

func family(address netip.Addr) int {
	if address.Is4() {
		return 0
	}
	return 1
}

// backends are the endpoints of one port of a Service, by IP family.
type backends struct {
	// cluster are those for traffic that may go anywhere, local those on this node.
	cluster, local [2]choice
}

// choice is the endpoints of one port. Ports of a Service mostly have the same ones
// but for the number, so that those are chosen once for all of them.
type choice struct {
	// addresses at port, or mixed where the port's number differs from pod to pod.
	addresses *addresses
	port      uint16
	mixed     []netip.AddrPort
	// sampled: mixed are only some of them.
	sampled bool
	taken   []netip.AddrPort
}

// addresses are sorted. sample is what was taken of them last.
type addresses struct {
	all    []netip.Addr
	sample []netip.Addr
}

func (c *choice) len() int {
	if c.addresses != nil {
		return len(c.addresses.all)
	}
	return len(c.mixed)
}

// take returns up to n endpoints, sorted. It is called with one n only.
func (c *choice) take(node string, n int) []netip.AddrPort {
	switch {
	case c.taken != nil || c.len() == 0:
	case c.addresses == nil:
		c.taken = sample(node, c.mixed, n, netip.AddrPort.Addr, netip.AddrPort.Compare)
	default:
		if c.addresses.sample == nil {
			c.addresses.sample = sample(node, c.addresses.all, n, func(a netip.Addr) netip.Addr { return a }, netip.Addr.Compare)
		}
		c.taken = make([]netip.AddrPort, 0, len(c.addresses.sample))
		for _, address := range c.addresses.sample {
			c.taken = append(c.taken, netip.AddrPortFrom(address, c.port))
		}
	}
	return c.taken
}

// sample chooses n of all, by a hash that differs from node to node so that all nodes
// together serve all of them, and that keeps most of a choice when one comes or goes.
func sample[T any](node string, all []T, n int, addressOf func(T) netip.Addr, compare func(a, b T) int) []T {
	if len(all) <= n {
		return all
	}
	type ranked struct {
		one  T
		rank uint64
	}
	order := make([]ranked, 0, len(all))
	for _, one := range all {
		order = append(order, ranked{one, rank(node, addressOf(one))})
	}
	slices.SortFunc(order, func(a, b ranked) int { return cmp.Or(cmp.Compare(a.rank, b.rank), compare(a.one, b.one)) })
	chosen := make([]T, 0, n)
	for _, one := range order[:n] {
		chosen = append(chosen, one.one)
	}
	slices.SortFunc(chosen, compare)
	return chosen
}

// rank orders addresses in a way that differs from node to node.
func rank(node string, address netip.Addr) uint64 {
	hash := fnv.New64a()
	_, _ = hash.Write([]byte(node))
	bytes := address.As16()
	_, _ = hash.Write(bytes[:])
	// The last steps of FNV leave neighbours near each other; this spreads them.
	sum := hash.Sum64()
	sum ^= sum >> 33
	sum *= 0xff51afd7ed558ccd
	return sum ^ sum>>33
}

// candidate is an endpoint of a port before the choice.
type candidate struct {
	address  netip.AddrPort
	endpoint *Endpoint
}

// place is where a port of the Service is found: a slice, and the number there.
type place struct {
	slice  int
	number uint16
}

// backends chooses the endpoints of each port of the Service, from slices in the
// order of their names.
func (c *compiler) backends(endpointSlices []*Slice) []backends {
	type portName struct {
		name     string
		protocol ruleset.Protocol
	}
	places := map[portName][]place{}
	for i, slice := range endpointSlices {
		for _, port := range slice.Ports {
			at := portName{port.Name, port.Protocol}
			places[at] = append(places[at], place{i, port.Port})
		}
	}
	chosen := make([]backends, len(c.service.Ports))
	known := map[string]*backends{}
	for i, port := range c.service.Ports {
		at := places[portName{port.Name, port.Protocol}]
		if len(at) == 0 {
			continue
		}
		number, same := at[0].number, true
		key := make([]byte, 0, 4*len(at))
		for _, place := range at {
			same = same && place.number == number
			key = binary.BigEndian.AppendUint32(key, uint32(place.slice))
		}
		if !same {
			chosen[i] = c.choose(endpointSlices, at)
			chosen[i].each(func(of *choice) {
				of.sampled = len(of.mixed) > ruleset.MaxEndpoints
				of.mixed = sample(c.node.Name, of.mixed, ruleset.MaxEndpoints, netip.AddrPort.Addr, netip.AddrPort.Compare)
			})
			continue
		}
		if known[string(key)] == nil {
			all := c.choose(endpointSlices, at)
			all.each((*choice).unmix)
			known[string(key)] = &all
		}
		chosen[i] = *known[string(key)]
		chosen[i].each(func(of *choice) { of.port = number })
	}
	return chosen
}

func (b *backends) each(f func(*choice)) {
	for in := range b.cluster {
		f(&b.cluster[in])
		f(&b.local[in])
	}
}

// unmix keeps addresses of endpoints that have one port number.
func (c *choice) unmix() {
	c.addresses = &addresses{}
	for _, endpoint := range c.mixed {
		c.addresses.all = append(c.addresses.all, endpoint.Addr())
	}
	c.mixed = nil
}

// choose chooses the endpoints at some places.
func (c *compiler) choose(endpointSlices []*Slice, at []place) (chosen backends) {
	var byFamily [2][]candidate
	for _, place := range at {
		endpoints := endpointSlices[place.slice].Endpoints
		for i := range endpoints {
			in := family(endpoints[i].Address)
			byFamily[in] = append(byFamily[in], candidate{netip.AddrPortFrom(endpoints[i].Address, place.number), &endpoints[i]})
		}
	}
	for in, candidates := range byFamily {
		candidates = merge(candidates)
		chosen.cluster[in].mixed = c.clusterEndpoints(candidates)
		if c.service.InternalLocal {
			chosen.local[in].mixed = localEndpoints(candidates)
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
