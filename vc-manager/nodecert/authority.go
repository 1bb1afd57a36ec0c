// Package nodecert gives vn-agents their serving certificates: it approves and signs
// their CertificateSigningRequests in the super cluster, and keeps the authority
// that tenants' apiservers trust for it.
package nodecert

import (
	"context"
	"fmt"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/bulkhead-dev/bulkhead/internal/pki"
	"github.com/bulkhead-dev/bulkhead/internal/tenancy"
	"github.com/bulkhead-dev/bulkhead/vc-manager/apply"
)

// AuthoritySecret is the Secret, in the platform's namespace, of the authority that
// signs vn-agents' serving certificates.
const AuthoritySecret = "vn-agent-serving-ca"

// authorityAge is how long the authority is kept in memory before it is read again.
const authorityAge = time.Minute

// Authority signs vn-agents' serving certificates.
type Authority struct {
	Client client.Writer
	// Live reads the super cluster itself.
	Live client.Reader
	// Namespace is the platform's.
	Namespace string

	mu   sync.Mutex
	ca   *pki.CA
	read time.Time
}

// Certificate is the authority's certificate, in PEM.
func (a *Authority) Certificate(ctx context.Context) ([]byte, error) {
	ca, err := a.load(ctx)
	if err != nil {
		return nil, err
	}
	return ca.Cert, nil
}

// load reads the authority, and makes it the first time. If it is lost, a new one
// takes its place: tenants' apiservers are given the new certificate, and vn-agents
// get new ones of theirs as soon as the old do not verify any more. Nothing that is
// stored hangs on it.
func (a *Authority) load(ctx context.Context) (*pki.CA, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.ca != nil && time.Since(a.read) < authorityAge {
		return a.ca, nil
	}
	secret := &corev1.Secret{}
	key := client.ObjectKey{Namespace: a.Namespace, Name: AuthoritySecret}
	err := a.Live.Get(ctx, key, secret)
	if apierrors.IsNotFound(err) {
		if err = a.create(ctx, key); err == nil || apierrors.IsAlreadyExists(err) {
			err = a.Live.Get(ctx, key, secret)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("reading secret %s: %w", key, err)
	}
	ca, err := pki.ParseCA(pki.Pair{Cert: secret.Data[corev1.TLSCertKey], Key: secret.Data[corev1.TLSPrivateKeyKey]})
	if err != nil {
		return nil, fmt.Errorf("secret %s: %w", key, err)
	}
	a.ca, a.read = ca, time.Now()
	return ca, nil
}

func (a *Authority) create(ctx context.Context, key client.ObjectKey) error {
	ca, err := pki.NewCA("bulkhead vn-agent serving CA")
	if err != nil {
		return err
	}
	return a.Client.Create(ctx, &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: key.Namespace, Name: key.Name,
			Labels: map[string]string{tenancy.LabelManagedBy: tenancy.ManagedByManager},
		},
		Type: corev1.SecretTypeTLS,
		Data: map[string][]byte{corev1.TLSCertKey: ca.Cert, corev1.TLSPrivateKeyKey: ca.Key},
	}, client.FieldOwner(apply.FieldManager))
}
