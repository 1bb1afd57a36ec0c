package engine

import (
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/labels"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/bulkhead-dev/bulkhead/internal/tenancy"
)

// SuperSelector selects the super objects of kinds that go down that are ours.
func SuperSelector() labels.Selector {
	return labels.SelectorFromSet(labels.Set{tenancy.LabelManagedBy: tenancy.ManagedBySyncer})
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
			// The heartbeats of nodes; no other lease concerns tenants.
			&coordinationv1.Lease{}: {Namespaces: map[string]cache.Config{corev1.NamespaceNodeLease: {}}},
		},
	}
}
