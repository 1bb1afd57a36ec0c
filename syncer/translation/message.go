package translation

import (
	"strings"

	"k8s.io/apimachinery/pkg/types"
)

// Message turns a text of the super cluster about an object into one for the
// tenant: its super namespace becomes the tenant's, and the UID of the super
// object that of the tenant's object.
type Message struct {
	replacer *strings.Replacer
}

// NewMessage returns the translation of texts about one object.
func NewMessage(t Tenant, namespace string, superUID, tenantUID types.UID) Message {
	pairs := []string{
		t.SuperNamespace(namespace), namespace,
		// The names that the tenant knows without the suffix of package tenancy.
		"kube-root-ca.crt-tenant", "kube-root-ca.crt",
		"default-tenant", "default",
	}
	if superUID != "" && tenantUID != "" {
		pairs = append(pairs, string(superUID), string(tenantUID))
	}
	return Message{replacer: strings.NewReplacer(pairs...)}
}

// Clean returns the text as the tenant may read it.
func (m Message) Clean(text string) string {
	if text == "" {
		return text
	}
	return m.replacer.Replace(text)
}
