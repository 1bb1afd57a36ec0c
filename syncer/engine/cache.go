package engine

import (
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/selection"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/bulkhead-dev/bulkhead/internal/tenancy"
)

// SuperSelector selects the super objects of kinds that go down that are ours.
func SuperSelector() labels.Selector {
	return labels.SelectorFromSet(labels.Set{tenancy.LabelManagedBy: tenancy.ManagedBySyncer})
}

// SliceManager is who manages the EndpointSlices in the super cluster that are ours.
// Those of its controllers have labels of Services, and so the marks of tenants.
const SliceManager = "syncer." + tenancy.Domain

// ManualSlices selects the EndpointSlices that no controller of Kubernetes makes from
// Services and Endpoints: the ones that are carried.
func ManualSlices() labels.Selector {
	made, err := labels.NewRequirement(discoveryv1.LabelManagedBy, selection.NotIn,
		[]string{"endpointslice-controller.k8s.io", "endpointslicemirroring-controller.k8s.io"})
	if err != nil {
		panic(err) // it is part of the program
	}
	return labels.NewSelector().Add(*made)
}

// CacheOptions are those of the super cluster's cache that an Engine works with: of
// the kinds that go down it holds ours alone.
func CacheOptions() cache.Options {
	ours := cache.ByObject{Label: SuperSelector()}
	return cache.Options{
		DefaultTransform: cache.TransformStripManagedFields(),
		ByObject: map[client.Object]cache.ByObject{
			&corev1.Namespace{}: ours, &corev1.Pod{}: ours, &corev1.Service{}: ours, &corev1.Endpoints{}: ours,
			&corev1.Secret{}: ours, &corev1.ConfigMap{}: ours, &corev1.ServiceAccount{}: ours, &corev1.PersistentVolumeClaim{}: ours,
			&networkingv1.NetworkPolicy{}: ours,
			&discoveryv1.EndpointSlice{}:  {Label: labels.SelectorFromSet(labels.Set{discoveryv1.LabelManagedBy: SliceManager})},
			// The heartbeats of nodes; no other lease concerns tenants.
			&coordinationv1.Lease{}: {Namespaces: map[string]cache.Config{corev1.NamespaceNodeLease: {}}},
		},
	}
}
