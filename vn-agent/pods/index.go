// Package pods knows which super pods on this node stand for which pods of which
// tenant, from a watch of the marks that the syncer writes.
package pods

import (
	"context"
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/bulkhead-dev/bulkhead/internal/tenancy"
)

// Pod is one pod as its tenant and as the super cluster know it.
type Pod struct {
	// Namespace, Name and UID are the tenant's.
	Namespace, Name string
	UID             types.UID
	// Super is the pod that runs for it, SuperUID that one's UID.
	Super    types.NamespacedName
	SuperUID types.UID
}

// Index finds the pods of this node.
type Index struct {
	reader client.Reader
}

// Names of the cache's indexes.
const (
	byTenant    = "tenant"
	byTenantPod = "tenant-pod"
)

// CacheObject is what the index has a cache watch: pods' metadata only, so that
// no tenant's pod spec is held here.
func CacheObject() client.Object {
	pod := &metav1.PartialObjectMetadata{}
	pod.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("Pod"))
	return pod
}

// CacheOptions narrow the watch to what the syncer put on the node.
func CacheOptions(nodeName string) cache.ByObject {
	return cache.ByObject{
		Field: fields.OneTermEqualSelector("spec.nodeName", nodeName),
		Label: labels.SelectorFromSet(labels.Set{tenancy.LabelManagedBy: tenancy.ManagedBySyncer}),
	}
}

// NewIndex makes the index over a cache that was given CacheOptions for
// CacheObject.
func NewIndex(ctx context.Context, pods cache.Cache) (*Index, error) {
	for name, key := range map[string]func(tenancy.Origin) string{
		byTenant:    func(o tenancy.Origin) string { return string(o.Tenant) },
		byTenantPod: func(o tenancy.Origin) string { return tenantPodKey(o.Tenant, o.Namespace, o.Name) },
	} {
		extract := func(object client.Object) []string {
			origin, ok := tenancy.OriginOf(object)
			if !ok {
				return nil
			}
			return []string{key(origin)}
		}
		if err := pods.IndexField(ctx, CacheObject(), name, extract); err != nil {
			return nil, fmt.Errorf("indexing pods by %s: %w", name, err)
		}
	}
	return &Index{reader: pods}, nil
}

// tenantPodKey joins with a character that stands in none of the parts.
func tenantPodKey(tenant types.UID, namespace, name string) string {
	return strings.Join([]string{string(tenant), namespace, name}, "/")
}

// Find returns the tenant's pod of that name, false if it does not run here.
func (i *Index) Find(ctx context.Context, tenant tenancy.Tenant, namespace, name string) (Pod, bool, error) {
	found, err := i.list(ctx, tenant, byTenantPod, tenantPodKey(tenant.UID, namespace, name))
	if err != nil || len(found) == 0 {
		return Pod{}, false, err
	}
	return found[0], true, nil
}

// List returns all pods of the tenant on this node.
func (i *Index) List(ctx context.Context, tenant tenancy.Tenant) ([]Pod, error) {
	return i.list(ctx, tenant, byTenant, string(tenant.UID))
}

func (i *Index) list(ctx context.Context, tenant tenancy.Tenant, index, key string) ([]Pod, error) {
	list := &metav1.PartialObjectMetadataList{}
	list.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("PodList"))
	if err := i.reader.List(ctx, list, client.MatchingFields{index: key}); err != nil {
		return nil, fmt.Errorf("looking up pods of virtual cluster %s: %w", tenant, err)
	}
	pods := make([]Pod, 0, len(list.Items))
	for _, super := range list.Items {
		origin, ok := tenancy.OriginOf(&super)
		// The namespace is derived from the tenant's UID, so a pod that carries a
		// tenant's marks elsewhere is not the syncer's work, whatever it says.
		if !ok || origin.Tenant != tenant.UID || super.Namespace != tenant.SuperNamespace(origin.Namespace) {
			continue
		}
		pods = append(pods, Pod{
			Namespace: origin.Namespace, Name: origin.Name, UID: origin.UID,
			Super:    types.NamespacedName{Namespace: super.Namespace, Name: super.Name},
			SuperUID: super.UID,
		})
	}
	return pods, nil
}
