package bootstrap

import (
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/bulkhead-dev/bulkhead/internal/tenancy"
	syncerrbac "github.com/bulkhead-dev/bulkhead/syncer/rbac"
)

// syncer gives the syncer the rights that its own package lists.
func syncer() []client.Object {
	return []client.Object{
		clusterRole(tenancy.UserSyncer, syncerrbac.TenantRules()...),
		clusterRoleBinding(tenancy.UserSyncer, tenancy.UserSyncer, user(tenancy.UserSyncer)),
	}
}
