package bootstrap

import (
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/bulkhead-dev/bulkhead/internal/tenancy"
	tenantproxyrbac "github.com/bulkhead-dev/bulkhead/tenant-proxy/rbac"
)

// tenantProxy gives tenant-proxy the rights that its own package lists.
func tenantProxy() []client.Object {
	return []client.Object{
		clusterRole(tenancy.UserTenantProxy, tenantproxyrbac.TenantRules()...),
		clusterRoleBinding(tenancy.UserTenantProxy, tenancy.UserTenantProxy, user(tenancy.UserTenantProxy)),
	}
}
