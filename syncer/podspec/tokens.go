package podspec

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/bulkhead-dev/bulkhead/internal/tenancy"
)

// Token is a service account token that a projected volume of a pod asks for.
type Token struct {
	// Key in the Secret of the pod's tokens.
	Key string
	// Audience of the token; empty for the tenant's apiserver.
	Audience string
	// ExpirationSeconds is the lifetime the pod asks for.
	ExpirationSeconds int64
}

// defaultExpiration is what the API's default is for projected tokens, in seconds.
const defaultExpiration = 3600

// Tokens lists the tokens that a tenant's pod asks for.
func Tokens(pod *corev1.Pod) []Token {
	var tokens []Token
	for _, volume := range pod.Spec.Volumes {
		if volume.Projected == nil {
			continue
		}
		for i, source := range volume.Projected.Sources {
			if source.ServiceAccountToken == nil {
				continue
			}
			token := Token{Key: tokenKey(volume.Name, i), Audience: source.ServiceAccountToken.Audience, ExpirationSeconds: defaultExpiration}
			if seconds := source.ServiceAccountToken.ExpirationSeconds; seconds != nil {
				token.ExpirationSeconds = *seconds
			}
			tokens = append(tokens, token)
		}
	}
	return tokens
}

// TokenSecret is the name of the super Secret with the tokens of a tenant's pod.
func TokenSecret(pod *corev1.Pod) string { return TokenSecretOf(pod.UID) }

// TokenSecretOf is TokenSecret by the UID of the tenant's pod.
func TokenSecretOf(pod types.UID) string { return "tokens-" + string(pod) }

func tokenKey(volume string, index int) string { return fmt.Sprintf("%s.%d", volume, index) }

// serviceAccount gives the super pod the ServiceAccount that stands for the
// tenant's, and no token of the super cluster.
func (t *translator) serviceAccount() {
	t.out.ServiceAccountName = tenancy.SuperServiceAccount(accountOf(t.in))
	automount := false
	t.out.AutomountServiceAccountToken = &automount
}

// accountOf is the ServiceAccount that a pod runs as.
func accountOf(spec *corev1.PodSpec) string {
	if spec.ServiceAccountName == "" {
		return "default"
	}
	return spec.ServiceAccountName
}
