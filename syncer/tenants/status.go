package tenants

import (
	"context"
	"fmt"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/predicate"

	tenancyv1alpha1 "github.com/bulkhead-dev/bulkhead/api/tenancy/v1alpha1"
	"github.com/bulkhead-dev/bulkhead/syncer/engine"
)

// fieldOwner owns the condition Synced and nothing else of a VirtualCluster's status.
const fieldOwner = client.FieldOwner("syncer")

// setSynced writes the condition Synced, if it differs.
func (r *Reconciler) setSynced(ctx context.Context, vc *tenancyv1alpha1.VirtualCluster, state engine.State) error {
	conditions := append([]metav1.Condition(nil), vc.Status.Conditions...)
	status := metav1.ConditionFalse
	if state.Synced {
		status = metav1.ConditionTrue
	}
	changed := meta.SetStatusCondition(&conditions, metav1.Condition{
		Type: tenancyv1alpha1.ConditionSynced, Status: status, Reason: state.Reason, Message: state.Message, ObservedGeneration: vc.Generation,
	})
	if !changed {
		return nil
	}
	condition, err := runtime.DefaultUnstructuredConverter.ToUnstructured(meta.FindStatusCondition(conditions, tenancyv1alpha1.ConditionSynced))
	if err != nil {
		return fmt.Errorf("encoding a condition: %w", err)
	}
	apply := &unstructured.Unstructured{Object: map[string]any{
		"metadata": map[string]any{"namespace": vc.Namespace, "name": vc.Name, "uid": string(vc.UID)},
		"status":   map[string]any{"conditions": []any{condition}},
	}}
	apply.SetGroupVersionKind(tenancyv1alpha1.GroupVersion.WithKind("VirtualCluster"))
	err = r.Client.Status().Apply(ctx, client.ApplyConfigurationFromUnstructured(apply), fieldOwner, client.ForceOwnership)
	if err != nil {
		return client.IgnoreNotFound(fmt.Errorf("writing condition Synced of virtual cluster %s/%s: %w", vc.Namespace, vc.Name, err))
	}
	return nil
}

// builderOnDelete restricts a watch to deletions of what matches.
func builderOnDelete(match predicate.Predicate) builder.Predicates {
	return builder.WithPredicates(match, predicate.Funcs{
		CreateFunc: func(event.CreateEvent) bool { return false },
		UpdateFunc: func(event.UpdateEvent) bool { return false },
	})
}
