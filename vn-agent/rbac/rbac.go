// Package rbac says what vn-agent may do in the super cluster, in one place that
// the chart renders and a test compares with the chart.
//
// What it may do in a tenant's cluster (ask for access reviews) and the right to
// read its Secret in each control-plane namespace are granted by vc-manager, one
// tenant at a time.
package rbac

import (
	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"

	tenancyv1alpha1 "github.com/bulkhead-dev/bulkhead/api/tenancy/v1alpha1"
)

// SuperRules are the rules of vn-agent's ClusterRole in the super cluster.
func SuperRules() []rbacv1.PolicyRule {
	return []rbacv1.PolicyRule{
		{
			// The tenants there are.
			APIGroups: []string{tenancyv1alpha1.GroupVersion.Group},
			Resources: []string{"virtualclusters"},
			Verbs:     []string{"get", "list", "watch"},
		},
		{
			// Whose pods run on this node. Only their metadata is asked for, but RBAC
			// knows no such difference.
			APIGroups: []string{corev1.GroupName},
			Resources: []string{"pods"},
			Verbs:     []string{"get", "list", "watch"},
		},
		{
			// Addresses and kubelet port of its own node.
			APIGroups: []string{corev1.GroupName},
			Resources: []string{"nodes"},
			Verbs:     []string{"get", "list", "watch"},
		},
		{
			// What a kubelet asks for logs (get), exec, attach and port-forward (get
			// with WebSocket, create with SPDY) and run (create). No finer
			// subresource exists for these in Kubernetes 1.36.
			APIGroups: []string{corev1.GroupName},
			Resources: []string{"nodes/proxy"},
			Verbs:     []string{"get", "create"},
		},
		{
			// What a kubelet asks for /stats/summary and /metrics/resource.
			APIGroups: []string{corev1.GroupName},
			Resources: []string{"nodes/stats", "nodes/metrics"},
			Verbs:     []string{"get"},
		},
		{
			// Its serving certificate; vc-manager approves and signs it.
			APIGroups: []string{certificatesv1.GroupName},
			Resources: []string{"certificatesigningrequests"},
			Verbs:     []string{"create", "get", "list", "watch"},
		},
		{
			// Who may read its own metrics.
			APIGroups: []string{authenticationv1.GroupName},
			Resources: []string{"tokenreviews"},
			Verbs:     []string{"create"},
		},
		{
			APIGroups: []string{authorizationv1.GroupName},
			Resources: []string{"subjectaccessreviews"},
			Verbs:     []string{"create"},
		},
	}
}
