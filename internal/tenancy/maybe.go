package tenancy

import "strings"

// superPrefix begins the names of all super namespaces that belong to tenants.
const superPrefix = "vc-"

// MaybeTenantNamespace tells whether a super namespace can be a tenant's by its name.
// Whether it is one, and whose, only its marks say.
func MaybeTenantNamespace(name string) bool { return strings.HasPrefix(name, superPrefix) }
