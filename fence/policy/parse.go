package policy

import (
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// direction of the traffic that a rule is about, seen from the pod it is for.
type direction uint8

const (
	ingress direction = iota
	egress
)

var directions = []direction{ingress, egress}

func (d direction) String() string {
	if d == ingress {
		return "in"
	}
	return "out"
}

// parsed is a NetworkPolicy, read.
type parsed struct {
	types.NamespacedName
	selector labels.Selector
	// applies to the direction; rules let pass, all else is denied.
	applies [2]bool
	rules   [2][]rule
}

// rule lets traffic pass with one of the peers at one of the ports.
type rule struct {
	anyPeer bool
	peers   []selector
	blocks  []addressRange
	anyPort bool
	ports   []portRange
	named   []namedPort
}

// selector of pods. Without a selector of namespaces it is about one namespace.
type selector struct {
	namespace  string
	namespaces labels.Selector
	pods       labels.Selector
}

func (s selector) String() string {
	if s.namespaces == nil {
		return "in " + s.namespace + ": " + s.pods.String()
	}
	return "of " + s.namespaces.String() + ": " + s.pods.String()
}

type portRange struct {
	protocol uint8
	from, to uint16
}

type namedPort struct {
	name     string
	protocol uint8
}

// parse reads a policy. What it cannot read lets nothing pass, and is a problem for
// the policy's author.
func parse(policy *networkingv1.NetworkPolicy) (*parsed, []string) {
	p := &reader{policy: &parsed{NamespacedName: types.NamespacedName{Namespace: policy.Namespace, Name: policy.Name}}}
	p.policy.selector = p.selectorOf("spec.podSelector", &policy.Spec.PodSelector, labels.Everything())
	for _, policyType := range policy.Spec.PolicyTypes {
		switch policyType {
		case networkingv1.PolicyTypeIngress:
			p.policy.applies[ingress] = true
		case networkingv1.PolicyTypeEgress:
			p.policy.applies[egress] = true
		default:
			p.problem("spec.policyTypes", "%q is not known", policyType)
		}
	}
	if len(policy.Spec.PolicyTypes) == 0 { // the API server fills it in
		p.policy.applies = [2]bool{true, len(policy.Spec.Egress) > 0}
	}
	for i, from := range policy.Spec.Ingress {
		p.rule(ingress, fmt.Sprintf("spec.ingress[%d]", i), "from", from.From, from.Ports)
	}
	for i, to := range policy.Spec.Egress {
		p.rule(egress, fmt.Sprintf("spec.egress[%d]", i), "to", to.To, to.Ports)
	}
	return p.policy, p.problems
}

// reader reads one policy.
type reader struct {
	policy   *parsed
	problems []string
}

func (r *reader) problem(field, format string, args ...any) {
	r.problems = append(r.problems, field+": "+fmt.Sprintf(format, args...))
}

func (r *reader) selectorOf(field string, in *metav1.LabelSelector, otherwise labels.Selector) labels.Selector {
	out, err := metav1.LabelSelectorAsSelector(in)
	if err != nil {
		r.problem(field, "%v", err)
		return otherwise
	}
	return out
}

func (r *reader) rule(d direction, field, peersField string, peers []networkingv1.NetworkPolicyPeer, ports []networkingv1.NetworkPolicyPort) {
	out := rule{anyPeer: len(peers) == 0, anyPort: len(ports) == 0}
	for i, peer := range peers {
		r.peer(fmt.Sprintf("%s.%s[%d]", field, peersField, i), peer, &out)
	}
	out.blocks = mergedByFamily(out.blocks)
	for i, port := range ports {
		r.port(fmt.Sprintf("%s.ports[%d]", field, i), port, &out)
	}
	r.policy.rules[d] = append(r.policy.rules[d], out)
}

func mergedByFamily(blocks []addressRange) []addressRange {
	var four, six []addressRange
	for _, block := range blocks {
		if block.from.Is4() {
			four = append(four, block)
		} else {
			six = append(six, block)
		}
	}
	return slices.Concat(merged(four), merged(six))
}

func (r *reader) peer(field string, peer networkingv1.NetworkPolicyPeer, out *rule) {
	switch {
	case peer.IPBlock != nil && (peer.PodSelector != nil || peer.NamespaceSelector != nil):
		r.problem(field, "has an ipBlock beside a selector")
	case peer.IPBlock != nil:
		ranges, err := parseBlock(peer.IPBlock.CIDR, peer.IPBlock.Except)
		if err != nil {
			r.problem(field+".ipBlock", "%v", err)
			return
		}
		out.blocks = append(out.blocks, ranges...)
	case peer.PodSelector != nil || peer.NamespaceSelector != nil:
		s := selector{namespace: r.policy.Namespace, pods: labels.Everything()}
		if peer.PodSelector != nil {
			s.pods = r.selectorOf(field+".podSelector", peer.PodSelector, labels.Nothing())
		}
		if peer.NamespaceSelector != nil {
			s.namespace, s.namespaces = "", r.selectorOf(field+".namespaceSelector", peer.NamespaceSelector, labels.Nothing())
		}
		out.peers = append(out.peers, s)
	default:
		r.problem(field, "names no peer that is known")
	}
}

func (r *reader) port(field string, port networkingv1.NetworkPolicyPort, out *rule) {
	protocol := corev1.ProtocolTCP
	if port.Protocol != nil {
		protocol = *port.Protocol
	}
	number, known := protocolNumber(protocol)
	if !known {
		r.problem(field+".protocol", "%q is not known", protocol)
		return
	}
	switch {
	case port.Port == nil && port.EndPort != nil:
		r.problem(field+".endPort", "stands without a port")
	case port.Port == nil:
		out.ports = append(out.ports, portRange{number, 0, 65535})
	case port.Port.Type == intstr.String && port.EndPort != nil:
		r.problem(field+".endPort", "stands beside a port's name")
	case port.Port.Type == intstr.String:
		out.named = append(out.named, namedPort{port.Port.StrVal, number})
	default:
		from, to := port.Port.IntVal, port.Port.IntVal
		if port.EndPort != nil {
			to = *port.EndPort
		}
		if from < 1 || to > 65535 || from > to {
			r.problem(field, "%d to %d is no range of ports", from, to)
			return
		}
		out.ports = append(out.ports, portRange{number, uint16(from), uint16(to)})
	}
}

// mergedPorts sorts ranges by protocol and joins those that touch: the kernel's sets
// hold no two that overlap.
func mergedPorts(ports []portRange) []portRange {
	ports = slices.Clone(ports)
	slices.SortFunc(ports, func(a, b portRange) int {
		if a.protocol != b.protocol {
			return int(a.protocol) - int(b.protocol)
		}
		return int(a.from) - int(b.from)
	})
	var out []portRange
	for _, port := range ports {
		if n := len(out); n > 0 && out[n-1].protocol == port.protocol && int(port.from) <= int(out[n-1].to)+1 {
			out[n-1].to = max(out[n-1].to, port.to)
			continue
		}
		out = append(out, port)
	}
	return out
}
