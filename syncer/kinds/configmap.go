package kinds

import (
	corev1 "k8s.io/api/core/v1"

	"github.com/bulkhead-dev/bulkhead/internal/tenancy"
	"github.com/bulkhead-dev/bulkhead/syncer/engine"
)

// configMaps go down while a pod refers to them.
func configMaps() engine.Kind {
	return referredTo("configmaps", indexConfigMap, tenancy.SuperConfigMap, copyOf[*corev1.ConfigMap]{
		Translate: func(tenant *corev1.ConfigMap) *corev1.ConfigMap {
			tenant = tenant.DeepCopy()
			return &corev1.ConfigMap{Data: tenant.Data, BinaryData: tenant.BinaryData, Immutable: tenant.Immutable}
		},
		Merge: func(super, desired *corev1.ConfigMap) {
			super.Data, super.BinaryData, super.Immutable = desired.Data, desired.BinaryData, desired.Immutable
		},
		Immutable: func(super *corev1.ConfigMap) bool { return super.Immutable != nil && *super.Immutable },
	})
}
