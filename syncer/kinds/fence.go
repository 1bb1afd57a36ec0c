package kinds

import (
	"context"
	"fmt"
	"maps"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/bulkhead-dev/bulkhead/internal/tenancy"
	"github.com/bulkhead-dev/bulkhead/internal/tenantnetwork"
	"github.com/bulkhead-dev/bulkhead/syncer/engine"
	"github.com/bulkhead-dev/bulkhead/syncer/networkpolicy"
)

// ensureFence makes the policies that fence a super namespace, and makes good what
// others have changed of them. namespace is the tenant's, for which they are marked:
// what happens to them is looked at as if it happened to the super namespace.
func ensureFence(ctx context.Context, l *engine.Link, networks tenantnetwork.Networks, namespace *corev1.Namespace) error {
	tenant := l.Tenant().Tenant
	for _, want := range networkpolicy.Fence(tenant, networks) {
		want.Namespace = tenant.SuperNamespace(namespace.Name)
		tenancy.Mark(want, tenant, tenancy.ManagedBySyncer, namespace)
		want.Annotations[tenancy.AnnotationFor] = "namespaces"
		have, err := engine.Get[*networkingv1.NetworkPolicy](ctx, l.SuperReader(), want.Namespace, want.Name)
		if err != nil {
			return err
		}
		if have == nil {
			if have, err = createPolicy(ctx, l, want); err != nil {
				return err
			}
		}
		if err := tenancy.CheckOwned(have, tenant, tenancy.ManagedBySyncer, "networkpolicies "+have.Name); err != nil {
			return err
		}
		changed := have.DeepCopy()
		maps.Copy(changed.Labels, want.Labels)
		changed.Annotations = maps.Clone(have.Annotations)
		if changed.Annotations == nil {
			changed.Annotations = map[string]string{}
		}
		maps.Copy(changed.Annotations, want.Annotations)
		changed.Spec = want.Spec
		if equality.Semantic.DeepEqual(have, changed) {
			continue
		}
		if err := l.SuperClient().Patch(ctx, changed, client.MergeFromWithOptions(have, client.MergeFromWithOptimisticLock{})); err != nil {
			return fmt.Errorf("repairing network policy %s/%s: %w", want.Namespace, want.Name, err)
		}
	}
	return nil
}

// createPolicy makes a policy, and returns it as it is then. One that the cache did
// not show is read.
func createPolicy(ctx context.Context, l *engine.Link, want *networkingv1.NetworkPolicy) (*networkingv1.NetworkPolicy, error) {
	made := want.DeepCopy()
	err := l.SuperClient().Create(ctx, made)
	if err == nil {
		return made, nil
	}
	if !apierrors.IsAlreadyExists(err) {
		return nil, fmt.Errorf("creating network policy %s/%s: %w", want.Namespace, want.Name, err)
	}
	live, err := engine.Get[*networkingv1.NetworkPolicy](ctx, l.SuperClient(), want.Namespace, want.Name)
	if err == nil && live == nil {
		err = engine.Wait("network policy %s to be gone", want.Name)
	}
	return live, err
}
