package bootstrap

import (
	authorizationv1 "k8s.io/api/authorization/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/bulkhead-dev/bulkhead/internal/tenancy"
)

// vnAgent lets vn-agent ask whether the tenant allows a caller what they want of a node.
func vnAgent() []client.Object {
	return []client.Object{
		clusterRole(tenancy.UserVNAgent, rbacv1.PolicyRule{
			APIGroups: []string{authorizationv1.GroupName}, Resources: []string{"subjectaccessreviews"}, Verbs: []string{"create"},
		}),
		clusterRoleBinding(tenancy.UserVNAgent, tenancy.UserVNAgent, user(tenancy.UserVNAgent)),
	}
}
