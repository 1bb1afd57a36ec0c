//go:build churn

package churn

import (
	"context"
	"fmt"
	"math/rand/v2"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/bulkhead-dev/bulkhead/internal/tenancy"
)

// platform is whoever has rights in the super cluster, and does with tenants' objects
// what is none of the syncer's doing.
type platform struct{ super client.Client }

// some picks one of the tenants' objects of a kind. Which one depends on what there is.
func some[L client.ObjectList, T client.Object](ctx context.Context, p platform, r *rand.Rand, list L, items func(L) []T) (T, error) {
	var none T
	if err := p.super.List(ctx, list, client.MatchingLabels{tenancy.LabelManagedBy: tenancy.ManagedBySyncer}); err != nil {
		return none, err
	}
	all := items(list)
	if len(all) == 0 {
		return none, fmt.Errorf("there is no %T", none)
	}
	return all[r.IntN(len(all))], nil
}

// pointers makes the items of a list pointers.
func pointers[T any](items []T) []*T {
	var all []*T
	for i := range items {
		all = append(all, &items[i])
	}
	return all
}

func (p platform) pod(ctx context.Context, r *rand.Rand) (*corev1.Pod, error) {
	return some(ctx, p, r, &corev1.PodList{}, func(list *corev1.PodList) []*corev1.Pod { return pointers(list.Items) })
}

// drift edits or deletes an object by hand.
func drift[T client.Object](ctx context.Context, p platform, r *rand.Rand, object T, err error, edit func(T)) error {
	if err != nil {
		return err
	}
	if chance(r, 30) {
		return p.super.Delete(ctx, object)
	}
	before := object.DeepCopyObject().(T)
	edit(object)
	if chance(r, 30) {
		object.SetLabels(drifted(object.GetLabels()))
	}
	return p.super.Patch(ctx, object, client.MergeFrom(before))
}

// drifted takes one of the tenant's labels away, changes another and adds one, which
// stays: it is none of the syncer's business.
func drifted(labels map[string]string) map[string]string {
	delete(labels, "app")
	if _, has := labels[churnPrefix+"color"]; has {
		labels[churnPrefix+"color"] = "drifted"
	}
	labels["drift.example/added"] = "x"
	return labels
}

func (p platform) operations() []operation {
	return []operation{
		{"super pod delete", 6, func(ctx context.Context, r *rand.Rand) error {
			pod, err := p.pod(ctx, r)
			if err != nil {
				return err
			}
			return p.super.Delete(ctx, pod, client.GracePeriodSeconds(r.Int64N(3)))
		}},
		{"super pod evict", 4, func(ctx context.Context, r *rand.Rand) error {
			pod, err := p.pod(ctx, r)
			if err != nil {
				return err
			}
			return evict(ctx, p.super, pod)
		}},
		{"super pod ends", 6, func(ctx context.Context, r *rand.Rand) error {
			pod, err := p.pod(ctx, r)
			if err != nil || pod.Status.Phase != corev1.PodRunning {
				return fmt.Errorf("no pod that runs: %w", err)
			}
			before := pod.DeepCopy()
			pod.Status.Phase, pod.Status.Reason = one(r, corev1.PodSucceeded, corev1.PodFailed), one(r, "", "Evicted")
			return p.super.Status().Patch(ctx, pod, client.MergeFrom(before))
		}},
		{"super pod restarts", 6, func(ctx context.Context, r *rand.Rand) error {
			pod, err := p.pod(ctx, r)
			if err != nil || len(pod.Status.ContainerStatuses) == 0 {
				return fmt.Errorf("no pod that runs: %w", err)
			}
			before := pod.DeepCopy()
			pod.Status.ContainerStatuses[0].RestartCount++
			pod.Status.ContainerStatuses[0].Ready = chance(r, 50)
			return p.super.Status().Patch(ctx, pod, client.MergeFrom(before))
		}},
		{"super pod drift", 4, func(ctx context.Context, r *rand.Rand) error {
			pod, err := p.pod(ctx, r)
			if err != nil {
				return err
			}
			before := pod.DeepCopy()
			pod.Spec.Containers[0].Image = "example/drifted:1"
			pod.Labels = drifted(pod.Labels)
			delete(pod.Labels, tenancy.LabelIngressIsolated)
			delete(pod.Labels, tenancy.LabelEgressIsolated)
			return p.super.Patch(ctx, pod, client.MergeFrom(before))
		}},
		{"super configmap drift", 4, func(ctx context.Context, r *rand.Rand) error {
			object, err := some(ctx, p, r, &corev1.ConfigMapList{}, func(list *corev1.ConfigMapList) []*corev1.ConfigMap { return pointers(list.Items) })
			return drift(ctx, p, r, object, err, func(object *corev1.ConfigMap) { object.Data = map[string]string{"drifted": "x"} })
		}},
		{"super secret drift", 4, func(ctx context.Context, r *rand.Rand) error {
			object, err := some(ctx, p, r, &corev1.SecretList{}, func(list *corev1.SecretList) []*corev1.Secret { return pointers(list.Items) })
			return drift(ctx, p, r, object, err, func(object *corev1.Secret) { object.Data = map[string][]byte{"drifted": []byte("x")} })
		}},
		{"super serviceaccount drift", 3, func(ctx context.Context, r *rand.Rand) error {
			object, err := some(ctx, p, r, &corev1.ServiceAccountList{}, func(list *corev1.ServiceAccountList) []*corev1.ServiceAccount { return pointers(list.Items) })
			return drift(ctx, p, r, object, err, func(object *corev1.ServiceAccount) { object.AutomountServiceAccountToken = nil })
		}},
		{"super service drift", 4, func(ctx context.Context, r *rand.Rand) error {
			object, err := some(ctx, p, r, &corev1.ServiceList{}, func(list *corev1.ServiceList) []*corev1.Service { return pointers(list.Items) })
			return drift(ctx, p, r, object, err, func(object *corev1.Service) {
				object.Spec.Selector = map[string]string{"app": "drifted"}
				object.Spec.Ports[0].Port = 4242
			})
		}},
		{"super endpoints drift", 3, func(ctx context.Context, r *rand.Rand) error {
			object, err := some(ctx, p, r, &corev1.EndpointsList{}, func(list *corev1.EndpointsList) []*corev1.Endpoints { return pointers(list.Items) })
			return drift(ctx, p, r, object, err, func(object *corev1.Endpoints) { object.Subsets = nil })
		}},
		{"super networkpolicy drift", 5, func(ctx context.Context, r *rand.Rand) error {
			object, err := some(ctx, p, r, &networkingv1.NetworkPolicyList{}, func(list *networkingv1.NetworkPolicyList) []*networkingv1.NetworkPolicy { return pointers(list.Items) })
			return drift(ctx, p, r, object, err, func(object *networkingv1.NetworkPolicy) {
				object.Spec = networkingv1.NetworkPolicySpec{Ingress: []networkingv1.NetworkPolicyIngressRule{{}}, PolicyTypes: []networkingv1.PolicyType{networkingv1.PolicyTypeIngress}}
			})
		}},
		{"super namespace drift", 3, func(ctx context.Context, r *rand.Rand) error {
			object, err := some(ctx, p, r, &corev1.NamespaceList{}, func(list *corev1.NamespaceList) []*corev1.Namespace { return pointers(list.Items) })
			if err != nil {
				return err
			}
			before := object.DeepCopy()
			delete(object.Labels, "pod-security.kubernetes.io/enforce")
			return p.super.Patch(ctx, object, client.MergeFrom(before))
		}},
		{"super node cordon", 3, func(ctx context.Context, r *rand.Rand) error {
			node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: nodeName(r.IntN(nodeCount))}}
			return change(ctx, p.super, node, func(object *corev1.Node) { object.Spec.Unschedulable = !object.Spec.Unschedulable })
		}},
		{"super node taint", 2, func(ctx context.Context, r *rand.Rand) error {
			node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: nodeName(r.IntN(nodeCount))}}
			return change(ctx, p.super, node, func(object *corev1.Node) {
				if len(object.Spec.Taints) > 0 {
					object.Spec.Taints = nil
				} else {
					object.Spec.Taints = []corev1.Taint{{Key: churnPrefix + "taint", Effect: corev1.TaintEffectPreferNoSchedule}}
				}
			})
		}},
		{"super node remove", 1, func(ctx context.Context, r *rand.Rand) error {
			return p.super.Delete(ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: nodeName(r.IntN(nodeCount))}})
		}},
		{"super node add", 4, func(ctx context.Context, r *rand.Rand) error { return addNode(ctx, p.super, r.IntN(nodeCount)) }},
	}
}
