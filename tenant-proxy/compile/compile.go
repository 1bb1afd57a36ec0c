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
	node      Node
	service   *Service
	out       []Frontend
	seen      map[ruleset.Key]bool
	problems  []Problem
	frontends int // asked for
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
				c.add(part.kind, ruleset.Key{Addr: address, Protocol: port.Protocol, Port: number}, backends[i])
			}
		}
	}
	if c.frontends > MaxFrontends {
		c.report(TooManyAddresses, "it has %d pairs of address and port, of which %d are served", c.frontends, MaxFrontends)
	}
	c.fit()
	return c.out, c.problems
}

func (c *compiler) add(kind Kind, key ruleset.Key, of backends) {
	if c.seen[key] {
		return // such as an external IP that is a load balancer's address too
	}
	c.frontends++
	if c.frontends > MaxFrontends {
		return
	}
	c.seen[key] = true
	frontend := Frontend{Kind: kind, Service: ruleset.Service{Key: key, Affinity: c.service.Affinity}}
	// What comes in from a pod goes to any endpoint, whatever externalTrafficPolicy
	// says of traffic from outside; kube-proxy does so for the pods of its node.
	choice := of.cluster
	if kind == ClusterIP && c.service.InternalLocal {
		choice = of.local
	}
	frontend.Endpoints = choice[family(key.Addr)]
	c.out = append(c.out, frontend)
}

// fit cuts the endpoints of each frontend so that the Service keeps within its
// bounds, each frontend with some.
func (c *compiler) fit() {
	total, longest := 0, 0
	for i := range c.out {
		total += len(c.out[i].Endpoints)
		longest = max(longest, len(c.out[i].Endpoints))
	}
	limit := ruleset.MaxEndpoints
	if total > MaxBackends {
		limit = min(limit, max(1, MaxBackends/len(c.out)))
	}
	if longest <= limit {
		return
	}
	c.report(TooManyEndpoints, "it has more endpoints than can be served on one node: each node serves some of them")
	// Frontends of one port share their endpoints: so do they once cut.
	cut := map[*netip.AddrPort][]netip.AddrPort{}
	for i := range c.out {
		endpoints := c.out[i].Endpoints
		if len(endpoints) <= limit {
			continue
		}
		if cut[&endpoints[0]] == nil {
			cut[&endpoints[0]] = c.sample(endpoints, limit)
		}
		c.out[i].Endpoints = cut[&endpoints[0]]
	}
}

// sample chooses n endpoints, by a hash that differs from node to node so that all
// nodes together serve all of them, and that keeps most of a choice when an endpoint
// comes or goes.
func (c *compiler) sample(endpoints []netip.AddrPort, n int) []netip.AddrPort {
	type ranked struct {
		endpoint netip.AddrPort
		rank     uint64
	}
	all := make([]ranked, 0, len(endpoints))
	for _, endpoint := range endpoints {
		all = append(all, ranked{endpoint, rank(c.node.Name, endpoint)})
	}
	slices.SortFunc(all, func(a, b ranked) int { return cmp.Or(cmp.Compare(a.rank, b.rank), a.endpoint.Compare(b.endpoint)) })
	chosen := make([]netip.AddrPort, 0, n)
	for _, one := range all[:n] {
		chosen = append(chosen, one.endpoint)
	}
	slices.SortFunc(chosen, netip.AddrPort.Compare)
	return chosen
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
