package compile

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"unique"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/types"
	netutils "k8s.io/utils/net"

	"github.com/bulkhead-dev/bulkhead/internal/ruleset"
)

// defaultAffinity is the API's default timeout of a session affinity in seconds.
const defaultAffinity = corev1.DefaultClientIPServiceAffinitySeconds

// Service is what rules depend on of a tenant's Service, and no more: tens of
// thousands of them are held.
type Service struct {
	Owner
	// ClusterIPs are empty for a Service that needs no rules: headless ones, and those
	// of type ExternalName.
	ClusterIPs, ExternalIPs, LoadBalancerIPs []netip.Addr
	Ports                                    []Port
	// Affinity in seconds, 0 for none.
	Affinity uint32
	// InternalLocal: cluster IPs lead to endpoints on the client's own node.
	InternalLocal bool

	problems []Problem
}

// Port of a Service.
type Port struct {
	Name           string
	Protocol       ruleset.Protocol
	Port, NodePort uint16
}

func (s *Service) weight() int { return 1 + len(s.Ports) }

// HasNodePorts tells whether the Service's rules depend on the nodes' addresses.
func (s *Service) HasNodePorts() bool {
	return slices.ContainsFunc(s.Ports, func(p Port) bool { return p.NodePort != 0 })
}

// Equal tells whether both make the same rules.
func (s *Service) Equal(other *Service) bool {
	return s.Owner == other.Owner && s.Affinity == other.Affinity && s.InternalLocal == other.InternalLocal &&
		slices.Equal(s.ClusterIPs, other.ClusterIPs) && slices.Equal(s.ExternalIPs, other.ExternalIPs) &&
		slices.Equal(s.LoadBalancerIPs, other.LoadBalancerIPs) && slices.Equal(s.Ports, other.Ports) &&
		slices.Equal(s.problems, other.problems)
}

// NewService reads a Service. It keeps nothing of the object but strings.
func NewService(in *corev1.Service) *Service {
	s := &Service{Owner: Owner{
		NamespacedName: types.NamespacedName{Namespace: in.Namespace, Name: in.Name}, UID: in.UID, Created: in.CreationTimestamp.Unix(),
	}}
	if in.Spec.Type == corev1.ServiceTypeExternalName || in.Spec.ClusterIP == corev1.ClusterIPNone || in.Spec.ClusterIP == "" {
		return s
	}
	clusterIPs := in.Spec.ClusterIPs
	if len(clusterIPs) == 0 {
		clusterIPs = []string{in.Spec.ClusterIP}
	}
	s.ClusterIPs = s.addresses(ClusterIP, clusterIPs)
	s.ExternalIPs = s.addresses(ExternalIP, in.Spec.ExternalIPs)
	var ingress []string
	for _, point := range in.Status.LoadBalancer.Ingress {
		// A load balancer that is a proxy has to see the traffic itself (KEP-1860).
		if point.IP != "" && (point.IPMode == nil || *point.IPMode == corev1.LoadBalancerIPModeVIP) {
			ingress = append(ingress, point.IP)
		}
	}
	s.LoadBalancerIPs = s.addresses(LoadBalancer, ingress)
	for _, port := range in.Spec.Ports {
		protocol, known := protocols[string(cmp.Or(port.Protocol, corev1.ProtocolTCP))]
		if !known || port.Port < 1 || port.Port > 65535 || port.NodePort < 0 || port.NodePort > 65535 {
			continue // no apiserver stores these
		}
		s.Ports = append(s.Ports, Port{Name: intern(port.Name), Protocol: protocol, Port: uint16(port.Port), NodePort: uint16(port.NodePort)})
	}
	s.InternalLocal = in.Spec.InternalTrafficPolicy != nil && *in.Spec.InternalTrafficPolicy == corev1.ServiceInternalTrafficPolicyLocal
	if in.Spec.SessionAffinity == corev1.ServiceAffinityClientIP {
		s.Affinity = affinity(in.Spec.SessionAffinityConfig)
	}
	return s
}

func affinity(config *corev1.SessionAffinityConfig) uint32 {
	if config == nil || config.ClientIP == nil || config.ClientIP.TimeoutSeconds == nil {
		return uint32(defaultAffinity)
	}
	return uint32(min(max(*config.ClientIP.TimeoutSeconds, 1), ruleset.MaxAffinity))
}

// addresses reads addresses, each once, in a fixed order, and remembers those that
// are none.
func (s *Service) addresses(kind Kind, texts []string) []netip.Addr {
	var read []netip.Addr
	for _, text := range texts {
		address := parse(text)
		if !isFrontend(address) {
			if len(s.problems) == 0 { // one is enough to look at
				s.problems = append(s.problems, Problem{InvalidAddress, fmt.Sprintf("%s %q cannot be served: it is no address that a Service can have", kind, text)})
			}
			continue
		}
		read = append(read, address)
	}
	if kind == ClusterIP { // in the order of the families that the Service names
		return read
	}
	slices.SortFunc(read, netip.Addr.Compare)
	return slices.Compact(read)
}

// parse reads an address as the rest of Kubernetes does, which takes leading zeros,
// and IPv4 within IPv6 for IPv4. What is no address is not valid.
func parse(text string) netip.Addr {
	address, _ := netip.AddrFromSlice(netutils.ParseIPSloppy(text))
	return address.Unmap()
}

// intern makes equal strings share their memory: names of ports and zones are few.
func intern(text string) string { return unique.Make(text).Value() }

// Slice is what rules depend on of an EndpointSlice.
type Slice struct {
	Name  string
	Ports []SlicePort
	// Endpoints that have a usable address.
	Endpoints []Endpoint
}

// SlicePort is a port of endpoints.
type SlicePort struct {
	Name     string
	Protocol ruleset.Protocol
	Port     uint16
}

// Endpoint is one endpoint, seen from the node that rules are compiled for.
type Endpoint struct {
	Address                     netip.Addr
	Ready, Serving, Terminating bool
	// Local: it is on this node.
	Local bool
	// NodeHints: it is hinted for some nodes; HintedHere: for this one too.
	NodeHints, HintedHere bool
	// Zones that it is hinted for.
	Zones []string
}

// fitness orders endpoints of one address, the best to send to being the highest.
func (e *Endpoint) fitness() int {
	fitness := 0
	if !e.Terminating {
		fitness += 4
	}
	if e.Ready {
		fitness += 2
	}
	if e.Serving {
		fitness++
	}
	return fitness
}

func (e *Endpoint) equal(other *Endpoint) bool {
	return e.Address == other.Address && e.Ready == other.Ready && e.Serving == other.Serving && e.Terminating == other.Terminating &&
		e.Local == other.Local && e.NodeHints == other.NodeHints && e.HintedHere == other.HintedHere && slices.Equal(e.Zones, other.Zones)
}

// Equal tells whether both make the same rules.
func (s *Slice) Equal(other *Slice) bool {
	return s.Name == other.Name && slices.Equal(s.Ports, other.Ports) &&
		slices.EqualFunc(s.Endpoints, other.Endpoints, func(a, b Endpoint) bool { return a.equal(&b) })
}

func (s *Slice) weight() int { return 1 + len(s.Ports) + len(s.Endpoints) }

// ServiceOf is the Service that an EndpointSlice belongs to; its name is empty if it
// belongs to none.
func ServiceOf(in *discoveryv1.EndpointSlice) types.NamespacedName {
	return types.NamespacedName{Namespace: in.Namespace, Name: in.Labels[discoveryv1.LabelServiceName]}
}

// NewSlice reads an EndpointSlice as it is seen from a node. It keeps nothing of the
// object but strings. Endpoints and ports that cannot be used are left out, as
// kube-proxy does: they were not written by a person.
func NewSlice(node string, in *discoveryv1.EndpointSlice) *Slice {
	s := &Slice{Name: in.Name}
	if in.AddressType != discoveryv1.AddressTypeIPv4 && in.AddressType != discoveryv1.AddressTypeIPv6 {
		return s
	}
	for _, port := range in.Ports {
		protocol := corev1.ProtocolTCP
		if port.Protocol != nil {
			protocol = *port.Protocol
		}
		number, known := protocols[string(protocol)]
		if !known || port.Port == nil || *port.Port < 1 || *port.Port > 65535 {
			continue
		}
		name := ""
		if port.Name != nil {
			name = *port.Name
		}
		s.Ports = append(s.Ports, SlicePort{Name: intern(name), Protocol: number, Port: uint16(*port.Port)})
	}
	for i := range in.Endpoints {
		endpoint, usable := newEndpoint(node, &in.Endpoints[i])
		if usable && endpoint.Address.Is4() == (in.AddressType == discoveryv1.AddressTypeIPv4) {
			s.Endpoints = append(s.Endpoints, endpoint)
		}
	}
	s.Endpoints = slices.Clip(s.Endpoints)
	return s
}

func newEndpoint(node string, in *discoveryv1.Endpoint) (Endpoint, bool) {
	if len(in.Addresses) == 0 {
		return Endpoint{}, false
	}
	// Consumers are to use the first address only.
	address := parse(in.Addresses[0])
	if !isEndpoint(address) {
		return Endpoint{}, false
	}
	is := func(condition *bool, fallback bool) bool {
		if condition == nil {
			return fallback
		}
		return *condition
	}
	e := Endpoint{
		Address: address, Ready: is(in.Conditions.Ready, true), Serving: is(in.Conditions.Serving, true), Terminating: is(in.Conditions.Terminating, false),
		Local: in.NodeName != nil && *in.NodeName == node,
	}
	if in.Hints != nil {
		for _, zone := range in.Hints.ForZones {
			e.Zones = append(e.Zones, intern(zone.Name))
		}
		for _, hinted := range in.Hints.ForNodes {
			e.NodeHints = true
			e.HintedHere = e.HintedHere || hinted.Name == node
		}
	}
	return e, true
}

// NodeAddresses are the addresses at which a node's ports are reached. It ignores
// what is no address.
func NodeAddresses(in *corev1.Node) []netip.Addr {
	var addresses []netip.Addr
	for _, one := range in.Status.Addresses {
		if one.Type != corev1.NodeInternalIP && one.Type != corev1.NodeExternalIP {
			continue
		}
		if address := parse(strings.TrimSpace(one.Address)); isFrontend(address) {
			addresses = append(addresses, address)
		}
	}
	slices.SortFunc(addresses, netip.Addr.Compare)
	return slices.Compact(addresses)
}

// NodePortAddresses are those at which node ports are served on a node: its own
// first, then those of others by name, up to MaxNodeAddresses; dropped is how many
// are left out.
func NodePortAddresses(node string, byNode map[string][]netip.Addr) (addresses []netip.Addr, dropped int) {
	names := make([]string, 0, len(byNode))
	for name := range byNode {
		if name != node {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	seen := map[netip.Addr]bool{}
	for _, name := range append([]string{node}, names...) {
		for _, address := range byNode[name] {
			switch {
			case seen[address]:
			case len(addresses) == MaxNodeAddresses:
				dropped++
			default:
				addresses = append(addresses, address)
			}
			seen[address] = true
		}
	}
	return addresses, dropped
}
