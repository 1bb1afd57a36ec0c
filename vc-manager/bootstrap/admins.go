package bootstrap

import (
	rbacv1 "k8s.io/api/rbac/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/bulkhead-dev/bulkhead/vc-manager/certificates"
)

// admins gives the holders of the tenant's admin kubeconfig all rights.
func admins() []client.Object {
	group := rbacv1.Subject{APIGroup: rbacv1.GroupName, Kind: rbacv1.GroupKind, Name: certificates.GroupAdmins}
	return []client.Object{clusterRoleBinding(certificates.GroupAdmins, "cluster-admin", group)}
}
