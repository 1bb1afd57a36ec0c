package tenancy

import "regexp"

// Labels on super pods that a NetworkPolicy of the tenant selects for a direction,
// with the value "true". What the fence lets pass by default does not hold for them.
const (
	LabelIngressIsolated = Domain + "/ingress-isolated"
	LabelEgressIsolated  = Domain + "/egress-isolated"
)

// Names of the NetworkPolicies that fence every super namespace (decision D14).
const (
	// FenceDeny denies everything.
	FenceDeny = "fence-deny"
	// FenceIngress and FenceEgress let pass what a tenant may do by default, unless
	// its own policies decide.
	FenceIngress = "fence-ingress"
	FenceEgress  = "fence-egress"
	// FenceAlways lets pass what all pods need: the apiserver, and resolvers.
	FenceAlways = "fence-always"
)

var reservedNetworkPolicy = regexp.MustCompile(`^fence-(deny|ingress|egress|always)(-tenant)*$`)

// SuperNetworkPolicy is the super name of a tenant's NetworkPolicy: its own, except
// where the fence has one of that name; see SuperConfigMap.
func SuperNetworkPolicy(name string) string { return escape(reservedNetworkPolicy, name) }

// TenantNetworkPolicy is the reverse of SuperNetworkPolicy.
func TenantNetworkPolicy(super string) string { return unescape(reservedNetworkPolicy, super) }
