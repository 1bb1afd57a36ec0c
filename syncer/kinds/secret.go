package kinds

import (
	corev1 "k8s.io/api/core/v1"

	"github.com/bulkhead-dev/bulkhead/syncer/engine"
)

// secrets go down while a pod refers to them.
func secrets() engine.Kind {
	return referredTo("secrets", indexSecret, sameName, copyOf[*corev1.Secret]{
		Translate: translateSecret,
		Merge: func(super, desired *corev1.Secret) {
			super.Data, super.Immutable = desired.Data, desired.Immutable
		},
		Immutable: func(super *corev1.Secret) bool { return super.Immutable != nil && *super.Immutable },
		Another:   func(super, desired *corev1.Secret) bool { return super.Type != desired.Type },
	})
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
