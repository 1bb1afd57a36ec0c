package controlplane

import (
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/bulkhead-dev/bulkhead/internal/tenancy"
)

// NetworkPolicies close the namespace and open what the components need of each other.
func NetworkPolicies(in Input) []client.Object {
	apiServer := pods(APIServer)
	objects := []client.Object{
		in.networkPolicy("default-deny", networkingv1.NetworkPolicySpec{
			PolicyTypes: []networkingv1.PolicyType{networkingv1.PolicyTypeIngress, networkingv1.PolicyTypeEgress},
		}),
		in.networkPolicy(Etcd, networkingv1.NetworkPolicySpec{
			PodSelector: *podSelector(Etcd),
			PolicyTypes: []networkingv1.PolicyType{networkingv1.PolicyTypeIngress, networkingv1.PolicyTypeEgress},
			Ingress: []networkingv1.NetworkPolicyIngressRule{
				{From: []networkingv1.NetworkPolicyPeer{apiServer}, Ports: ports(etcdClientPort)},
				{From: []networkingv1.NetworkPolicyPeer{pods(Etcd)}, Ports: ports(etcdPeerPort)},
			},
			Egress: []networkingv1.NetworkPolicyEgressRule{
				{To: []networkingv1.NetworkPolicyPeer{pods(Etcd)}, Ports: ports(etcdPeerPort)}, dns(),
			},
		}),
		in.networkPolicy(APIServer, networkingv1.NetworkPolicySpec{
			PodSelector: *podSelector(APIServer),
			PolicyTypes: []networkingv1.PolicyType{networkingv1.PolicyTypeIngress, networkingv1.PolicyTypeEgress},
			// Whoever reaches it has to show a credential.
			Ingress: []networkingv1.NetworkPolicyIngressRule{{Ports: ports(tenancy.APIServerPort)}},
			// The apiserver calls what its tenant names: webhooks, aggregated API
			// servers, identity providers. So it reaches what the tenant's pods do, its
			// etcd among it, and what it takes for kubelets.
			Egress: []networkingv1.NetworkPolicyEgressRule{
				{To: append([]networkingv1.NetworkPolicyPeer{in.ownNamespaces()}, in.Platform.Networks.Outward()...)},
				in.nodeAgents(), dns(),
			},
		}),
		in.clientPolicy(ControllerManager),
	}
	if SchedulerWanted(in) {
		objects = append(objects, in.clientPolicy(Scheduler))
	}
	if MetricsServerWanted(in) {
		objects = append(objects, in.networkPolicy(MetricsServer, networkingv1.NetworkPolicySpec{
			PodSelector: *podSelector(MetricsServer),
			PolicyTypes: []networkingv1.PolicyType{networkingv1.PolicyTypeIngress, networkingv1.PolicyTypeEgress},
			Ingress: []networkingv1.NetworkPolicyIngressRule{
				{From: []networkingv1.NetworkPolicyPeer{apiServer}, Ports: ports(MetricsServerPort)},
			},
			Egress: []networkingv1.NetworkPolicyEgressRule{
				{To: []networkingv1.NetworkPolicyPeer{apiServer}, Ports: ports(tenancy.APIServerPort)},
				in.nodeAgents(), dns(),
			},
		}))
	}
	return objects
}

// clientPolicy is that of a component which needs the apiserver, and nobody else.
func (in Input) clientPolicy(component string) *networkingv1.NetworkPolicy {
	return in.networkPolicy(component, networkingv1.NetworkPolicySpec{
		PodSelector: *podSelector(component),
		PolicyTypes: []networkingv1.PolicyType{networkingv1.PolicyTypeEgress},
		Egress: []networkingv1.NetworkPolicyEgressRule{
			{To: []networkingv1.NetworkPolicyPeer{pods(APIServer)}, Ports: ports(tenancy.APIServerPort)}, dns(),
		},
	})
}

func (in Input) networkPolicy(name string, spec networkingv1.NetworkPolicySpec) *networkingv1.NetworkPolicy {
	return &networkingv1.NetworkPolicy{
		TypeMeta:   metav1.TypeMeta{APIVersion: networkingv1.SchemeGroupVersion.String(), Kind: "NetworkPolicy"},
		ObjectMeta: in.meta(name, name),
		Spec:       spec,
	}
}

// ownNamespaces are the tenant's super namespaces and that of its control plane.
func (in Input) ownNamespaces() networkingv1.NetworkPolicyPeer {
	return networkingv1.NetworkPolicyPeer{NamespaceSelector: &metav1.LabelSelector{
		MatchLabels: map[string]string{tenancy.LabelTenant: string(in.Tenant.UID)},
	}}
}

// nodeAgents are the vn-agents. Nodes have no labels a policy could select, but they
// are not where pods are.
func (in Input) nodeAgents() networkingv1.NetworkPolicyEgressRule {
	return networkingv1.NetworkPolicyEgressRule{To: in.Platform.Networks.NotPods(), Ports: ports(tenancy.VNAgentPort)}
}

func podSelector(component string) *metav1.LabelSelector {
	return &metav1.LabelSelector{MatchLabels: selector(component)}
}

func pods(component string) networkingv1.NetworkPolicyPeer {
	return networkingv1.NetworkPolicyPeer{PodSelector: podSelector(component)}
}

func ports(numbers ...int32) []networkingv1.NetworkPolicyPort {
	list := make([]networkingv1.NetworkPolicyPort, 0, len(numbers))
	for _, number := range numbers {
		list = append(list, networkingv1.NetworkPolicyPort{Protocol: ptr.To(corev1.ProtocolTCP), Port: ptr.To(intstr.FromInt32(number))})
	}
	return list
}

func dns() networkingv1.NetworkPolicyEgressRule {
	return networkingv1.NetworkPolicyEgressRule{Ports: []networkingv1.NetworkPolicyPort{
		{Protocol: ptr.To(corev1.ProtocolUDP), Port: ptr.To(intstr.FromInt32(53))},
		{Protocol: ptr.To(corev1.ProtocolTCP), Port: ptr.To(intstr.FromInt32(53))},
	}}
}
