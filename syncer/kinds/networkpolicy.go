package kinds

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/bulkhead-dev/bulkhead/internal/tenancy"
	"github.com/bulkhead-dev/bulkhead/internal/tenantnetwork"
	"github.com/bulkhead-dev/bulkhead/syncer/engine"
	"github.com/bulkhead-dev/bulkhead/syncer/networkpolicy"
	"github.com/bulkhead-dev/bulkhead/syncer/translation"
)

// networkPolicies go down, narrowed to what the tenant may reach. The pods that they
// select are looked at again, for they are labelled by it.
func networkPolicies(networks tenantnetwork.Networks) engine.Kind {
	return &engine.Down[*networkingv1.NetworkPolicy]{
		Name: "networkpolicies",
		SuperKey: func(t translation.Tenant, namespace, name string) types.NamespacedName {
			return types.NamespacedName{Namespace: t.SuperNamespace(namespace), Name: tenancy.SuperNetworkPolicy(name)}
		},
		Translate: func(_ context.Context, l *engine.Link, tenant *networkingv1.NetworkPolicy) (*networkingv1.NetworkPolicy, []translation.Finding, error) {
			super, findings := networkpolicy.Translate(l.Tenant(), networks, tenant)
			return super, findings, nil
		},
		Merge: func(super, desired *networkingv1.NetworkPolicy) { super.Spec = desired.Spec },
		Related: func(ctx context.Context, l *engine.Link, tenant *networkingv1.NetworkPolicy) error {
			return enqueueAll(ctx, l, "pods", &corev1.PodList{}, client.InNamespace(tenant.Namespace))
		},
	}
}

// isolation are the labels that a tenant's policies give a super pod.
func isolation(ctx context.Context, l *engine.Link, tenant *corev1.Pod) (map[string]string, error) {
	var list networkingv1.NetworkPolicyList
	if err := l.TenantReader().List(ctx, &list, client.InNamespace(tenant.Namespace), client.UnsafeDisableDeepCopy); err != nil {
		return nil, fmt.Errorf("listing the network policies of namespace %s: %w", tenant.Namespace, err)
	}
	return networkpolicy.Isolation(tenant.Labels, list.Items), nil
}
