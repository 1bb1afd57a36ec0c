// Package rbac lists what vc-manager may do in the super cluster, so that the chart,
// which grants it, and the tests, which run with exactly these, read the same list.
package rbac

import (
	"strings"

	rbacv1 "k8s.io/api/rbac/v1"

	"github.com/bulkhead-dev/bulkhead/internal/tenancy"
	"github.com/bulkhead-dev/bulkhead/vc-manager/controlplane"
)

// API groups in the rules.
const (
	groupCore           = ""
	groupTenancy        = "tenancy.bulkhead.dev"
	groupApps           = "apps"
	groupPolicy         = "policy"
	groupNetworking     = "networking.k8s.io"
	groupRBAC           = "rbac.authorization.k8s.io"
	groupCertificates   = "certificates.k8s.io"
	groupEvents         = "events.k8s.io"
	groupCoordination   = "coordination.k8s.io"
	groupAuthentication = "authentication.k8s.io"
	groupAuthorization  = "authorization.k8s.io"
)

var (
	read = []string{"get", "list", "watch"}
	// ensure is for objects that are looked at by name only and go with their
	// namespace. Above all vc-manager cannot list Secrets.
	ensure = []string{"get", "create", "patch"}
)

// SuperRules is vc-manager's ClusterRole in the super cluster. It holds in all
// namespaces because RBAC cannot select those of control planes, which have labels
// and no names known beforehand; what vc-manager touches is decided by the marks on
// each object.
func SuperRules() []rbacv1.PolicyRule {
	return []rbacv1.PolicyRule{
		rule(groupTenancy, "virtualclusters", append(read, "patch")),
		rule(groupTenancy, "virtualclusters/status", []string{"patch"}),
		rule(groupTenancy, "virtualclusterclasses", read),

		// The control plane. What has no right to delete here is deleted with its
		// namespace.
		rule(groupCore, "namespaces", append(read, "create", "patch", "delete")),
		rule(groupCore, "services", append(read, "create", "patch", "delete")),
		rule(groupApps, "deployments statefulsets", append(read, "create", "patch", "delete")),
		rule(groupCore, "persistentvolumeclaims", []string{"list", "delete"}),
		rule(groupCore, "configmaps", ensure),
		// Deleted where a class drops an option, such as a scheduler.
		rule(groupCore, "secrets", append(ensure, "delete")),
		rule(groupPolicy, "poddisruptionbudgets", append(ensure, "delete")),
		rule(groupNetworking, "networkpolicies", append(ensure, "delete")),
		// To let syncer, vn-agent and tenant-proxy read one Secret each. It can grant no more than
		// it may itself.
		rule(groupRBAC, "roles rolebindings", ensure),
		{APIGroups: []string{groupRBAC}, Resources: []string{"roles"}, ResourceNames: controlplane.AccessRoles, Verbs: []string{"bind"}},

		// Why a control plane is not ready; where it is reached; what is left of it.
		rule(groupCore, "pods", []string{"list"}),
		rule(groupCore, "nodes persistentvolumes", read),

		// vn-agents' serving certificates.
		rule(groupCertificates, "certificatesigningrequests", read),
		rule(groupCertificates, "certificatesigningrequests/approval certificatesigningrequests/status", []string{"update"}),
		{APIGroups: []string{groupCertificates}, Resources: []string{"signers"}, ResourceNames: []string{tenancy.VNAgentServingSigner}, Verbs: []string{"approve", "sign"}},

		rule(groupEvents, "events", []string{"create", "patch"}),
		// Who may read its own metrics.
		rule(groupAuthentication, "tokenreviews", []string{"create"}),
		rule(groupAuthorization, "subjectaccessreviews", []string{"create"}),
	}
}

// PlatformNamespaceRules is vc-manager's Role in the namespace it runs in: the lease
// by which replicas elect the one that works, and the events about it, which
// client-go still writes in the core group.
func PlatformNamespaceRules() []rbacv1.PolicyRule {
	return []rbacv1.PolicyRule{
		rule(groupCoordination, "leases", []string{"get", "create", "update", "patch"}),
		rule(groupCore, "events", []string{"create", "patch"}),
	}
}

func rule(group, resources string, verbs []string) rbacv1.PolicyRule {
	return rbacv1.PolicyRule{APIGroups: []string{group}, Resources: strings.Fields(resources), Verbs: append([]string(nil), verbs...)}
}
