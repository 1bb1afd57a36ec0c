// Package servingcert gives ABM's admission webhook what kube-apiserver trusts it by:
// a certificate of an authority of its own, and a path that nobody else knows. All
// replicas share one Secret of it; the webhook configuration in the super cluster is
// kept in line with that Secret.
package servingcert

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/hex"
	"fmt"
	"net/url"
	"sync"
	"time"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/bulkhead-dev/bulkhead/internal/pki"
)

// Keys of the Secret.
const (
	keyCA       = "ca.crt"
	keyCAKey    = "ca.key"
	keyCert     = corev1.TLSCertKey
	keyCertKey  = corev1.TLSPrivateKeyKey
	keyPath     = "path"
	checkPeriod = time.Minute
)

// Keeper keeps certificate and configuration current.
type Keeper struct {
	Client client.Client
	// Live reads the super cluster without a cache.
	Live client.Reader
	// Secret is where certificate and path are kept.
	Secret client.ObjectKey
	// Hosts are the names that kube-apiserver calls the webhook by.
	Hosts []string
	// Configuration names the ValidatingWebhookConfiguration.
	Configuration string
	// Paths are the webhooks' paths by their names in the configuration.
	Paths map[string]string
	Now   func() time.Time

	mu      sync.Mutex
	current *tls.Certificate
}

// Prepare makes the Secret where there is none, or issues its certificate anew where
// that is due, and returns the path that the webhooks are served below. It has to be
// called before the server starts.
func (k *Keeper) Prepare(ctx context.Context) (prefix string, err error) {
	secret, err := k.ensure(ctx)
	if err != nil {
		return "", err
	}
	return "/" + string(secret.Data[keyPath]), nil
}

// Certificate is what the server shows; tls.Config.GetCertificate.
func (k *Keeper) Certificate(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.current == nil {
		return nil, fmt.Errorf("there is no certificate yet")
	}
	return k.current, nil
}

// NeedLeaderElection lets all replicas serve.
func (k *Keeper) NeedLeaderElection() bool { return false }

// Start keeps both current until the context ends.
func (k *Keeper) Start(ctx context.Context) error {
	log := ctrl.LoggerFrom(ctx).WithName("servingcert")
	ticker := time.NewTicker(checkPeriod)
	defer ticker.Stop()
	for {
		wait := ticker.C
		if err := k.Publish(ctx); err != nil && ctx.Err() == nil {
			log.Error(err, "Cannot keep the webhook's certificate current")
			wait = time.After(time.Second)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-wait:
		}
	}
}

// Publish brings the webhook configuration in line with the Secret.
func (k *Keeper) Publish(ctx context.Context) error {
	secret, err := k.ensure(ctx)
	if err != nil {
		return err
	}
	configuration := &admissionregistrationv1.ValidatingWebhookConfiguration{}
	if err := k.Live.Get(ctx, client.ObjectKey{Name: k.Configuration}, configuration); err != nil {
		return fmt.Errorf("reading webhook configuration %s: %w", k.Configuration, err)
	}
	before := configuration.DeepCopy()
	for i := range configuration.Webhooks {
		hook := &configuration.Webhooks[i]
		path, ours := k.Paths[hook.Name]
		if !ours {
			continue
		}
		path = "/" + string(secret.Data[keyPath]) + path
		hook.ClientConfig.CABundle = secret.Data[keyCA]
		if hook.ClientConfig.Service != nil {
			hook.ClientConfig.Service.Path = &path
		}
		if hook.ClientConfig.URL != nil {
			address, err := url.Parse(*hook.ClientConfig.URL)
			if err != nil {
				return fmt.Errorf("webhook %s: reading its URL: %w", hook.Name, err)
			}
			address.Path = path
			text := address.String()
			hook.ClientConfig.URL = &text
		}
	}
	if equality.Semantic.DeepEqual(before, configuration) {
		return nil
	}
	if err := k.Client.Patch(ctx, configuration, client.MergeFromWithOptions(before, client.MergeFromWithOptimisticLock{})); err != nil {
		return fmt.Errorf("writing webhook configuration %s: %w", k.Configuration, err)
	}
	return nil
}

// ensure reads or makes the Secret, and takes its certificate into use.
func (k *Keeper) ensure(ctx context.Context) (*corev1.Secret, error) {
	secret := &corev1.Secret{}
	err := k.Live.Get(ctx, k.Secret, secret)
	if apierrors.IsNotFound(err) {
		if secret, err = k.create(ctx); apierrors.IsAlreadyExists(err) {
			secret = &corev1.Secret{}
			err = k.Live.Get(ctx, k.Secret, secret)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("reading Secret %s: %w", k.Secret, err)
	}
	ca, err := pki.ParseCA(pki.Pair{Cert: secret.Data[keyCA], Key: secret.Data[keyCAKey]})
	if err != nil || len(secret.Data[keyPath]) == 0 {
		return nil, fmt.Errorf("the Secret %s is damaged, delete it and restart abm: %w", k.Secret, err)
	}
	pair := pki.Pair{Cert: secret.Data[keyCert], Key: secret.Data[keyCertKey]}
	if !ca.Current(pair, k.leaf(), k.Now()) {
		if pair, err = ca.Issue(k.leaf()); err != nil {
			return nil, err
		}
		before := secret.DeepCopy()
		secret.Data[keyCert], secret.Data[keyCertKey] = pair.Cert, pair.Key
		if err := k.Client.Patch(ctx, secret, client.MergeFromWithOptions(before, client.MergeFromWithOptimisticLock{})); err != nil {
			return nil, fmt.Errorf("writing Secret %s: %w", k.Secret, err)
		}
	}
	certificate, err := tls.X509KeyPair(pair.Cert, pair.Key)
	if err != nil {
		return nil, fmt.Errorf("reading the certificate in Secret %s: %w", k.Secret, err)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.current = &certificate
	return secret, nil
}

func (k *Keeper) create(ctx context.Context) (*corev1.Secret, error) {
	ca, err := pki.NewCA("bulkhead-abm-webhook")
	if err != nil {
		return nil, err
	}
	pair, err := ca.Issue(k.leaf())
	if err != nil {
		return nil, err
	}
	// kube-apiserver shows webhooks no credential of its own, unless an administrator
	// configures one on its host. What it calls is therefore a path that only those who
	// read webhook configurations can know.
	token := make([]byte, 16)
	if _, err := rand.Read(token); err != nil {
		return nil, fmt.Errorf("making a secret path: %w", err)
	}
	secret := &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: k.Secret.Namespace, Name: k.Secret.Name},
		Type:       corev1.SecretTypeTLS,
		Data: map[string][]byte{
			keyCA: ca.Cert, keyCAKey: ca.Key, keyCert: pair.Cert, keyCertKey: pair.Key, keyPath: []byte(hex.EncodeToString(token)),
		},
	}
	return secret, k.Client.Create(ctx, secret)
}

func (k *Keeper) leaf() pki.Leaf {
	return pki.Leaf{CommonName: k.Hosts[0], Hosts: k.Hosts, Usage: pki.Server}
}
