package tenancy

import (
	"regexp"
	"strings"
)

// tenantSuffix sets a tenant's object apart from the one that the super cluster's
// own controllers put into every namespace under the same name.
const tenantSuffix = "-tenant"

// Names that Kubernetes puts into every namespace by itself.
var (
	reservedConfigMap      = regexp.MustCompile(`^kube-root-ca\.crt(-tenant)*$`)
	reservedServiceAccount = regexp.MustCompile(`^default(-tenant)*$`)
)

// SuperConfigMap is the super name of a tenant's ConfigMap: its own, except where
// the super cluster publishes one of that name in every namespace. The mapping is
// injective: one suffix is added to the reserved name and to everything that
// looks like a result.
func SuperConfigMap(name string) string { return escape(reservedConfigMap, name) }

// TenantConfigMap is the reverse of SuperConfigMap.
func TenantConfigMap(super string) string { return unescape(reservedConfigMap, super) }

// SuperServiceAccount is the super name of a tenant's ServiceAccount; see SuperConfigMap.
func SuperServiceAccount(name string) string { return escape(reservedServiceAccount, name) }

// TenantServiceAccount is the reverse of SuperServiceAccount.
func TenantServiceAccount(super string) string { return unescape(reservedServiceAccount, super) }

func escape(reserved *regexp.Regexp, name string) string {
	if reserved.MatchString(name) {
		return name + tenantSuffix
	}
	return name
}

func unescape(reserved *regexp.Regexp, super string) string {
	if reserved.MatchString(super) {
		return strings.TrimSuffix(super, tenantSuffix)
	}
	return super
}
