// Package rbac lists what the syncer may do, so that those who grant it (vc-manager
// in a tenant's cluster, the chart in the super cluster) and the test that proves
// that it suffices read the same list.
package rbac

import rbacv1 "k8s.io/api/rbac/v1"

// API groups in the rules.
const (
	groupCore           = ""
	groupStorage        = "storage.k8s.io"
	groupNetworking     = "networking.k8s.io"
	groupNode           = "node.k8s.io"
	groupScheduling     = "scheduling.k8s.io"
	groupDiscovery      = "discovery.k8s.io"
	groupTenancy        = "tenancy.bulkhead.dev"
	groupCoordination   = "coordination.k8s.io"
	groupAuthentication = "authentication.k8s.io"
	groupAuthorization  = "authorization.k8s.io"
)

// The kinds that go down: the tenant's are read, the super cluster's are written.
var downKinds = []string{"namespaces", "pods", "services", "endpoints", "secrets", "configmaps", "serviceaccounts", "persistentvolumeclaims"}

var (
	read  = []string{"get", "list", "watch"}
	write = []string{"get", "list", "watch", "create", "patch", "delete"}
)

// TenantRules is the ClusterRole of the user bulkhead:syncer in a tenant's cluster.
// What comes from the tenant is read only, but for the status of it, the binding
// of pods to nodes and the deletion of pods that are gone in the super cluster.
func TenantRules() []rbacv1.PolicyRule {
	return []rbacv1.PolicyRule{
		rule(groupCore, downKinds, read),
		rule(groupNetworking, []string{"networkpolicies"}, read),
		rule(groupDiscovery, []string{"endpointslices"}, read),
		rule(groupCore, []string{"pods"}, []string{"delete"}),
		rule(groupCore, []string{"pods/binding", "serviceaccounts/token"}, []string{"create"}),
		rule(groupCore, []string{"pods/status", "services/status", "persistentvolumeclaims/status", "nodes/status"}, []string{"patch"}),
		rule(groupCore, []string{"nodes", "persistentvolumes"}, write),
		rule(groupStorage, []string{"storageclasses"}, write),
		rule(groupNode, []string{"runtimeclasses"}, write),
		rule(groupScheduling, []string{"priorityclasses"}, write),
		rule(groupNetworking, []string{"ingressclasses"}, write),
		rule(groupCoordination, []string{"leases"}, write), // of nodes, in kube-node-lease
		rule(groupCore, []string{"events"}, []string{"get", "create", "patch"}),
	}
}

// SuperRules is the syncer's ClusterRole in the super cluster. Secrets are in it
// because RBAC cannot select by label; what the syncer touches is decided by the
// marks on each object.
func SuperRules() []rbacv1.PolicyRule {
	return []rbacv1.PolicyRule{
		rule(groupCore, downKinds, write),
		rule(groupNetworking, []string{"networkpolicies"}, write),
		rule(groupDiscovery, []string{"endpointslices"}, write),
		rule(groupCore, []string{"pods/status", "pods/resize", "pods/ephemeralcontainers"}, []string{"patch"}),
		rule(groupCore, []string{"nodes", "persistentvolumes", "events"}, read),
		rule(groupStorage, []string{"storageclasses"}, read),
		rule(groupNode, []string{"runtimeclasses"}, read),
		rule(groupScheduling, []string{"priorityclasses"}, read),
		rule(groupNetworking, []string{"ingressclasses"}, read),
		rule(groupCoordination, []string{"leases"}, read), // the heartbeats of nodes
		rule(groupTenancy, []string{"virtualclusters"}, []string{"get", "list", "watch", "patch"}),
		rule(groupTenancy, []string{"virtualclusters/status"}, []string{"patch"}),
		rule(groupTenancy, []string{"virtualclusterclasses"}, read),
		rule(groupAuthentication, []string{"tokenreviews"}, []string{"create"}),
		rule(groupAuthorization, []string{"subjectaccessreviews"}, []string{"create"}),
	}
}

// PlatformNamespaceRules is the syncer's Role in the namespace it runs in: the
// lease by which replicas elect the one that works, and the events about it.
func PlatformNamespaceRules() []rbacv1.PolicyRule {
	return []rbacv1.PolicyRule{
		rule(groupCoordination, []string{"leases"}, []string{"get", "create", "update", "patch"}),
		rule(groupCore, []string{"events"}, []string{"create", "patch"}),
	}
}

func rule(group string, resources, verbs []string) rbacv1.PolicyRule {
	return rbacv1.PolicyRule{APIGroups: []string{group}, Resources: resources, Verbs: verbs}
}
