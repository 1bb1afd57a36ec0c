// Package ruleset is the language in which the data plane speaks of a tenant's
// Services (decision D13): what tenant-proxy compiles, cri-ext hands on, and an
// engine puts into a sandbox's kernel. A Set is one tenant's rules on one node,
// complete, numbered and in one canonical order; a Delta leads from one Set to
// the next.
//
// A Set never changes once it is made, so any number of sandboxes share it.
package ruleset

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"

	"k8s.io/apimachinery/pkg/types"
)

// Bounds of a Set. What is beyond them is not valid, whoever made it; a compiler
// has to choose what to leave out, and to say so.
const (
	// MaxServices is the number of frontends in a set.
	MaxServices = 65536
	// MaxEndpoints is the number of endpoints of one frontend.
	MaxEndpoints = 1000
	// MaxBackends is the number of endpoints of all frontends together.
	MaxBackends = 262144
	// MaxRanges is the number of address ranges of a tenant's Services.
	MaxRanges = 16
	// MaxAffinity is the longest session affinity in seconds, one day, as
	// Kubernetes has it.
	MaxAffinity = 86400
	// maxTenant is the length of a UID in bytes.
	maxTenant = 64
)

// Protocol is an IP protocol number, one of TCP, UDP and SCTP.
type Protocol uint8

// Protocols of Services, by their IANA numbers.
const (
	TCP  Protocol = 6
	UDP  Protocol = 17
	SCTP Protocol = 132
)

func (p Protocol) String() string {
	switch p {
	case TCP:
		return "TCP"
	case UDP:
		return "UDP"
	case SCTP:
		return "SCTP"
	}
	return fmt.Sprintf("protocol %d", uint8(p))
}

// Key is a frontend: the address that a client connects to.
type Key struct {
	Addr     netip.Addr
	Protocol Protocol
	Port     uint16
}

func (k Key) String() string {
	return fmt.Sprintf("%s/%s", netip.AddrPortFrom(k.Addr, k.Port), k.Protocol)
}

// Compare orders keys: IPv4 before IPv6, then by address, protocol and port.
func (k Key) Compare(other Key) int {
	return cmp.Or(k.Addr.Compare(other.Addr), cmp.Compare(k.Protocol, other.Protocol), cmp.Compare(k.Port, other.Port))
}

// Service is one frontend and what stands behind it. Without endpoints a client is
// refused at once.
type Service struct {
	Key
	// Affinity is how long a client stays with the endpoint it has, in seconds
	// after its last connection; 0 is not at all.
	Affinity uint32
	// Endpoints are in ascending order, each once, of the frontend's IP family.
	Endpoints []netip.AddrPort
}

func (s Service) equal(other Service) bool {
	return s.Key == other.Key && s.Affinity == other.Affinity && slices.Equal(s.Endpoints, other.Endpoints)
}

// Set is all rules of one tenant on one node.
type Set struct {
	tenant     types.UID
	generation uint64
	ranges     []netip.Prefix
	services   []Service
	sum        sum
	backends   int
}

// New makes a set out of services in any order. Endpoints are sorted, and equal
// ones merged; two services of one key, or anything out of bounds, is an error. It
// takes the slices over.
func New(tenant types.UID, generation uint64, ranges []netip.Prefix, services []Service) (*Set, error) {
	s := &Set{tenant: tenant, generation: generation, ranges: ranges, services: services}
	slices.SortFunc(s.ranges, comparePrefix)
	s.ranges = slices.Compact(s.ranges)
	slices.SortFunc(s.services, func(a, b Service) int { return a.Compare(b.Key) })
	for i := range s.services {
		service := &s.services[i]
		slices.SortFunc(service.Endpoints, netip.AddrPort.Compare)
		service.Endpoints = slices.Compact(service.Endpoints)
		s.backends += len(service.Endpoints)
	}
	if err := s.check(); err != nil {
		return nil, err
	}
	for i := range s.services {
		s.sum.add(s.services[i].hash())
	}
	return s, nil
}

// Empty is the set of a tenant of which nothing is known yet. Its generation is 0.
func Empty(tenant types.UID) *Set { return &Set{tenant: tenant} }

// Tenant is the UID of the virtual cluster that the rules belong to.
func (s *Set) Tenant() types.UID { return s.tenant }

// Generation counts the sets of a tenant on a node, from 1.
func (s *Set) Generation() uint64 { return s.generation }

// Ranges are the networks that ClusterIPs come from. What no service has of them
// is refused: it leads to nobody of this tenant. The caller must not change them.
func (s *Set) Ranges() []netip.Prefix { return s.ranges }

// Services are in the order of their keys. The caller must not change them.
func (s *Set) Services() []Service { return s.services }

// Backends is the number of endpoints of all services together.
func (s *Set) Backends() int { return s.backends }

// Find returns the service of a key.
func (s *Set) Find(key Key) (Service, bool) {
	i, found := slices.BinarySearchFunc(s.services, key, func(s Service, k Key) int { return s.Compare(k) })
	if !found {
		return Service{}, false
	}
	return s.services[i], true
}

// check verifies order and bounds.
func (s *Set) check() error {
	if s.tenant == "" || len(s.tenant) > maxTenant {
		return fmt.Errorf("rule set: tenant UID %q has no valid length", s.tenant)
	}
	if len(s.ranges) > MaxRanges {
		return fmt.Errorf("rule set of %s: %d ranges exceed %d", s.tenant, len(s.ranges), MaxRanges)
	}
	for i, prefix := range s.ranges {
		if !prefix.IsValid() || prefix != prefix.Masked() || !plain(prefix.Addr()) {
			return fmt.Errorf("rule set of %s: %s is no network", s.tenant, prefix)
		}
		if i > 0 && comparePrefix(s.ranges[i-1], prefix) >= 0 {
			return fmt.Errorf("rule set of %s: range %s is out of order", s.tenant, prefix)
		}
	}
	if len(s.services) > MaxServices {
		return fmt.Errorf("rule set of %s: %d services exceed %d", s.tenant, len(s.services), MaxServices)
	}
	if s.backends > MaxBackends {
		return fmt.Errorf("rule set of %s: %d endpoints exceed %d", s.tenant, s.backends, MaxBackends)
	}
	for i := range s.services {
		if err := s.services[i].check(); err != nil {
			return fmt.Errorf("rule set of %s: %w", s.tenant, err)
		}
		if i > 0 && s.services[i-1].Compare(s.services[i].Key) >= 0 {
			return fmt.Errorf("rule set of %s: %s is there twice or out of order", s.tenant, s.services[i].Key)
		}
	}
	return nil
}

func (k Key) check() error {
	switch {
	case !plain(k.Addr) || k.Addr.IsUnspecified() || k.Addr.IsLoopback() || k.Addr.IsMulticast():
		return fmt.Errorf("%s is no address of a service", k)
	case k.Port == 0:
		return fmt.Errorf("%s has no port", k)
	case k.Protocol != TCP && k.Protocol != UDP && k.Protocol != SCTP:
		return fmt.Errorf("%s is of no protocol that services have", k)
	}
	return nil
}

func (s *Service) check() error {
	if err := s.Key.check(); err != nil {
		return err
	}
	if s.Affinity > MaxAffinity {
		return fmt.Errorf("%s: affinity of %d seconds exceeds %d", s.Key, s.Affinity, MaxAffinity)
	}
	if len(s.Endpoints) > MaxEndpoints {
		return fmt.Errorf("%s: %d endpoints exceed %d", s.Key, len(s.Endpoints), MaxEndpoints)
	}
	for i, endpoint := range s.Endpoints {
		address := endpoint.Addr()
		if !plain(address) || address.Is4() != s.Addr.Is4() || address.IsUnspecified() ||
			address.IsLoopback() || address.IsMulticast() || address.IsLinkLocalUnicast() || endpoint.Port() == 0 {
			return fmt.Errorf("%s: %s is no endpoint for it", s.Key, endpoint)
		}
		if i > 0 && s.Endpoints[i-1].Compare(endpoint) >= 0 {
			return fmt.Errorf("%s: endpoint %s is there twice or out of order", s.Key, endpoint)
		}
	}
	return nil
}

// plain tells an address that has one form only: no zone, no IPv4 within IPv6.
func plain(a netip.Addr) bool { return a.IsValid() && a.Zone() == "" && !a.Is4In6() }

func comparePrefix(a, b netip.Prefix) int {
	return cmp.Or(a.Addr().Compare(b.Addr()), cmp.Compare(a.Bits(), b.Bits()))
}

// WithGeneration returns the same rules under another number.
func (s *Set) WithGeneration(generation uint64) *Set {
	again := *s
	again.generation = generation
	return &again
}
