package kinds

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/bulkhead-dev/bulkhead/internal/tenancy"
	"github.com/bulkhead-dev/bulkhead/syncer/engine"
	"github.com/bulkhead-dev/bulkhead/syncer/translation"
)

// annotationDefaultClass marks the default StorageClass of a cluster.
const annotationDefaultClass = "storageclass.kubernetes.io/is-default-class"

// storageClasses come up where the tenant's class offers them.
func storageClasses() engine.Kind {
	return &engine.Up[*storagev1.StorageClass]{
		Name: "storageclasses",
		Targets: func(_ context.Context, e *engine.Engine, super *storagev1.StorageClass, to func(*engine.Link, engine.Key)) error {
			for _, link := range e.Links() {
				to(link, engine.Key{Resource: "storageclasses", Name: super.Name})
			}
			return nil
		},
		Translate: func(_ context.Context, l *engine.Link, _ engine.Key, super, _ *storagev1.StorageClass) (*storagev1.StorageClass, error) {
			if !offered(l.Tenant(), super) {
				return nil, nil
			}
			return translateStorageClass(super), nil
		},
		Merge: func(tenant, desired *storagev1.StorageClass) {
			tenant.AllowVolumeExpansion = desired.AllowVolumeExpansion
		},
	}
}

func offered(t translation.Tenant, super *storagev1.StorageClass) bool {
	return t.OffersStorageClass(super.Name, super.Annotations[annotationDefaultClass] == "true")
}

// translateStorageClass hides the provisioner and its parameters. The volume is
// made by the super cluster, so that no controller of the tenant may take it for its own.
func translateStorageClass(super *storagev1.StorageClass) *storagev1.StorageClass {
	in := super.DeepCopy()
	out := &storagev1.StorageClass{
		ObjectMeta:  metav1.ObjectMeta{Annotations: map[string]string{annotationDefaultClass: "false"}},
		Provisioner: tenancy.OpaqueDriver, ReclaimPolicy: in.ReclaimPolicy, VolumeBindingMode: in.VolumeBindingMode,
		AllowVolumeExpansion: in.AllowVolumeExpansion, AllowedTopologies: in.AllowedTopologies,
	}
	if in.Annotations[annotationDefaultClass] == "true" {
		out.Annotations[annotationDefaultClass] = "true"
	}
	if out.ReclaimPolicy == nil {
		policy := corev1.PersistentVolumeReclaimDelete
		out.ReclaimPolicy = &policy
	}
	return out
}
