package kinds

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/bulkhead-dev/bulkhead/internal/tenancy"
	"github.com/bulkhead-dev/bulkhead/syncer/engine"
	"github.com/bulkhead-dev/bulkhead/syncer/translation"
)

// serviceAccounts go down while a pod runs as them, without any right: their tokens
// are the tenant's (decision D5).
func serviceAccounts() engine.Kind {
	return &engine.Down[*corev1.ServiceAccount]{
		Name: "serviceaccounts",
		SuperKey: func(t translation.Tenant, namespace, name string) types.NamespacedName {
			return types.NamespacedName{Namespace: t.SuperNamespace(namespace), Name: tenancy.SuperServiceAccount(name)}
		},
		Wanted: usedByPods[*corev1.ServiceAccount](indexServiceAccount),
		Linger: referenceLinger,
		Translate: func(_ context.Context, _ *engine.Link, tenant *corev1.ServiceAccount) (*corev1.ServiceAccount, []translation.Finding, error) {
			return translateServiceAccount(tenant), nil, nil
		},
		Merge: func(super, desired *corev1.ServiceAccount) {
			super.ImagePullSecrets = desired.ImagePullSecrets
			super.AutomountServiceAccountToken = desired.AutomountServiceAccountToken
		},
	}
}

func translateServiceAccount(tenant *corev1.ServiceAccount) *corev1.ServiceAccount {
	automount := false
	return &corev1.ServiceAccount{
		ImagePullSecrets:             tenant.DeepCopy().ImagePullSecrets,
		AutomountServiceAccountToken: &automount,
	}
}
