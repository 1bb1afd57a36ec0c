package certificates

import (
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/bulkhead-dev/bulkhead/internal/kubeconfig"
	"github.com/bulkhead-dev/bulkhead/internal/pki"
	"github.com/bulkhead-dev/bulkhead/internal/tenancy"
)

// Keys of the Secret ServiceAccountKey: PEM of the public and of the private key.
const (
	PublicKeyKey  = "sa.pub"
	PrivateKeyKey = "sa.key"
	caCertKey     = "ca.crt"
)

// AuthorityLostError says that an authority of a cluster that is in use is gone or
// unreadable. A new one would not help: what the old one signed, such as every
// kubeconfig and service account token of the tenant, would be worthless.
type AuthorityLostError struct {
	Secret string
	Cause  error
}

func (e *AuthorityLostError) Error() string {
	message := fmt.Sprintf("secret %s is gone, and with it an authority that this cluster's credentials rest on: restore it from a backup, or delete the virtual cluster", e.Secret)
	if e.Cause != nil {
		message = fmt.Sprintf("secret %s cannot be used (%v), and with it an authority that this cluster's credentials rest on: restore it from a backup, or delete the virtual cluster", e.Secret, e.Cause)
	}
	return message
}

func (e *AuthorityLostError) Unwrap() error { return e.Cause }

// Secrets is what is stored, by name; absent ones are not in it.
type Secrets map[string]*corev1.Secret

// Authorities returns the Secrets of authorities that are missing and have to be
// made. Once the cluster is in use, a missing one is an *AuthorityLostError.
// Callers must create them, and not overwrite others', before they call Leaves.
func Authorities(c Cluster, have Secrets, inUse bool) ([]*corev1.Secret, error) {
	var missing []*corev1.Secret
	for _, row := range authorities(c) {
		if have[row.secret] != nil {
			continue
		}
		if inUse {
			return nil, &AuthorityLostError{Secret: row.secret}
		}
		data, err := newAuthority(row)
		if err != nil {
			return nil, err
		}
		missing = append(missing, newSecret(c, row.secret, data))
	}
	return missing, nil
}

// InUse tells whether have shows that certificates were issued before, so that
// authorities must not be made anew.
func InUse(c Cluster, have Secrets) bool {
	for _, row := range leaves(c) {
		if have[row.secret] != nil {
			return true
		}
	}
	return false
}

// Leaves returns the Secrets of certificates and kubeconfigs that have to be
// created or changed: those that are missing, due for renewal at now, or not what
// the table says any more. It needs all authorities.
func Leaves(c Cluster, have Secrets, now time.Time) ([]*corev1.Secret, error) {
	signers, err := parseAuthorities(c, have)
	if err != nil {
		return nil, err
	}
	var changed []*corev1.Secret
	for _, row := range leaves(c) {
		if row.kubeconfig && row.server == "" {
			continue
		}
		var stored map[string][]byte
		if secret := have[row.secret]; secret != nil {
			stored = secret.Data
		}
		data, err := row.data(c, signers, stored, now)
		if err != nil {
			return nil, fmt.Errorf("secret %s: %w", row.secret, err)
		}
		if !equality.Semantic.DeepEqual(stored, data) {
			changed = append(changed, newSecret(c, row.secret, data))
		}
	}
	return changed, nil
}

// data is what the row's Secret shall hold: what is stored, as far as it is current.
func (row certificate) data(c Cluster, signers map[string]*pki.CA, stored map[string][]byte, now time.Time) (map[string][]byte, error) {
	ca := signers[row.authority]
	leaf := pki.Leaf{CommonName: row.user, Organizations: row.groups, Hosts: row.hosts, Usage: row.usage, Validity: row.lifetime}
	pair := row.storedPair(stored)
	if !ca.Current(pair, leaf, now) {
		var err error
		if pair, err = ca.Issue(leaf); err != nil {
			return nil, err
		}
	}
	if !row.kubeconfig {
		return map[string][]byte{corev1.TLSCertKey: pair.Cert, corev1.TLSPrivateKeyKey: pair.Key, caCertKey: ca.Cert}, nil
	}
	config, err := kubeconfig.Encode(kubeconfig.Config{
		Name: c.Tenant.Name, Server: row.server, CA: ca.Cert, User: row.user, Client: pair,
	})
	if err != nil {
		return nil, err
	}
	data := map[string][]byte{tenancy.KubeconfigKey: config}
	switch row.secret {
	case tenancy.VNAgentKubeconfigSecret:
		data[tenancy.KubeletClientCAKey] = signers[KubeletClientCA].Cert
	case tenancy.TenantProxyKubeconfigSecret:
		// Told here, in our own record, because what the tenant's cluster says of its
		// range is the tenant's word.
		data[tenancy.ServiceCIDRKey] = []byte(c.ServiceCIDR.String())
	}
	return data, nil
}

// storedPair reads the certificate out of what is stored; what cannot be read is
// an empty pair, which is never current.
func (row certificate) storedPair(stored map[string][]byte) pki.Pair {
	if !row.kubeconfig {
		return pki.Pair{Cert: stored[corev1.TLSCertKey], Key: stored[corev1.TLSPrivateKeyKey]}
	}
	config, err := kubeconfig.RESTConfig(stored[tenancy.KubeconfigKey])
	if err != nil {
		return pki.Pair{}
	}
	return pki.Pair{Cert: config.CertData, Key: config.KeyData}
}

func newAuthority(row certificate) (map[string][]byte, error) {
	if row.secret == ServiceAccountKey {
		pair, err := pki.NewServiceAccountKey()
		if err != nil {
			return nil, err
		}
		return map[string][]byte{PublicKeyKey: pair.Cert, PrivateKeyKey: pair.Key}, nil
	}
	ca, err := pki.NewCA(row.user)
	if err != nil {
		return nil, err
	}
	return map[string][]byte{corev1.TLSCertKey: ca.Cert, corev1.TLSPrivateKeyKey: ca.Key}, nil
}

func parseAuthorities(c Cluster, have Secrets) (map[string]*pki.CA, error) {
	signers := map[string]*pki.CA{}
	for _, row := range authorities(c) {
		secret := have[row.secret]
		if secret == nil {
			return nil, &AuthorityLostError{Secret: row.secret}
		}
		if row.secret == ServiceAccountKey {
			if len(secret.Data[PublicKeyKey]) == 0 || len(secret.Data[PrivateKeyKey]) == 0 {
				return nil, &AuthorityLostError{Secret: row.secret, Cause: fmt.Errorf("it lacks %s or %s", PublicKeyKey, PrivateKeyKey)}
			}
			continue
		}
		ca, err := pki.ParseCA(pki.Pair{Cert: secret.Data[corev1.TLSCertKey], Key: secret.Data[corev1.TLSPrivateKeyKey]})
		if err != nil {
			return nil, &AuthorityLostError{Secret: row.secret, Cause: err}
		}
		signers[row.secret] = ca
	}
	return signers, nil
}

func newSecret(c Cluster, name string, data map[string][]byte) *corev1.Secret {
	secret := &corev1.Secret{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Secret"},
		ObjectMeta: metav1.ObjectMeta{Namespace: c.Tenant.ControlPlaneNamespace(), Name: name},
		Type:       corev1.SecretTypeOpaque,
		Data:       data,
	}
	tenancy.MarkTenant(secret, c.Tenant, tenancy.ManagedByManager)
	return secret
}
