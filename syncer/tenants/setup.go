package tenants

import (
	"context"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/controller-runtime/pkg/source"

	tenancyv1alpha1 "github.com/bulkhead-dev/bulkhead/api/tenancy/v1alpha1"
	"github.com/bulkhead-dev/bulkhead/internal/tenancy"
)

// workers is how many virtual clusters are looked at at a time; starting a link
// does not wait for its apiserver.
const workers = 4

// reconcileTimeout bounds the look at one virtual cluster.
const reconcileTimeout = time.Minute

// stateBuffer holds changes of state until they are handled. If more tenants than
// that change at once, their condition follows at the next event.
const stateBuffer = 4096

// New makes a Reconciler; the Engine is set before Setup.
func New(c client.Client, credentials client.Reader) *Reconciler {
	return &Reconciler{
		Client: c, Credentials: credentials,
		running: map[types.NamespacedName]running{},
		changed: make(chan event.GenericEvent, stateBuffer),
	}
}

// StateChanged is the engine's OnState.
func (r *Reconciler) StateChanged(tenant tenancy.Tenant) {
	vc := &tenancyv1alpha1.VirtualCluster{}
	vc.Namespace, vc.Name = tenant.Namespace, tenant.Name
	select {
	case r.changed <- event.GenericEvent{Object: vc}:
	default:
	}
}

// Setup registers the reconciler. credentials is the cache behind r.Credentials.
func (r *Reconciler) Setup(manager ctrl.Manager, credentials cache.Cache) error {
	ours := predicate.NewPredicateFuncs(func(object client.Object) bool {
		return object.GetLabels()[tenancy.LabelManagedBy] == tenancy.ManagedBySyncer
	})
	return ctrl.NewControllerManagedBy(manager).
		Named("tenants").
		For(&tenancyv1alpha1.VirtualCluster{}).
		Watches(&tenancyv1alpha1.VirtualClusterClass{}, handler.EnqueueRequestsFromMapFunc(r.ofClass)).
		Watches(&corev1.Namespace{}, handler.EnqueueRequestsFromMapFunc(r.ofObject), builderOnDelete(ours)).
		WatchesRawSource(source.Kind(credentials, &corev1.Secret{}, handler.TypedEnqueueRequestsFromMapFunc(r.ofSecret))).
		WatchesRawSource(source.Channel(r.changed, &handler.EnqueueRequestForObject{})).
		WithOptions(controller.Options{MaxConcurrentReconciles: workers, ReconciliationTimeout: reconcileTimeout}).
		Complete(r)
}

// ofClass are the virtual clusters of a class.
func (r *Reconciler) ofClass(ctx context.Context, class client.Object) []reconcile.Request {
	return r.matching(ctx, func(vc *tenancyv1alpha1.VirtualCluster) bool { return vc.Spec.ClassName == class.GetName() })
}

// ofObject is the virtual cluster that an object's mark names.
func (r *Reconciler) ofObject(ctx context.Context, object client.Object) []reconcile.Request {
	uid := object.GetLabels()[tenancy.LabelTenant]
	return r.matching(ctx, func(vc *tenancyv1alpha1.VirtualCluster) bool { return string(vc.UID) == uid })
}

func (r *Reconciler) ofSecret(ctx context.Context, secret *corev1.Secret) []reconcile.Request {
	return r.ofObject(ctx, secret)
}

func (r *Reconciler) matching(ctx context.Context, match func(*tenancyv1alpha1.VirtualCluster) bool) []reconcile.Request {
	var list tenancyv1alpha1.VirtualClusterList
	if err := r.Client.List(ctx, &list, client.UnsafeDisableDeepCopy); err != nil {
		return nil // a read of a cache, which fails only while the program ends
	}
	var requests []reconcile.Request
	for i := range list.Items {
		if match(&list.Items[i]) {
			requests = append(requests, reconcile.Request{NamespacedName: client.ObjectKeyFromObject(&list.Items[i])})
		}
	}
	return requests
}
