package engine

import (
	"context"
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/client-go/util/workqueue"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	abmv1alpha1 "github.com/bulkhead-dev/bulkhead/api/abm/v1alpha1"
	tenancyv1alpha1 "github.com/bulkhead-dev/bulkhead/api/tenancy/v1alpha1"
)

// Times between attempts that ended before a step could record its own.
const (
	firstRetry = 200 * time.Millisecond
	lastRetry  = time.Minute
)

// SetupWithManager adds the controller of instances to a manager.
func (r *Reconciler) SetupWithManager(mgr ctrl.Manager, registry prometheus.Registerer, workers int) error {
	if err := r.Register(registry); err != nil {
		return err
	}
	return ctrl.NewControllerManagedBy(mgr).
		Named("serviceinstance").
		For(&abmv1alpha1.ServiceInstance{}, builder.WithPredicates(specChanges())).
		Watches(&tenancyv1alpha1.VirtualCluster{}, handler.EnqueueRequestsFromMapFunc(instanceOfObject)).
		WithOptions(controller.Options{
			MaxConcurrentReconciles: workers,
			RateLimiter:             workqueue.NewTypedItemExponentialFailureRateLimiter[reconcile.Request](firstRetry, lastRetry),
		}).
		Complete(r)
}

// Register adds the reconciler's metrics to a registry; SetupWithManager does.
func (r *Reconciler) Register(registry prometheus.Registerer) error {
	var err error
	if r.metrics, err = newMetrics(registry); err != nil {
		return fmt.Errorf("registering metrics: %w", err)
	}
	return nil
}

// SetupWithManager adds the controller of definitions to a manager.
func (d *Definitions) SetupWithManager(mgr ctrl.Manager) error {
	return ctrl.NewControllerManagedBy(mgr).
		Named("servicedefinition").
		For(&abmv1alpha1.ServiceDefinition{}).
		Watches(&abmv1alpha1.ServiceRevision{}, handler.EnqueueRequestsFromMapFunc(func(_ context.Context, object client.Object) []reconcile.Request {
			return []reconcile.Request{{NamespacedName: client.ObjectKey{Name: object.(*abmv1alpha1.ServiceRevision).ServiceName}}}
		})).
		// A revision may be needed no more once an instance is gone.
		Watches(&abmv1alpha1.ServiceInstance{}, handler.EnqueueRequestsFromMapFunc(func(_ context.Context, object client.Object) []reconcile.Request {
			return []reconcile.Request{{NamespacedName: client.ObjectKey{Name: object.(*abmv1alpha1.ServiceInstance).Spec.ServiceName}}}
		}), builder.WithPredicates(predicate.Funcs{
			CreateFunc: func(event.CreateEvent) bool { return false },
			UpdateFunc: func(event.UpdateEvent) bool { return false },
		})).
		Complete(d)
}

// instanceOfObject finds the instance by the mark on what it made. It is a hint of
// whom to look at; what is done goes by the ledger.
func instanceOfObject(_ context.Context, object client.Object) []reconcile.Request {
	name := object.GetLabels()[abmv1alpha1.LabelInstance]
	if name == "" {
		return nil
	}
	return []reconcile.Request{{NamespacedName: client.ObjectKey{Namespace: object.GetNamespace(), Name: name}}}
}

// specChanges leaves out changes of status, which are our own.
func specChanges() predicate.Predicate {
	return predicate.Funcs{UpdateFunc: func(update event.UpdateEvent) bool {
		before, after := update.ObjectOld, update.ObjectNew
		return before.GetGeneration() != after.GetGeneration() || !after.GetDeletionTimestamp().Equal(before.GetDeletionTimestamp())
	}}
}
