//go:build churn

package churn

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/bulkhead-dev/bulkhead/internal/tenancy"
)

// services all go down but names for something outside, and the apiserver's own.
func (m *model) services() wants {
	expected := wants{}
	for i := range m.tenant.Services.Items {
		service := &m.tenant.Services.Items[i]
		if service.Spec.Type == corev1.ServiceTypeExternalName || keyOf(service) == "default/kubernetes" {
			continue
		}
		expected[keyOf(service)] = want{
			must: true, from: service, at: m.superKey(service.Namespace, service.Name),
			fields: func(d *differences, object client.Object) { compareService(d, service, object.(*corev1.Service)) },
		}
	}
	return expected
}

func compareService(d *differences, service, super *corev1.Service) {
	d.carried("metadata.labels", service.Labels, super.Labels)
	d.same("metadata.annotations["+tenancy.AnnotationClusterIPs+"]", strings.Join(service.Spec.ClusterIPs, ","), super.Annotations[tenancy.AnnotationClusterIPs])
	d.same("spec.selector", service.Spec.Selector, super.Spec.Selector)
	d.same("spec.sessionAffinity", service.Spec.SessionAffinity, super.Spec.SessionAffinity)
	d.same("spec.publishNotReadyAddresses", service.Spec.PublishNotReadyAddresses, super.Spec.PublishNotReadyAddresses)
	ports := func(service *corev1.Service) []corev1.ServicePort {
		var all []corev1.ServicePort
		for _, port := range service.Spec.Ports {
			port.NodePort = 0
			all = append(all, port)
		}
		return all
	}
	d.same("spec.ports", ports(service), ports(super))
	if service.Spec.Type == corev1.ServiceTypeLoadBalancer {
		d.same("spec.type", corev1.ServiceTypeLoadBalancer, super.Spec.Type)
		d.same("status.loadBalancer", super.Status.LoadBalancer, service.Status.LoadBalancer)
		return
	}
	d.same("spec.type", corev1.ServiceTypeClusterIP, super.Spec.Type)
	d.same("spec.clusterIP", corev1.ClusterIPNone, super.Spec.ClusterIP)
	d.same("status.loadBalancer", corev1.LoadBalancerStatus{}, service.Status.LoadBalancer)
}

// endpoints go down for services without a selector.
func (m *model) endpoints() wants {
	services := index(m.tenant.Services.Items)
	expected := wants{}
	for i := range m.tenant.Endpoints.Items {
		endpoints := &m.tenant.Endpoints.Items[i]
		service := services[keyOf(endpoints)]
		if service == nil || len(service.Spec.Selector) > 0 || service.Spec.Type == corev1.ServiceTypeExternalName || keyOf(service) == "default/kubernetes" {
			continue
		}
		expected[keyOf(endpoints)] = want{
			must: true, from: endpoints, at: m.superKey(endpoints.Namespace, endpoints.Name),
			fields: func(d *differences, object client.Object) {
				everything := func(string) bool { return true }
				d.same("subsets", addressesOf(endpoints, m.mayBeEndpoint), addressesOf(object.(*corev1.Endpoints), everything))
			},
		}
	}
	return expected
}

// mayBeEndpoint: an address of the platform's networks has to be one of the tenant's
// own pods.
func (m *model) mayBeEndpoint(address string) bool {
	return !strings.HasPrefix(address, "10.") || slices.ContainsFunc(m.super.Pods.Items, func(pod corev1.Pod) bool {
		return pod.Labels[tenancy.LabelTenant] == string(m.tenant.UID) && pod.Status.PodIP == address && !ended(&pod)
	})
}

func addressesOf(endpoints *corev1.Endpoints, of func(address string) bool) []string {
	var all []string
	for _, subset := range endpoints.Subsets {
		for _, port := range subset.Ports {
			list := func(addresses []corev1.EndpointAddress, more string) {
				for _, address := range addresses {
					if of(address.IP) {
						all = append(all, fmt.Sprintf("%s %s:%d/%s%s", port.Name, address.IP, port.Port, port.Protocol, more))
					}
				}
			}
			list(subset.Addresses, "")
			list(subset.NotReadyAddresses, " not ready")
		}
	}
	return all
}

func (m *model) policies() wants {
	expected := wants{}
	for i := range m.tenant.Policies.Items {
		policy := &m.tenant.Policies.Items[i]
		expected[keyOf(policy)] = want{
			must: true, from: policy, at: m.superKey(policy.Namespace, tenancy.SuperNetworkPolicy(policy.Name)),
			fields: func(d *differences, object client.Object) {
				super := object.(*networkingv1.NetworkPolicy)
				d.carried("metadata.labels", policy.Labels, super.Labels)
				d.same("spec.podSelector", policy.Spec.PodSelector, super.Spec.PodSelector)
				d.same("spec.policyTypes", policy.Spec.PolicyTypes, super.Spec.PolicyTypes)
				d.same("spec.ingress", m.peersDown(policy.Spec.Ingress), peersOf(super.Spec.Ingress))
			},
		}
	}
	return expected
}

// peersDown says what becomes of the peers that the churn makes.
func (m *model) peersDown(rules []networkingv1.NetworkPolicyIngressRule) []string {
	down := make([]networkingv1.NetworkPolicyIngressRule, len(rules))
	for i := range rules {
		rules[i].DeepCopyInto(&down[i])
		for j := range down[i].From {
			if selector := down[i].From[j].NamespaceSelector; selector != nil {
				matching := map[string]string{tenancy.LabelTenant: string(m.tenant.UID), tenancy.LabelManagedBy: tenancy.ManagedBySyncer}
				for key, value := range selector.MatchLabels {
					matching[hashedKey(key)] = value
				}
				selector.MatchLabels = matching
			}
		}
	}
	return peersOf(down)
}

func peersOf(rules []networkingv1.NetworkPolicyIngressRule) []string {
	var all []string
	for _, rule := range rules {
		text := fmt.Sprintf("%d ports from", len(rule.Ports))
		for _, peer := range rule.From {
			switch {
			case peer.IPBlock != nil:
				text += " " + peer.IPBlock.CIDR
			case peer.NamespaceSelector != nil:
				text += " namespaces " + metav1.FormatLabelSelector(peer.NamespaceSelector) + " pods " + metav1.FormatLabelSelector(peer.PodSelector)
			default:
				text += " pods " + metav1.FormatLabelSelector(peer.PodSelector)
			}
		}
		all = append(all, text)
	}
	return all
}

// hashedKey is under which key a label of a tenant's namespace is in the super cluster.
func hashedKey(key string) string {
	sum := sha256.Sum256([]byte(key))
	return "namespace." + tenancy.Domain + "/" + hex.EncodeToString(sum[:16])
}

// namespaces are there while something in them is, and may stay as long as the tenant's.
func (m *model) namespaces(others map[string]wants) wants {
	expected := wants{}
	for i := range m.tenant.Namespaces.Items {
		namespace := &m.tenant.Namespaces.Items[i]
		expected[namespace.Name] = want{
			from: namespace, at: client.ObjectKey{Name: m.tenant.SuperNamespace(namespace.Name)},
			fields: func(d *differences, object client.Object) {
				labels := map[string]string{"pod-security.kubernetes.io/enforce": "baseline", "pod-security.kubernetes.io/enforce-version": "latest"}
				for key, value := range namespace.Labels {
					labels[hashedKey(key)] = value
				}
				for key, value := range object.GetLabels() {
					if _, known := labels[key]; !known && strings.HasPrefix(key, "namespace."+tenancy.Domain+"/") {
						d.that("metadata.labels["+key+"]", false, value+" is not the tenant's")
					}
				}
				d.carried("metadata.labels", labels, object.GetLabels())
			},
		}
	}
	for _, objects := range others {
		for _, object := range objects {
			if is, known := expected[object.from.GetNamespace()]; known && object.must {
				is.must = true
				expected[object.from.GetNamespace()] = is
			}
		}
	}
	return expected
}

// fences: every super namespace has the four policies, as docs/syncer.md says.
func (m *model) fences() {
	const kind = "networkpolicies"
	policies := index(m.super.Policies.Items)
	own := metav1.LabelSelector{MatchLabels: map[string]string{tenancy.LabelTenant: string(m.tenant.UID)}}
	for i := range m.super.Namespaces.Items {
		namespace := &m.super.Namespaces.Items[i]
		origin, ok := tenancy.OriginOf(namespace)
		if !ok || origin.Tenant != m.tenant.UID {
			continue
		}
		for name, compare := range map[string]func(d *differences, spec *networkingv1.NetworkPolicySpec){
			tenancy.FenceDeny: func(d *differences, spec *networkingv1.NetworkPolicySpec) {
				d.same("spec", networkingv1.NetworkPolicySpec{PolicyTypes: []networkingv1.PolicyType{networkingv1.PolicyTypeIngress, networkingv1.PolicyTypeEgress}}, *spec)
			},
			tenancy.FenceIngress: func(d *differences, spec *networkingv1.NetworkPolicySpec) {
				d.same("spec.podSelector", tenancy.LabelIngressIsolated+" DoesNotExist", unless(spec.PodSelector))
				d.that("spec.ingress", len(spec.Ingress) == 1 && len(spec.Ingress[0].From) > 1, "not one rule with peers")
				for _, rule := range spec.Ingress {
					d.fencePeers("spec.ingress", own, rule.From)
				}
			},
			tenancy.FenceEgress: func(d *differences, spec *networkingv1.NetworkPolicySpec) {
				d.same("spec.podSelector", tenancy.LabelEgressIsolated+" DoesNotExist", unless(spec.PodSelector))
				d.that("spec.egress", len(spec.Egress) == 1 && len(spec.Egress[0].To) > 1, "not one rule with peers")
				for _, rule := range spec.Egress {
					d.fencePeers("spec.egress", own, rule.To)
				}
			},
			tenancy.FenceAlways: func(d *differences, spec *networkingv1.NetworkPolicySpec) {
				d.same("spec.podSelector", metav1.LabelSelector{}, spec.PodSelector)
				d.that("spec.egress", len(spec.Egress) == 1 && len(spec.Egress[0].To) == 1 && len(spec.Egress[0].Ports) == 1, "not one rule with one port")
			},
		} {
			policy := policies[join(namespace.Name, name)]
			if policy == nil {
				m.report(lost, "super", kind, join(origin.Name, name), "")
				continue
			}
			d := &differences{}
			compare(d, &policy.Spec)
			d.that("metadata.annotations", policy.Annotations[tenancy.AnnotationFor] == "namespaces", "not for its namespace")
			if len(d.fields) > 0 {
				m.report(wrong, "super", kind, join(origin.Name, name), strings.Join(d.details, "; "), d.fields...)
			}
		}
	}
}

func unless(selector metav1.LabelSelector) string {
	if len(selector.MatchLabels) > 0 || len(selector.MatchExpressions) != 1 {
		return "another selector"
	}
	return selector.MatchExpressions[0].Key + " " + string(selector.MatchExpressions[0].Operator)
}

// fencePeers are the tenant's own namespaces, and blocks.
func (d *differences) fencePeers(field string, own metav1.LabelSelector, peers []networkingv1.NetworkPolicyPeer) {
	for i, peer := range peers {
		if i == 0 {
			d.that(field, peer.NamespaceSelector != nil && peer.PodSelector == nil, "not the tenant's namespaces")
			if peer.NamespaceSelector != nil {
				d.same(field, own, *peer.NamespaceSelector)
			}
			continue
		}
		d.that(field, peer.IPBlock != nil && peer.NamespaceSelector == nil && peer.PodSelector == nil, "a peer that is no block")
	}
}
