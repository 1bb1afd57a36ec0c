// Package affinity chooses the endpoint that a sandbox stays with. All connections
// in a sandbox come from one client, so that session affinity means one endpoint
// for as long as it exists.
package affinity

import (
	"net/netip"
	"slices"

	"github.com/bulkhead-dev/bulkhead/internal/ruleset"
)

// Choices are the endpoints chosen for services with affinity. The zero value is
// ready for use.
type Choices struct {
	// Seed makes sandboxes choose apart from each other.
	Seed   uint64
	chosen map[ruleset.Key]netip.AddrPort
}

// Keep notes a choice that was made before.
func (c *Choices) Keep(key ruleset.Key, endpoint netip.AddrPort) {
	if c.chosen == nil {
		c.chosen = map[ruleset.Key]netip.AddrPort{}
	}
	c.chosen[key] = endpoint
}

// Forget drops the choice for a service that is gone.
func (c *Choices) Forget(key ruleset.Key) { delete(c.chosen, key) }

// Get returns the choice made for the service, without making one.
func (c *Choices) Get(key ruleset.Key) netip.AddrPort { return c.chosen[key] }

// Choose returns the endpoint chosen before if the service still has it, otherwise
// the one with the highest hash (rendezvous hashing): a lost endpoint moves those
// sandboxes only that were on it, and spreads them evenly. Without affinity or
// endpoints it returns no address.
func (c *Choices) Choose(service *ruleset.Service) netip.AddrPort {
	if service.Affinity == 0 || len(service.Endpoints) == 0 {
		c.Forget(service.Key)
		return netip.AddrPort{}
	}
	if chosen, found := c.chosen[service.Key]; found && slices.Contains(service.Endpoints, chosen) {
		return chosen
	}
	seed := mix(c.Seed ^ hash(netip.AddrPortFrom(service.Addr, service.Port), uint64(service.Protocol)))
	best, highest := service.Endpoints[0], uint64(0)
	for _, endpoint := range service.Endpoints {
		if weight := hash(endpoint, seed); weight >= highest {
			best, highest = endpoint, weight
		}
	}
	c.Keep(service.Key, best)
	return best
}

// Order returns the endpoints of a service with the chosen one first, the others as
// they were. Without affinity they stay as they are.
func Order(service *ruleset.Service, chosen netip.AddrPort) []netip.AddrPort {
	at := slices.Index(service.Endpoints, chosen)
	if service.Affinity == 0 || at <= 0 {
		return service.Endpoints
	}
	order := append(make([]netip.AddrPort, 0, len(service.Endpoints)), chosen)
	order = append(order, service.Endpoints[:at]...)
	return append(order, service.Endpoints[at+1:]...)
}

// hash is that of an endpoint under a seed.
func hash(endpoint netip.AddrPort, seed uint64) uint64 {
	address := endpoint.Addr().As16()
	for i := 0; i < 16; i += 8 {
		var word uint64
		for _, b := range address[i : i+8] {
			word = word<<8 | uint64(b)
		}
		seed = mix(seed ^ word)
	}
	return mix(seed ^ uint64(endpoint.Port()))
}

// mix is the finishing function of splitmix64 (Steele, Lea, Flood: Fast Splittable
// Pseudorandom Number Generators, 2014).
func mix(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}
