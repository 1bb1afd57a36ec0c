// Package tenancy makes and reads the names and marks by which everything in the
// super cluster is tied to a virtual cluster (decision D1). No other package
// builds such a name or reads such a mark by itself.
package tenancy

import (
	"crypto/sha256"
	"encoding/base32"
	"strings"

	"k8s.io/apimachinery/pkg/types"
)

// Tenant identifies one virtual cluster. The UID alone decides: two virtual
// clusters of the same name, one after the other, are two tenants.
type Tenant struct {
	UID       types.UID
	Namespace string
	Name      string
}

// String is the tenant as people know it: namespace/name.
func (t Tenant) String() string { return t.Namespace + "/" + t.Name }

// maxName is the longest namespace name Kubernetes takes (RFC 1123 label).
const maxName = 63

// hashLength is the number of base32 characters of the hash in a name: 60 bits.
const hashLength = 12

// nameEncoding is RFC 4648 base32 in lower case: every character may stand in a name.
var nameEncoding = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

// ControlPlaneNamespace is the super namespace the tenant's control plane runs in.
func (t Tenant) ControlPlaneNamespace() string {
	return readable(superPrefix+t.Name, digest("control-plane", string(t.UID)))
}

// SuperNamespace is the super namespace for a namespace of the tenant. It is made
// from the UID and the whole tenant namespace, so that names that would be equal
// once joined or cut stay apart.
func (t Tenant) SuperNamespace(namespace string) string {
	return readable(superPrefix+t.Name+"-"+namespace, digest("namespace", string(t.UID), namespace))
}

// readable joins a prefix for the human eye, cut where needed, with the hash that
// makes the name unique.
func readable(prefix, hash string) string {
	if limit := maxName - 1 - len(hash); len(prefix) > limit {
		prefix = prefix[:limit]
	}
	return strings.TrimRight(strings.ReplaceAll(prefix, ".", "-"), "-") + "-" + hash
}

// digest hashes parts so that no two different lists of parts hash the same text.
func digest(parts ...string) string {
	h := sha256.New()
	for _, part := range parts {
		h.Write([]byte(part))
		h.Write([]byte{0})
	}
	return nameEncoding.EncodeToString(h.Sum(nil))[:hashLength]
}
