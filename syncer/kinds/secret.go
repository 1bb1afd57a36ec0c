package kinds

import (
	"context"

	corev1 "k8s.io/api/core/v1"

	"github.com/bulkhead-dev/bulkhead/syncer/engine"
	"github.com/bulkhead-dev/bulkhead/syncer/translation"
)

// secrets go down while a pod refers to them.
func secrets() engine.Kind {
	return &engine.Down[*corev1.Secret]{
		Name:   "secrets",
		Wanted: usedByPods[*corev1.Secret](indexSecret),
		Linger: referenceLinger,
		Translate: func(_ context.Context, _ *engine.Link, tenant *corev1.Secret) (*corev1.Secret, []translation.Finding, error) {
			return translateSecret(tenant), nil, nil
		},
		Merge: func(super, desired *corev1.Secret) {
			super.Data, super.Immutable = desired.Data, desired.Immutable
		},
		Replace: func(super, desired *corev1.Secret) bool { return super.Type != desired.Type },
	}
}

// translateSecret copies the data. A token of the tenant's cluster is mere data in
// the super cluster, whose token controller would otherwise delete or refill it.
func translateSecret(tenant *corev1.Secret) *corev1.Secret {
	tenant = tenant.DeepCopy()
	super := &corev1.Secret{Type: tenant.Type, Data: tenant.Data, Immutable: tenant.Immutable}
	if super.Type == corev1.SecretTypeServiceAccountToken {
		super.Type = corev1.SecretTypeOpaque
	}
	return super
}
