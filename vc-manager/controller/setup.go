package controller

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
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
	"github.com/bulkhead-dev/bulkhead/vc-manager/tenantcluster"
)

// Fields by which the cache finds objects.
const (
	indexClassName      = "spec.className"
	indexNamespace      = "controlPlaneNamespace"
	indexClaimNamespace = "spec.claimRef.namespace"
	indexTenant         = "tenant"
)

// CacheObjects are the kinds the Reconciler reads from its cache, and the share of
// them that is in it. Secrets, ConfigMaps, Roles and the like are not: nobody
// watches them, so nobody needs a right to list them.
func CacheObjects() map[client.Object]cache.ByObject {
	managed := cache.ByObject{Label: labels.SelectorFromSet(labels.Set{tenancy.LabelManagedBy: tenancy.ManagedByManager})}
	return map[client.Object]cache.ByObject{
		&corev1.Namespace{}:        managed,
		&corev1.Service{}:          managed,
		&appsv1.StatefulSet{}:      managed,
		&appsv1.Deployment{}:       managed,
		&corev1.Node{}:             {Transform: keepAddresses},
		&corev1.PersistentVolume{}: {Transform: keepClaim},
	}
}

// keepAddresses drops of a Node what vc-manager does not read.
func keepAddresses(object any) (any, error) {
	if node, ok := object.(*corev1.Node); ok {
		node.ManagedFields, node.Annotations, node.Labels = nil, nil, nil
		node.Spec = corev1.NodeSpec{}
		node.Status = corev1.NodeStatus{Addresses: node.Status.Addresses}
	}
	return object, nil
}

// keepClaim drops of a PersistentVolume what vc-manager does not read.
func keepClaim(object any) (any, error) {
	if volume, ok := object.(*corev1.PersistentVolume); ok {
		volume.ManagedFields, volume.Annotations, volume.Labels = nil, nil, nil
		volume.Spec = corev1.PersistentVolumeSpec{
			ClaimRef: volume.Spec.ClaimRef, PersistentVolumeReclaimPolicy: volume.Spec.PersistentVolumeReclaimPolicy,
		}
	}
	return object, nil
}

// SetupWithManager adds the controller to a manager whose cache has CacheObjects.
func (r *Reconciler) SetupWithManager(ctx context.Context, mgr ctrl.Manager, registry prometheus.Registerer, workers int) error {
	var err error
	if r.metrics, err = newMetrics(registry, r.Client); err != nil {
		return fmt.Errorf("registering metrics: %w", err)
	}
	if err := addIndexes(ctx, mgr.GetFieldIndexer()); err != nil {
		return err
	}
	observed := make(chan event.TypedGenericEvent[types.NamespacedName])
	r.tenants = tenantcluster.NewWatcher(r.Dialer, func(cluster types.NamespacedName) {
		select {
		case observed <- event.TypedGenericEvent[types.NamespacedName]{Object: cluster}:
		case <-ctx.Done():
		}
	})
	if err := mgr.Add(r.tenants); err != nil {
		return fmt.Errorf("adding the watcher of tenants' apiservers: %w", err)
	}
	return ctrl.NewControllerManagedBy(mgr).
		Named("virtualcluster").
		For(&tenancyv1alpha1.VirtualCluster{}, builder.WithPredicates(specChanges())).
		Watches(&tenancyv1alpha1.VirtualClusterClass{}, handler.EnqueueRequestsFromMapFunc(r.clustersOfClass)).
		Watches(&corev1.Namespace{}, handler.EnqueueRequestsFromMapFunc(clusterOfPart)).
		Watches(&corev1.Service{}, handler.EnqueueRequestsFromMapFunc(clusterOfPart)).
		Watches(&appsv1.StatefulSet{}, handler.EnqueueRequestsFromMapFunc(clusterOfPart)).
		Watches(&appsv1.Deployment{}, handler.EnqueueRequestsFromMapFunc(clusterOfPart)).
		Watches(&corev1.PersistentVolume{}, handler.EnqueueRequestsFromMapFunc(r.clusterOfVolume)).
		Watches(&corev1.Node{}, handler.EnqueueRequestsFromMapFunc(r.allClusters), builder.WithPredicates(addressChanges())).
		WatchesRawSource(source.TypedChannel(observed, handler.TypedEnqueueRequestsFromMapFunc(
			func(_ context.Context, cluster types.NamespacedName) []reconcile.Request {
				return []reconcile.Request{{NamespacedName: cluster}}
			}))).
		WithOptions(controller.Options{MaxConcurrentReconciles: workers}).
		Complete(r)
}

func addIndexes(ctx context.Context, indexer client.FieldIndexer) error {
	for _, index := range []struct {
		object client.Object
		field  string
		values client.IndexerFunc
	}{
		{&tenancyv1alpha1.VirtualCluster{}, indexClassName, func(object client.Object) []string {
			return []string{object.(*tenancyv1alpha1.VirtualCluster).Spec.ClassName}
		}},
		{&tenancyv1alpha1.VirtualCluster{}, indexNamespace, func(object client.Object) []string {
			return []string{tenantOf(object.(*tenancyv1alpha1.VirtualCluster)).ControlPlaneNamespace()}
		}},
		{&corev1.Namespace{}, indexTenant, func(object client.Object) []string {
			return []string{object.GetAnnotations()[tenancy.AnnotationTenant]}
		}},
		{&corev1.PersistentVolume{}, indexClaimNamespace, func(object client.Object) []string {
			if claim := object.(*corev1.PersistentVolume).Spec.ClaimRef; claim != nil {
				return []string{claim.Namespace}
			}
			return nil
		}},
	} {
		if err := indexer.IndexField(ctx, index.object, index.field, index.values); err != nil {
			return fmt.Errorf("indexing %s: %w", index.field, err)
		}
	}
	return nil
}

// clusterOfPart finds the virtual cluster by the annotation on a part of its control
// plane. It is a hint of whom to look at; what is done goes by our own records.
func clusterOfPart(_ context.Context, object client.Object) []reconcile.Request {
	namespace, name, found := strings.Cut(object.GetAnnotations()[tenancy.AnnotationTenant], "/")
	if !found {
		return nil
	}
	return []reconcile.Request{{NamespacedName: types.NamespacedName{Namespace: namespace, Name: name}}}
}

func (r *Reconciler) clustersOfClass(ctx context.Context, class client.Object) []reconcile.Request {
	return r.requests(ctx, client.MatchingFields{indexClassName: class.GetName()})
}

func (r *Reconciler) clusterOfVolume(ctx context.Context, volume client.Object) []reconcile.Request {
	claim := volume.(*corev1.PersistentVolume).Spec.ClaimRef
	if claim == nil {
		return nil
	}
	return r.requests(ctx, client.MatchingFields{indexNamespace: claim.Namespace})
}

func (r *Reconciler) allClusters(ctx context.Context, _ client.Object) []reconcile.Request {
	return r.requests(ctx)
}

func (r *Reconciler) requests(ctx context.Context, options ...client.ListOption) []reconcile.Request {
	var clusters tenancyv1alpha1.VirtualClusterList
	if err := r.Client.List(ctx, &clusters, options...); err != nil {
		ctrl.LoggerFrom(ctx).Error(err, "Cannot list virtual clusters")
		return nil
	}
	requests := make([]reconcile.Request, 0, len(clusters.Items))
	for _, vc := range clusters.Items {
		requests = append(requests, reconcile.Request{NamespacedName: client.ObjectKeyFromObject(&vc)})
	}
	return requests
}

// addressChanges are the events of Nodes that matter to who is reached by their addresses.
func addressChanges() predicate.Predicate {
	return predicate.Funcs{UpdateFunc: func(update event.UpdateEvent) bool {
		before, after := update.ObjectOld.(*corev1.Node), update.ObjectNew.(*corev1.Node)
		return !slices.Equal(before.Status.Addresses, after.Status.Addresses)
	}}
}

// specChanges leaves out changes of status, which are our own and the syncer's.
func specChanges() predicate.Predicate {
	return predicate.Funcs{UpdateFunc: func(update event.UpdateEvent) bool {
		before, after := update.ObjectOld, update.ObjectNew
		return before.GetGeneration() != after.GetGeneration() || before.GetUID() != after.GetUID() ||
			!after.GetDeletionTimestamp().Equal(before.GetDeletionTimestamp()) ||
			!slices.Equal(before.GetFinalizers(), after.GetFinalizers())
	}}
}
