package identity

import (
	"fmt"
	"time"

	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/authorization/authorizerfactory"
	authorizationclient "k8s.io/client-go/kubernetes/typed/authorization/v1"

	"github.com/bulkhead-dev/bulkhead/internal/kubeconfig"
)

// How answers of a tenant's apiserver are cached and awaited. The cache times are
// the kubelet's defaults (KubeletConfiguration authorization.webhook).
const (
	allowCacheTTL = 5 * time.Minute
	denyCacheTTL  = 30 * time.Second
	reviewTimeout = 5 * time.Second
	// One agent asks seldom, thanks to the cache; a tenant's users cannot make it a
	// load on their apiserver beyond this.
	reviewQPS, reviewBurst = 50, 100
)

// NewAuthorizer asks the apiserver that a tenant's kubeconfig names, by
// SubjectAccessReview, as a kubelet does.
func NewAuthorizer(kubeconfigData []byte) (authorizer.Authorizer, error) {
	config, err := kubeconfig.RESTConfig(kubeconfigData)
	if err != nil {
		return nil, err
	}
	config.Timeout = reviewTimeout
	config.QPS, config.Burst = reviewQPS, reviewBurst
	config.UserAgent = "vn-agent"
	client, err := authorizationclient.NewForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("making a client for access reviews: %w", err)
	}
	return authorizerfactory.DelegatingAuthorizerConfig{
		SubjectAccessReviewClient: client,
		AllowCacheTTL:             allowCacheTTL,
		DenyCacheTTL:              denyCacheTTL,
		WebhookRetryBackoff:       &wait.Backoff{Duration: 200 * time.Millisecond, Factor: 1.5, Jitter: 0.2, Steps: 3},
	}.New()
}
