// Package access lets those read metrics whom the super cluster lets: by TokenReview
// and SubjectAccessReview, asked for directly. The delegating authenticators of
// k8s.io/apiserver, which the other components use, bring an expression language and
// a tracing stack along: 13 MB of memory on each node for the same two requests.
package access

import (
	"context"
	"crypto/sha256"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/go-logr/logr"
	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	authenticationclient "k8s.io/client-go/kubernetes/typed/authentication/v1"
	authorizationclient "k8s.io/client-go/kubernetes/typed/authorization/v1"
	"k8s.io/client-go/rest"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"
)

const (
	// reviewTimeout bounds both reviews of one request.
	reviewTimeout = 10 * time.Second
	// An answer is remembered so that a scraper is not reviewed each time. A token that
	// was withdrawn opens the metrics for as long.
	allowedFor, refusedFor = time.Minute, 10 * time.Second
	// remembered is the number of answers that are kept.
	remembered = 256
	// maxToken is the longest token that is asked about, in bytes.
	maxToken = 16 << 10
)

// reviewer asks the super cluster who may do what.
type reviewer struct {
	tokens authenticationclient.TokenReviewInterface
	access authorizationclient.SubjectAccessReviewInterface

	mu      sync.Mutex
	answers map[question]answer
}

// question is a token, by its hash, and what it is shown for.
type question struct {
	token      [sha256.Size]byte
	verb, path string
}

type answer struct {
	status int
	until  time.Time
}

// Filter is a metricsserver.Options.FilterProvider.
func Filter(config *rest.Config, httpClient *http.Client) (metricsserver.Filter, error) {
	authentication, err := authenticationclient.NewForConfigAndClient(config, httpClient)
	if err != nil {
		return nil, fmt.Errorf("making a client for token reviews: %w", err)
	}
	authorization, err := authorizationclient.NewForConfigAndClient(config, httpClient)
	if err != nil {
		return nil, fmt.Errorf("making a client for access reviews: %w", err)
	}
	r := &reviewer{tokens: authentication.TokenReviews(), access: authorization.SubjectAccessReviews(), answers: map[question]answer{}}
	return func(log logr.Logger, handler http.Handler) (http.Handler, error) {
		return http.HandlerFunc(func(w http.ResponseWriter, request *http.Request) {
			status, err := r.judge(request)
			if err != nil {
				log.Error(err, "Cannot find out who asks for metrics")
			}
			if status != http.StatusOK {
				http.Error(w, http.StatusText(status), status)
				return
			}
			handler.ServeHTTP(w, request)
		}), nil
	}, nil
}

// judge returns 200 for a request that may be served, and what to answer to others.
func (r *reviewer) judge(request *http.Request) (int, error) {
	scheme, token, _ := strings.Cut(request.Header.Get("Authorization"), " ")
	token = strings.TrimSpace(token)
	if !strings.EqualFold(scheme, "Bearer") || token == "" || len(token) > maxToken {
		return http.StatusUnauthorized, nil
	}
	q := question{sha256.Sum256([]byte(token)), strings.ToLower(request.Method), request.URL.Path}
	if status, known := r.recall(q); known {
		return status, nil
	}
	ctx, cancel := context.WithTimeout(request.Context(), reviewTimeout)
	defer cancel()
	status, err := r.review(ctx, token, q)
	if err != nil {
		return http.StatusInternalServerError, err // and nothing is remembered
	}
	r.remember(q, status)
	return status, nil
}

func (r *reviewer) review(ctx context.Context, token string, q question) (int, error) {
	who, err := r.tokens.Create(ctx, &authenticationv1.TokenReview{Spec: authenticationv1.TokenReviewSpec{Token: token}}, metav1.CreateOptions{})
	if err != nil {
		return 0, fmt.Errorf("reviewing a token: %w", err)
	}
	// An error in the status is what is wrong with the token.
	if !who.Status.Authenticated {
		return http.StatusUnauthorized, nil
	}
	user := who.Status.User
	extra := make(map[string]authorizationv1.ExtraValue, len(user.Extra))
	for key, values := range user.Extra {
		extra[key] = authorizationv1.ExtraValue(values)
	}
	may, err := r.access.Create(ctx, &authorizationv1.SubjectAccessReview{Spec: authorizationv1.SubjectAccessReviewSpec{
		User: user.Username, UID: user.UID, Groups: user.Groups, Extra: extra,
		NonResourceAttributes: &authorizationv1.NonResourceAttributes{Path: q.path, Verb: q.verb},
	}}, metav1.CreateOptions{})
	if err != nil {
		return 0, fmt.Errorf("reviewing the access of %s: %w", user.Username, err)
	}
	if !may.Status.Allowed {
		return http.StatusForbidden, nil
	}
	return http.StatusOK, nil
}

func (r *reviewer) recall(q question) (int, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	known, found := r.answers[q]
	return known.status, found && time.Now().Before(known.until)
}

func (r *reviewer) remember(q question, status int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.answers) >= remembered {
		clear(r.answers)
	}
	life := refusedFor
	if status == http.StatusOK {
		life = allowedFor
	}
	r.answers[q] = answer{status, time.Now().Add(life)}
}
