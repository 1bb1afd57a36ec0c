// Package rbac lists what ABM may do in the super cluster, so that the chart, which
// grants it, and the tests, which run with exactly these, read the same list.
package rbac

import (
	"strings"

	rbacv1 "k8s.io/api/rbac/v1"

	abmv1alpha1 "github.com/bulkhead-dev/bulkhead/api/abm/v1alpha1"
)

// API groups in the rules.
const (
	groupCore           = ""
	groupApps           = "apps"
	groupBatch          = "batch"
	groupNetworking     = "networking.k8s.io"
	groupPolicy         = "policy"
	groupTenancy        = "tenancy.bulkhead.dev"
	groupRBAC           = "rbac.authorization.k8s.io"
	groupAdmission      = "admissionregistration.k8s.io"
	groupEvents         = "events.k8s.io"
	groupCoordination   = "coordination.k8s.io"
	groupAuthentication = "authentication.k8s.io"
	groupAuthorization  = "authorization.k8s.io"
)

// WebhookConfiguration is the name of the ValidatingWebhookConfiguration that the
// chart makes and ABM keeps current.
const WebhookConfiguration = "bulkhead-abm"

var (
	read = []string{"get", "list", "watch"}
	// instance is what ABM passes on to the account of each instance.
	instance = []string{"get", "list", "create", "patch", "delete"}
)

// SuperRules is ABM's ClusterRole in the super cluster.
func SuperRules() []rbacv1.PolicyRule {
	return []rbacv1.PolicyRule{
		rule(abmv1alpha1.Domain, "servicedefinitions", read),
		rule(abmv1alpha1.Domain, "servicedefinitions/status serviceinstances/status", []string{"patch"}),
		rule(abmv1alpha1.Domain, "servicerevisions", append(read, "create", "delete")),
		rule(abmv1alpha1.Domain, "serviceinstances", append(read, "patch")),
		rule(abmv1alpha1.Domain, "steprecords", []string{"get", "list", "create", "update", "patch", "delete"}),

		// The rights of each instance. ABM can grant no more than it may itself.
		rule(groupRBAC, "roles rolebindings", []string{"get", "create", "update", "patch", "delete"}),
		// When a virtual cluster is ready, and whether it is gone.
		rule(groupTenancy, "virtualclusters", read),

		rule(groupEvents, "events", []string{"create", "patch"}),
		// Who may read its own metrics, and who may intervene.
		rule(groupAuthentication, "tokenreviews", []string{"create"}),
		rule(groupAuthorization, "subjectaccessreviews", []string{"create"}),
		{APIGroups: []string{groupAdmission}, Resources: []string{"validatingwebhookconfigurations"}, ResourceNames: []string{WebhookConfiguration}, Verbs: []string{"get", "patch"}},
	}
}

// ServiceRules are the kinds that definitions can open, besides those that an
// administrator adds by a ClusterRole with the label AggregationLabel. ABM has them
// to pass them on, in an instance's namespace, to that instance's account; and to
// read the kubeconfigs of virtual clusters.
func ServiceRules() []rbacv1.PolicyRule {
	return []rbacv1.PolicyRule{
		rule(groupCore, "configmaps secrets services serviceaccounts persistentvolumeclaims", instance),
		rule(groupApps, "deployments statefulsets", instance),
		rule(groupBatch, "jobs", instance),
		rule(groupNetworking, "networkpolicies ingresses", instance),
		rule(groupPolicy, "poddisruptionbudgets", instance),
		rule(groupTenancy, "virtualclusters", instance),
	}
}

// AggregationLabel on a ClusterRole, with the value "true", adds its rules to ABM's.
const AggregationLabel = abmv1alpha1.Domain + "/aggregate-to-services"

// PlatformNamespaceRules is ABM's Role in the namespace it runs in: the lease by
// which replicas elect the one that works, and the webhook's certificate.
func PlatformNamespaceRules() []rbacv1.PolicyRule {
	return []rbacv1.PolicyRule{
		rule(groupCoordination, "leases", []string{"get", "create", "update", "patch"}),
		rule(groupCore, "events", []string{"create", "patch"}),
		rule(groupCore, "secrets", []string{"create"}),
		{APIGroups: []string{groupCore}, Resources: []string{"secrets"}, ResourceNames: []string{WebhookSecret}, Verbs: []string{"get", "patch"}},
	}
}

// WebhookSecret holds the webhook's certificate in the platform's namespace.
const WebhookSecret = "abm-webhook"

// AccountRules is ABM's Role in the namespace of the accounts that it acts as.
func AccountRules() []rbacv1.PolicyRule {
	return []rbacv1.PolicyRule{rule(groupCore, "serviceaccounts", []string{"impersonate"})}
}

func rule(group, resources string, verbs []string) rbacv1.PolicyRule {
	return rbacv1.PolicyRule{APIGroups: []string{group}, Resources: strings.Fields(resources), Verbs: append([]string(nil), verbs...)}
}
