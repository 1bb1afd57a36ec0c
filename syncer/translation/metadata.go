package translation

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/bulkhead-dev/bulkhead/internal/tenancy"
)

// reservedKey is the rule behind a finding about a label or annotation of ours.
const reservedKey = "keys under " + tenancy.Domain + " are the platform's own"

// Labels returns the labels of a tenant's object that go down, under their own
// names, and findings about those that may not.
func Labels(in metav1.Object) (map[string]string, []Finding) {
	return permitted(in.GetLabels(), "metadata.labels", func(key string) string {
		if tenancy.Reserved(key) {
			return reservedKey
		}
		return ""
	})
}

// Annotations returns the annotations of a tenant's object that go down, and
// findings about those that may not. refuse gives the rule against a key, or "".
func Annotations(in metav1.Object, refuse func(key string) string) (map[string]string, []Finding) {
	return permitted(in.GetAnnotations(), "metadata.annotations", func(key string) string {
		if tenancy.Reserved(key) {
			return reservedKey
		}
		return refuse(key)
	})
}

func permitted(in map[string]string, field string, refuse func(key string) string) (map[string]string, []Finding) {
	var findings []Finding
	out := make(map[string]string, len(in))
	for key, value := range in {
		if tenancy.MarksService(key) {
			continue
		}
		if rule := refuse(key); rule != "" {
			findings = append(findings, Refuse(fmt.Sprintf("%s[%s]", field, key), rule))
			continue
		}
		out[key] = value
	}
	if len(out) == 0 {
		return nil, findings
	}
	return out, findings
}

// namespaceLabelPrefix is the domain of tenants' namespace labels in the super cluster.
const namespaceLabelPrefix = "namespace." + tenancy.Domain + "/"

// NamespaceLabelKey is the key under which a label of a tenant's Namespace is put
// on the super namespace. Under its own name it might exempt the namespace from a
// policy of the super cluster: policies often select namespaces by label. The key
// is the label's hash, so that every key of a tenant fits and no two are the same.
func NamespaceLabelKey(key string) string {
	sum := sha256.Sum256([]byte(key))
	return namespaceLabelPrefix + hex.EncodeToString(sum[:16])
}

// IsNamespaceLabel tells whether a key was made by NamespaceLabelKey.
func IsNamespaceLabel(key string) bool { return strings.HasPrefix(key, namespaceLabelPrefix) }

// NamespaceSelector rewrites a selector of a tenant's namespaces into one of its
// super namespaces, and of no others.
func NamespaceSelector(t Tenant, in *metav1.LabelSelector) *metav1.LabelSelector {
	out := &metav1.LabelSelector{MatchLabels: map[string]string{
		tenancy.LabelTenant:    string(t.UID),
		tenancy.LabelManagedBy: tenancy.ManagedBySyncer,
	}}
	for key, value := range in.MatchLabels {
		out.MatchLabels[NamespaceLabelKey(key)] = value
	}
	for _, requirement := range in.MatchExpressions {
		requirement = *requirement.DeepCopy()
		requirement.Key = NamespaceLabelKey(requirement.Key)
		out.MatchExpressions = append(out.MatchExpressions, requirement)
	}
	return out
}

// FormatMap writes a map as the kubelet writes labels and annotations into a
// downward API file: one key="value" a line, sorted by key.
func FormatMap(in map[string]string) string {
	lines := make([]string, 0, len(in))
	for _, key := range sortedKeys(in) {
		lines = append(lines, fmt.Sprintf("%v=%q", key, in[key]))
	}
	return strings.Join(lines, "\n")
}

func sortedKeys(in map[string]string) []string {
	return slices.Sorted(maps.Keys(in))
}
