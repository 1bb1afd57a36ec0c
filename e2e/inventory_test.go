//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/metadata"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/bulkhead-dev/bulkhead/internal/tenancy"
)

// listNames lists objects of the super cluster as "type namespace/name".
func listNames(ctx context.Context, list client.ObjectList, options ...client.ListOption) ([]string, error) {
	if err := super.client.List(ctx, list, options...); err != nil {
		return nil, err
	}
	var names []string
	err := meta.EachListItem(list, func(object runtime.Object) error {
		accessor, err := meta.Accessor(object)
		if err != nil {
			return err
		}
		names = append(names, fmt.Sprintf("%T %s/%s", object, accessor.GetNamespace(), accessor.GetName()))
		return nil
	})
	return names, err
}

// carriesUID lists every object of every kind in the super cluster that mentions
// the tenant's UID anywhere in its metadata, or is in one of its namespaces.
func carriesUID(ctx context.Context, tenant tenancy.Tenant) ([]string, error) {
	finder, err := discovery.NewDiscoveryClientForConfig(super.config)
	if err != nil {
		return nil, err
	}
	// Groups that do not answer (an aggregated API that is down) fail the listing:
	// what cannot be listed cannot be called clean.
	lists, err := finder.ServerPreferredResources()
	if err != nil {
		return nil, err
	}
	reader, err := metadata.NewForConfig(super.config)
	if err != nil {
		return nil, err
	}
	namespaces := map[string]bool{tenant.ControlPlaneNamespace(): true}
	for _, name := range []string{"default", "kube-system", "kube-public"} {
		namespaces[tenant.SuperNamespace(name)] = true
	}
	var found []string
	for _, list := range lists {
		version, err := schema.ParseGroupVersion(list.GroupVersion)
		if err != nil {
			return nil, err
		}
		for _, resource := range list.APIResources {
			if strings.Contains(resource.Name, "/") || !slices.Contains(resource.Verbs, "list") {
				continue
			}
			objects, err := reader.Resource(version.WithResource(resource.Name)).List(ctx, metav1.ListOptions{})
			if err != nil {
				return nil, fmt.Errorf("listing %s: %w", resource.Name, err)
			}
			for _, object := range objects.Items {
				if mentions(&object, tenant) || namespaces[object.Namespace] || resource.Kind == "Namespace" && namespaces[object.Name] {
					// The virtual cluster's own events tell its history; they expire by themselves.
					if resource.Kind == "Event" && object.Namespace == tenant.Namespace {
						continue
					}
					found = append(found, fmt.Sprintf("%s %s/%s", resource.Kind, object.Namespace, object.Name))
				}
			}
		}
	}
	return found, nil
}

func mentions(object *metav1.PartialObjectMetadata, tenant tenancy.Tenant) bool {
	uid := string(tenant.UID)
	if string(object.UID) == uid || strings.Contains(object.Name, uid) {
		return true
	}
	for _, values := range []map[string]string{object.Labels, object.Annotations} {
		for _, value := range values {
			if strings.Contains(value, uid) {
				return true
			}
		}
	}
	return false
}

// volumesOf lists persistent volumes that are claimed from one of the namespaces.
func volumesOf(ctx context.Context, namespaces ...string) ([]string, error) {
	var volumes corev1.PersistentVolumeList
	if err := super.client.List(ctx, &volumes); err != nil {
		return nil, err
	}
	var found []string
	for _, volume := range volumes.Items {
		if volume.Spec.ClaimRef != nil && slices.Contains(namespaces, volume.Spec.ClaimRef.Namespace) {
			found = append(found, volume.Name)
		}
	}
	return found, nil
}
