// Package rbac says what the fence may do in the super cluster, in one place that
// the chart renders and a test compares with the chart.
package rbac

import (
	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	networkingv1 "k8s.io/api/networking/v1"
	rbacv1 "k8s.io/api/rbac/v1"
)

// SuperRules are the rules of the fence's ClusterRole in the super cluster.
func SuperRules() []rbacv1.PolicyRule {
	read := []string{"get", "list", "watch"}
	return []rbacv1.PolicyRule{
		{
			// Peers of policies are pods of all nodes, by their labels and those of
			// their namespaces; which addresses are this node's own stands in its Node.
			APIGroups: []string{corev1.GroupName},
			Resources: []string{"pods", "namespaces", "nodes"},
			Verbs:     read,
		},
		{
			APIGroups: []string{networkingv1.GroupName},
			Resources: []string{"networkpolicies"},
			Verbs:     read,
		},
		{
			// What of a policy is not understood.
			APIGroups: []string{eventsv1.GroupName},
			Resources: []string{"events"},
			Verbs:     []string{"create", "patch"},
		},
		{
			// Who may read its metrics.
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
