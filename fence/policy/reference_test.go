package policy

import (
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/bulkhead-dev/bulkhead/fence/table"
)

// world is what a Model was told, judged by reading it anew for every packet.
type world struct {
	pods       map[types.NamespacedName]Pod
	namespaces map[string]map[string]string
	policies   map[types.NamespacedName]*networkingv1.NetworkPolicy
}

func newWorld() *world {
	return &world{pods: map[types.NamespacedName]Pod{}, namespaces: map[string]map[string]string{}, policies: map[types.NamespacedName]*networkingv1.NetworkPolicy{}}
}

// holder is the pod of an address, or nil; of several the newest.
func (w *world) holder(address netip.Addr, local bool) *Pod {
	var newest *Pod
	for _, pod := range w.pods {
		if slices.Contains(pod.Addresses, address) && (!local || pod.Local) && (newest == nil || pod.Created.After(newest.Created)) {
			newest = &pod
		}
	}
	return newest
}

func (w *world) egress(packet table.Packet) bool {
	pod := w.holder(packet.Source, true)
	return pod == nil || w.passes(pod, networkingv1.PolicyTypeEgress, packet)
}

func (w *world) ingress(packet table.Packet) bool {
	pod := w.holder(packet.Destination, true)
	return pod == nil || w.passes(pod, networkingv1.PolicyTypeIngress, packet)
}

func matches(selector *metav1.LabelSelector, set map[string]string) bool {
	read, err := metav1.LabelSelectorAsSelector(selector)
	return err == nil && read.Matches(labels.Set(set))
}

// passes: no policy of the direction selects the pod, or a rule of one lets it pass.
func (w *world) passes(pod *Pod, direction networkingv1.PolicyType, packet table.Packet) bool {
	selected := false
	for _, policy := range w.policies {
		if policy.Namespace != pod.Namespace || !matches(&policy.Spec.PodSelector, pod.Labels) || !slices.Contains(policy.Spec.PolicyTypes, direction) {
			continue
		}
		selected = true
		if direction == networkingv1.PolicyTypeIngress {
			for _, rule := range policy.Spec.Ingress {
				if w.peersHave(policy.Namespace, rule.From, packet.Source) && w.portsHave(rule.Ports, packet) {
					return true
				}
			}
			continue
		}
		for _, rule := range policy.Spec.Egress {
			if w.peersHave(policy.Namespace, rule.To, packet.Destination) && w.portsHave(rule.Ports, packet) {
				return true
			}
		}
	}
	return !selected
}

func (w *world) peersHave(namespace string, peers []networkingv1.NetworkPolicyPeer, address netip.Addr) bool {
	return len(peers) == 0 || slices.ContainsFunc(peers, func(peer networkingv1.NetworkPolicyPeer) bool {
		if peer.IPBlock != nil {
			return netip.MustParsePrefix(peer.IPBlock.CIDR).Contains(address) && !slices.ContainsFunc(peer.IPBlock.Except, func(except string) bool {
				return netip.MustParsePrefix(except).Contains(address)
			})
		}
		for _, pod := range w.pods {
			if !slices.Contains(pod.Addresses, address) {
				continue
			}
			inNamespace := pod.Namespace == namespace
			if peer.NamespaceSelector != nil {
				inNamespace = matches(peer.NamespaceSelector, w.namespaces[pod.Namespace])
			}
			if inNamespace && (peer.PodSelector == nil || matches(peer.PodSelector, pod.Labels)) {
				return true
			}
		}
		return false
	})
}

func (w *world) portsHave(ports []networkingv1.NetworkPolicyPort, packet table.Packet) bool {
	return len(ports) == 0 || slices.ContainsFunc(ports, func(port networkingv1.NetworkPolicyPort) bool {
		protocol := corev1.ProtocolTCP
		if port.Protocol != nil {
			protocol = *port.Protocol
		}
		if map[corev1.Protocol]uint8{"TCP": 6, "UDP": 17, "SCTP": 132}[protocol] != packet.Protocol {
			return false
		}
		switch {
		case port.Port == nil:
			return true
		case port.Port.Type == intstr.Int && port.EndPort != nil:
			return int32(packet.DestinationPort) >= port.Port.IntVal && int32(packet.DestinationPort) <= *port.EndPort
		case port.Port.Type == intstr.Int:
			return int32(packet.DestinationPort) == port.Port.IntVal
		}
		for _, pod := range w.pods {
			if slices.Contains(pod.Addresses, packet.Destination) && slices.Contains(pod.Ports, NamedPort{Name: port.Port.StrVal, Protocol: packet.Protocol, Port: packet.DestinationPort}) {
				return true
			}
		}
		return false
	})
}
