package controlplane

import (
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/bulkhead-dev/bulkhead/internal/tenancy"
)

// AccessRoles are the names of the Roles that ComponentAccess makes. vc-manager may
// bind these in particular: the right to bind spares it from waiting until the
// super cluster's apiserver has taken notice of a new Role.
var AccessRoles = []string{tenancy.SyncerKubeconfigSecret, tenancy.VNAgentKubeconfigSecret, tenancy.TenantProxyKubeconfigSecret}

// ComponentAccess lets syncer, vn-agent and tenant-proxy read their own kubeconfig
// of this tenant, and nothing else in the namespace. Each Role has the name of its Secret.
func ComponentAccess(in Input) []client.Object {
	var objects []client.Object
	for _, component := range []struct{ secret, serviceAccount string }{
		{tenancy.SyncerKubeconfigSecret, in.Platform.SyncerServiceAccount},
		{tenancy.VNAgentKubeconfigSecret, in.Platform.VNAgentServiceAccount},
		{tenancy.TenantProxyKubeconfigSecret, in.Platform.TenantProxyServiceAccount},
	} {
		objects = append(objects,
			&rbacv1.Role{
				TypeMeta:   metav1.TypeMeta{APIVersion: rbacv1.SchemeGroupVersion.String(), Kind: "Role"},
				ObjectMeta: in.meta(component.secret, component.serviceAccount),
				Rules: []rbacv1.PolicyRule{{
					APIGroups: []string{""}, Resources: []string{"secrets"}, ResourceNames: []string{component.secret}, Verbs: []string{"get"},
				}},
			},
			&rbacv1.RoleBinding{
				TypeMeta:   metav1.TypeMeta{APIVersion: rbacv1.SchemeGroupVersion.String(), Kind: "RoleBinding"},
				ObjectMeta: in.meta(component.secret, component.serviceAccount),
				RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: component.secret},
				Subjects: []rbacv1.Subject{{
					Kind: rbacv1.ServiceAccountKind, Namespace: in.Platform.Namespace, Name: component.serviceAccount,
				}},
			},
		)
	}
	return objects
}
