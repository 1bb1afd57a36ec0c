package controlplane

import (
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/bulkhead-dev/bulkhead/internal/tenancy"
)

// Namespace holds the control plane and nothing else. The super cluster itself
// enforces on it what the pods in this package keep to.
func Namespace(in Input) *corev1.Namespace {
	namespace := &corev1.Namespace{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Namespace"},
		ObjectMeta: metav1.ObjectMeta{
			Name: in.Tenant.ControlPlaneNamespace(),
			Labels: map[string]string{
				tenancy.LabelControlPlane:                    "true",
				"pod-security.kubernetes.io/enforce":         "restricted",
				"pod-security.kubernetes.io/enforce-version": "latest",
			},
		},
	}
	tenancy.MarkTenant(namespace, in.Tenant, tenancy.ManagedByManager)
	return namespace
}
