// Package networkpolicy says which NetworkPolicies a tenant has in the super cluster:
// those that fence its namespaces in, and its own ones, translated. They are plain
// networking.k8s.io/v1, so that whatever enforces them there will do.
package networkpolicy

import (
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/bulkhead-dev/bulkhead/internal/tenancy"
	"github.com/bulkhead-dev/bulkhead/internal/tenantnetwork"
)

// Fence are the policies of each of a tenant's super namespaces, without namespace
// and marks. What they let pass holds for pods that the tenant's own policies leave
// alone; see Isolation.
func Fence(tenant tenancy.Tenant, networks tenantnetwork.Networks) []*networkingv1.NetworkPolicy {
	own := networkingv1.NetworkPolicyPeer{NamespaceSelector: ownNamespaces(tenant)}
	return []*networkingv1.NetworkPolicy{
		named(tenancy.FenceDeny, networkingv1.NetworkPolicySpec{
			PolicyTypes: []networkingv1.PolicyType{networkingv1.PolicyTypeIngress, networkingv1.PolicyTypeEgress},
		}),
		named(tenancy.FenceIngress, networkingv1.NetworkPolicySpec{
			PodSelector: without(tenancy.LabelIngressIsolated),
			PolicyTypes: []networkingv1.PolicyType{networkingv1.PolicyTypeIngress},
			Ingress:     []networkingv1.NetworkPolicyIngressRule{{From: append([]networkingv1.NetworkPolicyPeer{own}, networks.Inward()...)}},
		}),
		named(tenancy.FenceEgress, networkingv1.NetworkPolicySpec{
			PodSelector: without(tenancy.LabelEgressIsolated),
			PolicyTypes: []networkingv1.PolicyType{networkingv1.PolicyTypeEgress},
			Egress:      []networkingv1.NetworkPolicyEgressRule{{To: append([]networkingv1.NetworkPolicyPeer{own}, networks.Outward()...)}},
		}),
		named(tenancy.FenceAlways, networkingv1.NetworkPolicySpec{
			PolicyTypes: []networkingv1.PolicyType{networkingv1.PolicyTypeEgress},
			Egress:      always(tenant, networks),
		}),
	}
}

func named(name string, spec networkingv1.NetworkPolicySpec) *networkingv1.NetworkPolicy {
	return &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: spec}
}

// ownNamespaces selects the tenant's super namespaces and that of its control plane.
func ownNamespaces(tenant tenancy.Tenant) *metav1.LabelSelector {
	return &metav1.LabelSelector{MatchLabels: map[string]string{tenancy.LabelTenant: string(tenant.UID)}}
}

func without(label string) metav1.LabelSelector {
	return metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{{Key: label, Operator: metav1.LabelSelectorOpDoesNotExist}}}
}

// always is what a pod needs whatever the tenant's policies say: in an ordinary
// cluster these are parts of the node, where policies reach them differently.
func always(tenant tenancy.Tenant, networks tenantnetwork.Networks) []networkingv1.NetworkPolicyEgressRule {
	controlPlane := ownNamespaces(tenant)
	controlPlane.MatchLabels[tenancy.LabelControlPlane] = "true"
	rules := []networkingv1.NetworkPolicyEgressRule{{
		To:    []networkingv1.NetworkPolicyPeer{{NamespaceSelector: controlPlane}},
		Ports: []networkingv1.NetworkPolicyPort{port(corev1.ProtocolTCP, tenancy.APIServerPort)},
	}}
	var resolvers []networkingv1.NetworkPolicyPeer
	for _, address := range networks.Resolvers {
		single, err := address.Prefix(address.BitLen())
		if err != nil {
			continue // no address has more bits than it has
		}
		resolvers = append(resolvers, networkingv1.NetworkPolicyPeer{IPBlock: &networkingv1.IPBlock{CIDR: single.String()}})
	}
	if len(resolvers) > 0 {
		rules = append(rules, networkingv1.NetworkPolicyEgressRule{
			To: resolvers, Ports: []networkingv1.NetworkPolicyPort{port(corev1.ProtocolUDP, dnsPort), port(corev1.ProtocolTCP, dnsPort)},
		})
	}
	return rules
}

const dnsPort = 53

func port(protocol corev1.Protocol, number int32) networkingv1.NetworkPolicyPort {
	value := intstr.FromInt32(number)
	return networkingv1.NetworkPolicyPort{Protocol: &protocol, Port: &value}
}
