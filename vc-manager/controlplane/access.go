package controlplane

import (
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/bulkhead-dev/bulkhead/internal/tenancy"
)

// ComponentAccess lets syncer and vn-agent read their own kubeconfig of this
// tenant, and nothing else in the namespace.
func ComponentAccess(in Input) []client.Object {
	var objects []client.Object
	for _, component := range []struct{ name, serviceAccount, secret string }{
		{"syncer", in.Platform.SyncerServiceAccount, tenancy.SyncerKubeconfigSecret},
		{"vn-agent", in.Platform.VNAgentServiceAccount, tenancy.VNAgentKubeconfigSecret},
	} {
		objects = append(objects,
			&rbacv1.Role{
				TypeMeta:   metav1.TypeMeta{APIVersion: rbacv1.SchemeGroupVersion.String(), Kind: "Role"},
				ObjectMeta: in.meta(component.name, component.name),
				Rules: []rbacv1.PolicyRule{{
					APIGroups: []string{""}, Resources: []string{"secrets"}, ResourceNames: []string{component.secret}, Verbs: []string{"get"},
				}},
			},
			&rbacv1.RoleBinding{
				TypeMeta:   metav1.TypeMeta{APIVersion: rbacv1.SchemeGroupVersion.String(), Kind: "RoleBinding"},
				ObjectMeta: in.meta(component.name, component.name),
				RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: component.name},
				Subjects: []rbacv1.Subject{{
					Kind: rbacv1.ServiceAccountKind, Namespace: in.Platform.Namespace, Name: component.serviceAccount,
				}},
			},
		)
	}
	return objects
}
