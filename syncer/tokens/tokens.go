// Package tokens gives super pods the service account tokens of their tenant
// (decision D5). A token is requested from the tenant's apiserver, bound to the
// tenant's pod, and put into a Secret in the super cluster that the pod's projected
// volume reads. It is renewed there before it expires, as a kubelet does.
package tokens

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/bulkhead-dev/bulkhead/internal/tenancy"
	"github.com/bulkhead-dev/bulkhead/syncer/podspec"
)

const (
	// maxAge is how old a token gets, however long it lasts.
	maxAge = 24 * time.Hour
	// renewShare of a token's life, in percent, after which it is renewed.
	renewShare = 80
	// propagation is how long a kubelet may take until a pod sees a changed Secret.
	propagation = 5 * time.Minute
)

// Keeper keeps the tokens of one tenant's pods.
type Keeper struct {
	Tenant tenancy.Tenant
	// TenantClient reaches the tenant's apiserver, SuperClient and SuperReader (which
	// may be a cache) the super cluster's.
	TenantClient, SuperClient client.Client
	SuperReader               client.Reader
	// Now is the time; time.Now if nil.
	Now func() time.Time
}

// issued is what AnnotationTokens says of a token.
type issued struct {
	Expires time.Time `json:"expires"`
	// Seconds is the lifetime that was given.
	Seconds int64 `json:"seconds"`
	// Sum tells the token from what somebody else has put in its place.
	Sum string `json:"sum"`
}

// sumOf is short: it guards against mistakes, for whoever may write the Secret may
// write the sum.
func sumOf(token []byte) string {
	sum := sha256.Sum256(token)
	return hex.EncodeToString(sum[:8])
}

// due is when the token is to be renewed.
func (i issued) due() time.Time {
	life := time.Duration(i.Seconds) * time.Second
	share := life * renewShare / 100
	if early := life - propagation; early > 0 && early < share {
		share = early
	}
	return i.Expires.Add(-life).Add(min(share, maxAge))
}

// Ensure makes sure that the Secret of a super pod holds all tokens that the
// tenant's pod asks for. It returns when to call again, or 0 if never. The Secret
// is owned by the super pod and goes with it, so it is made after the pod; the
// kubelet waits for it.
func (k *Keeper) Ensure(ctx context.Context, tenant, super *corev1.Pod) (time.Duration, error) {
	wanted := podspec.Tokens(tenant)
	if len(wanted) == 0 || finished(super) {
		return 0, nil
	}
	secret, err := k.secret(ctx, k.SuperReader, tenant, super)
	if err != nil {
		return 0, err
	}
	present := map[string]issued{}
	// What cannot be read is requested anew.
	_ = json.Unmarshal([]byte(secret.Annotations[tenancy.AnnotationTokens]), &present)
	changed, now := secret.DeepCopy(), k.now()
	changed.Data = map[string][]byte{} // nothing but the tokens
	state, next := map[string]issued{}, time.Time{}
	for _, token := range wanted {
		one, known := present[token.Key]
		text := secret.Data[token.Key]
		if !known || one.Sum != sumOf(text) || !now.Before(one.due()) {
			if text, one, err = k.request(ctx, tenant, token); err != nil {
				return 0, err
			}
		}
		changed.Data[token.Key] = text
		state[token.Key] = one
		if next.IsZero() || one.due().Before(next) {
			next = one.due()
		}
	}
	if err := k.write(ctx, secret, changed, state); err != nil {
		return 0, err
	}
	return max(next.Sub(now), time.Second), nil
}

// secret reads the pod's Secret, or makes an empty one that is not written yet.
func (k *Keeper) secret(ctx context.Context, from client.Reader, tenant, super *corev1.Pod) (*corev1.Secret, error) {
	key := client.ObjectKey{Namespace: super.Namespace, Name: podspec.TokenSecret(tenant)}
	secret := &corev1.Secret{}
	err := from.Get(ctx, key, secret)
	switch {
	case apierrors.IsNotFound(err):
		secret = &corev1.Secret{
			ObjectMeta: metav1.ObjectMeta{
				Namespace: key.Namespace, Name: key.Name,
				Annotations: map[string]string{tenancy.AnnotationFor: "pods"},
				OwnerReferences: []metav1.OwnerReference{{
					APIVersion: "v1", Kind: "Pod", Name: super.Name, UID: super.UID,
				}},
			},
		}
		tenancy.Mark(secret, k.Tenant, tenancy.ManagedBySyncer, tenant)
	case err != nil:
		return nil, fmt.Errorf("reading secret %s: %w", key, err)
	default:
		if err := k.check(secret, tenant); err != nil {
			return nil, err
		}
	}
	if secret.Data == nil {
		secret.Data = map[string][]byte{}
	}
	return secret, nil
}

// check makes sure that tokens are never written into a Secret that is not this pod's.
func (k *Keeper) check(secret *corev1.Secret, tenant *corev1.Pod) error {
	what := "secret " + secret.Name
	if err := tenancy.CheckOwned(secret, k.Tenant, tenancy.ManagedBySyncer, what); err != nil {
		return err
	}
	if origin, _ := tenancy.OriginOf(secret); secret.Annotations[tenancy.AnnotationFor] != "pods" || origin.UID != tenant.UID {
		return &tenancy.ForeignError{Object: what, Owner: "another object of the virtual cluster"}
	}
	return nil
}

func (k *Keeper) request(ctx context.Context, pod *corev1.Pod, token podspec.Token) ([]byte, issued, error) {
	request := &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{
		ExpirationSeconds: &token.ExpirationSeconds,
		BoundObjectRef:    &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: pod.Name, UID: pod.UID},
	}}
	if token.Audience != "" {
		request.Spec.Audiences = []string{token.Audience}
	}
	account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: pod.Namespace, Name: pod.Spec.ServiceAccountName}}
	if err := k.TenantClient.SubResource("token").Create(ctx, account, request); err != nil {
		return nil, issued{}, fmt.Errorf("requesting a token of service account %s/%s for pod %s: %w", pod.Namespace, account.Name, pod.Name, err)
	}
	seconds := token.ExpirationSeconds
	if given := request.Spec.ExpirationSeconds; given != nil {
		seconds = *given
	}
	text := []byte(request.Status.Token)
	return text, issued{Expires: request.Status.ExpirationTimestamp.Time, Seconds: seconds, Sum: sumOf(text)}, nil
}

// write writes the tokens and what is known of them, if any has changed.
func (k *Keeper) write(ctx context.Context, before, changed *corev1.Secret, state map[string]issued) error {
	text, err := json.Marshal(state)
	if err != nil {
		return fmt.Errorf("encoding the state of the tokens: %w", err)
	}
	changed.Annotations[tenancy.AnnotationTokens] = string(text)
	switch {
	case before.ResourceVersion == "":
		if err := k.SuperClient.Create(ctx, changed); err != nil {
			return fmt.Errorf("creating secret %s/%s: %w", changed.Namespace, changed.Name, err)
		}
	case equality.Semantic.DeepEqual(before, changed):
	default:
		if err := k.SuperClient.Patch(ctx, changed, client.MergeFromWithOptions(before, client.MergeFromWithOptimisticLock{})); err != nil {
			return fmt.Errorf("renewing tokens in secret %s/%s: %w", changed.Namespace, changed.Name, err)
		}
	}
	return nil
}

func finished(pod *corev1.Pod) bool {
	return pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed
}

func (k *Keeper) now() time.Time {
	if k.Now != nil {
		return k.Now()
	}
	return time.Now()
}
