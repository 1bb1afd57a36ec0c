package kinds

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/bulkhead-dev/bulkhead/internal/tenancy"
	"github.com/bulkhead-dev/bulkhead/syncer/engine"
	"github.com/bulkhead-dev/bulkhead/syncer/translation"
)

// configMaps go down while a pod refers to them.
func configMaps() engine.Kind {
	return &engine.Down[*corev1.ConfigMap]{
		Name: "configmaps",
		SuperKey: func(t translation.Tenant, namespace, name string) types.NamespacedName {
			return types.NamespacedName{Namespace: t.SuperNamespace(namespace), Name: tenancy.SuperConfigMap(name)}
		},
		Wanted: usedByPods[*corev1.ConfigMap](indexConfigMap),
		Linger: referenceLinger,
		Translate: func(_ context.Context, _ *engine.Link, tenant *corev1.ConfigMap) (*corev1.ConfigMap, []translation.Finding, error) {
			tenant = tenant.DeepCopy()
			return &corev1.ConfigMap{Data: tenant.Data, BinaryData: tenant.BinaryData, Immutable: tenant.Immutable}, nil, nil
		},
		Merge: func(super, desired *corev1.ConfigMap) {
			super.Data, super.BinaryData, super.Immutable = desired.Data, desired.BinaryData, desired.Immutable
		},
	}
}
