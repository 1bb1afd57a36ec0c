package kinds

import (
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
	return offered("storageclasses", offer[*storagev1.StorageClass]{
		Offered:   offersStorageClass,
		Translate: translateStorageClass,
		Merge: func(tenant, desired *storagev1.StorageClass) {
			tenant.AllowVolumeExpansion = desired.AllowVolumeExpansion
		},
		Fixed: func(class *storagev1.StorageClass) any {
			return []any{class.Provisioner, class.ReclaimPolicy, class.VolumeBindingMode, class.AllowedTopologies}
		},
	})
}

func offersStorageClass(t translation.Tenant, super *storagev1.StorageClass) bool {
	return t.OffersStorageClass(super.Name, super.Annotations[annotationDefaultClass] == "true")
}

// translateStorageClass hides the provisioner and its parameters. The volume is
// made by the super cluster, so that no controller of the tenant may take it for its own.
func translateStorageClass(super *storagev1.StorageClass) *storagev1.StorageClass {
	in := super.DeepCopy()
	out := &storagev1.StorageClass{
		ObjectMeta:  defaultMark(annotationDefaultClass, in),
		Provisioner: tenancy.OpaqueDriver, ReclaimPolicy: in.ReclaimPolicy, VolumeBindingMode: in.VolumeBindingMode,
		AllowVolumeExpansion: in.AllowVolumeExpansion, AllowedTopologies: in.AllowedTopologies,
	}
	if out.ReclaimPolicy == nil {
		policy := corev1.PersistentVolumeReclaimDelete
		out.ReclaimPolicy = &policy
	}
	if out.VolumeBindingMode == nil {
		mode := storagev1.VolumeBindingImmediate
		out.VolumeBindingMode = &mode
	}
	return out
}

// defaultMark says of a class whether it is the default one. It always says so, for
// an annotation that is left out stays as it was.
func defaultMark(annotation string, super metav1.Object) metav1.ObjectMeta {
	value := "false"
	if super.GetAnnotations()[annotation] == "true" {
		value = "true"
	}
	return metav1.ObjectMeta{Annotations: map[string]string{annotation: value}}
}
