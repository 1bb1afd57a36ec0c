package kinds

import (
	corev1 "k8s.io/api/core/v1"

	"github.com/bulkhead-dev/bulkhead/internal/tenancy"
	"github.com/bulkhead-dev/bulkhead/syncer/engine"
)

// serviceAccounts go down while a pod runs as them, without any right: their tokens
// are the tenant's (decision D5).
func serviceAccounts() engine.Kind {
	return referredTo("serviceaccounts", indexServiceAccount, tenancy.SuperServiceAccount, copyOf[*corev1.ServiceAccount]{
		Translate: translateServiceAccount,
		Merge: func(super, desired *corev1.ServiceAccount) {
			super.ImagePullSecrets = desired.ImagePullSecrets
			super.AutomountServiceAccountToken = desired.AutomountServiceAccountToken
		},
	})
}

func translateServiceAccount(tenant *corev1.ServiceAccount) *corev1.ServiceAccount {
	automount := false
	return &corev1.ServiceAccount{
		ImagePullSecrets:             tenant.DeepCopy().ImagePullSecrets,
		AutomountServiceAccountToken: &automount,
	}
}
