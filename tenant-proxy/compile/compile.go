// Package compile turns a tenant's Services and what stands behind them into the
// rules of one node (decision D13), with the meaning that kube-proxy gives them. It
// is pure: no clock, no cluster; equal input makes equal rules.
//
// Service compiles one Service by itself, Table puts those of a tenant together.
package compile

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"

	"k8s.io/apimachinery/pkg/types"

	"github.com/bulkhead-dev/bulkhead/internal/ruleset"
)

// Bounds of what one Service may make; a whole set's are in package ruleset.
const (
	// MaxFrontends is the number of frontends of one Service: ports times addresses.
	MaxFrontends = 8192
	// MaxBackends is the number of endpoints of all frontends of one Service.
	MaxBackends = 65536
	// MaxWeight is the number of Services, slices, their ports and endpoints that are
	// worth holding for one tenant: twice what a set has room for. A tenant may fill
	// their own etcd, and not the memory of every node.
	MaxWeight = 2 * (ruleset.MaxServices + ruleset.MaxBackends)
	// MaxNodeAddresses is the number of node addresses at which node ports are served.
	MaxNodeAddresses = 64
)

// Node is where the rules are for.
type Node struct {
	Name string
	// Zone of the node, empty if it has none.
	Zone string
}

// Kind says what a frontend's address is. A lower kind wins an address over a higher one.
type Kind uint8

// Kinds of frontends.
const (
	// ClusterIP was allotted by the tenant's apiserver: nothing a Service asks for
	// takes it away.
	ClusterIP Kind = iota
	ExternalIP
	LoadBalancer
	NodePort
)

func (k Kind) String() string {
	return [...]string{"cluster IP", "external IP", "load balancer address", "node port"}[k]
}

// Frontend is one rule that a Service asks for.
type Frontend struct {
	ruleset.Service
	Kind Kind
}

// Reason says in one word what is wrong with a Service; it stands on events and
// metrics.
type Reason string

// Reasons of problems.
const (
	// InvalidAddress: an address that no Service or endpoint can have.
	InvalidAddress Reason = "InvalidAddress"
	// OutsideServiceCIDR: a cluster IP that is not of the tenant's range.
	OutsideServiceCIDR Reason = "OutsideServiceCIDR"
	// AddressTaken: an address and port that another Service has.
	AddressTaken Reason = "AddressTaken"
	// TooManyAddresses: more ports and addresses than there may be.
	TooManyAddresses Reason = "TooManyAddresses"
	// TooManyEndpoints: more endpoints than there may be.
	TooManyEndpoints Reason = "TooManyEndpoints"
)

// Problem is what of a Service did not become a rule. Its message is the same on
// every node.
type Problem struct {
	Reason  Reason
	Message string
}

// compiler is the work on one Service.
type compiler struct {
	node     Node
	service  *Service
	out      []Frontend
	choices  []*choice // of each frontend
	seen     map[ruleset.Key]bool
	problems []Problem
	asked    int // for frontends
}

func (c *compiler) report(reason Reason, format string, arguments ...any) {
	for _, problem := range c.problems {
		if problem.Reason == reason {
			return // one of a kind is enough to look at
		}
	}
	c.problems = append(c.problems, Problem{Reason: reason, Message: fmt.Sprintf(format, arguments...)})
}

// Compile returns the rules that a Service asks for on a node, in the order of what
// must not be left out, and what cannot become one. ranges are those of the tenant's
// cluster IPs, nodes the addresses at which its node ports are served. slices are
// all of the Service, in any order.
func Compile(node Node, ranges []netip.Prefix, nodes []netip.Addr, service *Service, endpointSlices []*Slice) ([]Frontend, []Problem) {
	c := &compiler{node: node, service: service, seen: map[ruleset.Key]bool{}}
	for _, problem := range service.problems {
		c.report(problem.Reason, "%s", problem.Message)
	}
	if len(service.ClusterIPs) == 0 {
		return nil, c.problems
	}
	byName := slices.Clone(endpointSlices)
	slices.SortFunc(byName, func(a, b *Slice) int { return cmp.Compare(a.Name, b.Name) })

	var inside []netip.Addr
	for _, address := range service.ClusterIPs {
		if slices.ContainsFunc(ranges, func(p netip.Prefix) bool { return p.Contains(address) }) {
			inside = append(inside, address)
		} else {
			c.report(OutsideServiceCIDR, "cluster IP %s is not in this cluster's service range: its pods are not served at it", address)
		}
	}
	backends := c.backends(byName)
	for _, part := range []struct {
		kind      Kind
		addresses []netip.Addr
	}{
		{ClusterIP, inside}, {ExternalIP, service.ExternalIPs}, {LoadBalancer, service.LoadBalancerIPs}, {NodePort, nodes},
	} {
		for i, port := range service.Ports {
			number := port.Port
			if part.kind == NodePort {
				number = port.NodePort
			}
			if number == 0 {
				continue
			}
			for _, address := range part.addresses {
				// A Service has endpoints in the families of its cluster IPs.
				if !slices.ContainsFunc(service.ClusterIPs, func(a netip.Addr) bool { return a.Is4() == address.Is4() }) {
					continue
				}
				c.add(part.kind, ruleset.Key{Addr: address, Protocol: port.Protocol, Port: number}, &backends[i])
			}
		}
	}
	if c.asked > MaxFrontends {
		c.report(TooManyAddresses, "it has %d pairs of address and port, of which %d are served", c.asked, MaxFrontends)
	}
	c.fill()
	return c.out, c.problems
}

func (c *compiler) add(kind Kind, key ruleset.Key, of *backends) {
	if c.seen[key] {
		return // such as an external IP that is a load balancer's address too
	}
	c.asked++
	if c.asked > MaxFrontends {
		return
	}
	c.seen[key] = true
	c.out = append(c.out, Frontend{Kind: kind, Service: ruleset.Service{Key: key, Affinity: c.service.Affinity}})
	// What comes in from a pod goes to any endpoint, whatever externalTrafficPolicy
	// says of traffic from outside; kube-proxy does so for the pods of its node.
	chosen := &of.cluster
	if kind == ClusterIP && c.service.InternalLocal {
		chosen = &of.local
	}
	c.choices = append(c.choices, &chosen[family(key.Addr)])
}

// fill gives each frontend its endpoints: as many as keep the Service within its
// bounds, and each some. Frontends of one port share them.
func (c *compiler) fill() {
	total, longest := 0, 0
	for _, choice := range c.choices {
		total += choice.len()
		longest = max(longest, choice.len())
	}
	limit := ruleset.MaxEndpoints
	if total > MaxBackends {
		limit = min(limit, max(1, MaxBackends/len(c.out)))
	}
	if longest > limit || slices.ContainsFunc(c.choices, func(of *choice) bool { return of.sampled }) {
		c.report(TooManyEndpoints, "it has more endpoints than can be served on one node: each node serves some of them")
	}
	for i, choice := range c.choices {
		c.out[i].Endpoints = choice.take(c.node.Name, limit)
	}
}

// Owner is the Service that a frontend comes from.
type Owner struct {
	types.NamespacedName
	UID types.UID
	// Created in seconds since 1970.
	Created int64
}

// before tells whether a Service has its addresses rather than another: the older
// one does.
func (o Owner) before(other Owner) bool {
	return cmp.Or(cmp.Compare(o.Created, other.Created), cmp.Compare(o.UID, other.UID),
		cmp.Compare(o.Namespace, other.Namespace), cmp.Compare(o.Name, other.Name)) < 0
}
