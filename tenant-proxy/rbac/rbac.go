// Package rbac says what tenant-proxy may do in the super cluster and in a tenant's,
// in one place that the chart and vc-manager render and tests compare with them.
//
// The right to read its Secret in each control-plane namespace is granted by
// vc-manager, one tenant at a time.
package rbac

import (
	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	eventsv1 "k8s.io/api/events/v1"
	rbacv1 "k8s.io/api/rbac/v1"
)

// SuperRules are the rules of tenant-proxy's ClusterRole in the super cluster.
func SuperRules() []rbacv1.PolicyRule {
	return []rbacv1.PolicyRule{
		{
			// Which pods are on this node. Only their metadata is asked for, but RBAC
			// knows no such difference.
			APIGroups: []string{corev1.GroupName},
			Resources: []string{"pods"},
			Verbs:     []string{"get", "list", "watch"},
		},
		{
			// Whose they are: the marks of the namespaces they are in, by name.
			APIGroups: []string{corev1.GroupName},
			Resources: []string{"namespaces"},
			Verbs:     []string{"get"},
		},
		{
			// The zone of its own node.
			APIGroups: []string{corev1.GroupName},
			Resources: []string{"nodes"},
			Verbs:     []string{"get", "list", "watch"},
		},
		{
			// What became of the rules of a pod.
			APIGroups: []string{eventsv1.GroupName},
			Resources: []string{"events"},
			Verbs:     []string{"create", "patch"},
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

// TenantRules are the rules of tenancy.UserTenantProxy in a tenant's cluster.
func TenantRules() []rbacv1.PolicyRule {
	return []rbacv1.PolicyRule{
		{
			// Services, and the nodes at whose addresses their node ports are.
			APIGroups: []string{corev1.GroupName},
			Resources: []string{"services", "nodes"},
			Verbs:     []string{"list", "watch"},
		},
		{
			APIGroups: []string{discoveryv1.GroupName},
			Resources: []string{"endpointslices"},
			Verbs:     []string{"list", "watch"},
		},
		{
			// What of a Service could not become a rule, said on that Service.
			APIGroups: []string{eventsv1.GroupName},
			Resources: []string{"events"},
			Verbs:     []string{"create"},
		},
	}
}
