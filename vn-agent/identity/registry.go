// Package identity tells tenants apart: by the CA that signed the certificate a
// client shows, and by nothing else the client says (decision D11). Its registry
// follows the VirtualClusters of the super cluster.
package identity

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/go-logr/logr"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/server/dynamiccertificates"

	"github.com/bulkhead-dev/bulkhead/internal/tenancy"
)

// Registry knows the tenants and their client CAs. It is a source of client CAs
// for k8s.io/apiserver's dynamic serving certificates and its x509 authenticator.
type Registry struct {
	log           logr.Logger
	newAuthorizer AuthorizerFunc

	mu        sync.Mutex
	entries   map[types.NamespacedName]*entry
	listeners []dynamiccertificates.Listener
	// disputed are the keys that were refused last time, so that each is logged once.
	disputed map[caKey]bool

	trust atomic.Pointer[trust]
}

var _ dynamiccertificates.CAContentProvider = (*Registry)(nil)

type entry struct {
	tenant     *Tenant
	cas        []*x509.Certificate
	kubeconfig []byte
}

// caKey identifies a CA by its public key: whoever holds the private key signs
// under any name, so two certificates of one key are one authority.
type caKey [sha256.Size]byte

func keyOf(ca *x509.Certificate) caKey { return sha256.Sum256(ca.RawSubjectPublicKeyInfo) }

// trust is an unchanging view of which CA stands for which tenant.
type trust struct {
	pool    *x509.CertPool
	bundle  []byte
	tenants map[caKey]*Tenant
}

// AuthorizerFunc makes what says what the users of a tenant may do, out of the
// tenant's kubeconfig; NewAuthorizer in all but tests.
type AuthorizerFunc func(kubeconfig []byte) (authorizer.Authorizer, error)

// NewRegistry returns a registry without tenants: it verifies nobody.
func NewRegistry(log logr.Logger, newAuthorizer AuthorizerFunc) *Registry {
	r := &Registry{log: log, newAuthorizer: newAuthorizer, entries: map[types.NamespacedName]*entry{}}
	r.trust.Store(&trust{pool: x509.NewCertPool(), tenants: map[caKey]*Tenant{}})
	return r
}

// Set serves a tenant from now on, or renews its credentials. A tenant of the same
// name with another UID ends. Credentials that cannot be used change nothing.
func (r *Registry) Set(tenant tenancy.Tenant, credentials Credentials) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	name := types.NamespacedName{Namespace: tenant.Namespace, Name: tenant.Name}
	known := r.entries[name]
	if known != nil && known.tenant.UID != tenant.UID {
		delete(r.entries, name)
		close(known.tenant.done)
		known = nil
		r.rebuild()
	}
	// An unchanged kubeconfig keeps its connections and its cached reviews.
	if known == nil || !bytes.Equal(known.kubeconfig, credentials.Kubeconfig) {
		authorizer, err := r.newAuthorizer(credentials.Kubeconfig)
		if err != nil {
			return err
		}
		if known == nil {
			known = &entry{tenant: newTenant(tenant)}
			r.entries[name] = known
		}
		known.kubeconfig = credentials.Kubeconfig
		known.tenant.authorizer.Store(authorizerBox{authorizer})
	}
	known.cas = credentials.ClientCAs
	r.rebuild()
	return nil
}

// Remove ends the tenant of that name, if there is one.
func (r *Registry) Remove(name types.NamespacedName) {
	r.mu.Lock()
	defer r.mu.Unlock()
	known := r.entries[name]
	if known == nil {
		return
	}
	delete(r.entries, name)
	r.rebuild()
	close(known.tenant.done)
}

// Len is the number of tenants served.
func (r *Registry) Len() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.entries)
}

// rebuild makes the view of trust anew. A key that stands for two tenants stands
// for neither: there is no telling which of them a certificate belongs to.
func (r *Registry) rebuild() {
	owners := map[caKey]map[*Tenant]bool{}
	for _, e := range r.entries {
		for _, ca := range e.cas {
			key := keyOf(ca)
			if owners[key] == nil {
				owners[key] = map[*Tenant]bool{}
			}
			owners[key][e.tenant] = true
		}
	}
	next := &trust{pool: x509.NewCertPool(), tenants: map[caKey]*Tenant{}}
	disputed := map[caKey]bool{}
	for _, e := range r.entries {
		for _, ca := range e.cas {
			key := keyOf(ca)
			if len(owners[key]) > 1 {
				disputed[key] = true
				if !r.disputed[key] {
					r.log.Error(nil, "one client CA stands for several virtual clusters: none of them is served by it",
						"virtualCluster", e.tenant.String(), "tenant", e.tenant.UID, "ca", ca.Subject.CommonName, "key", fmt.Sprintf("%x", key))
				}
				continue
			}
			next.tenants[key] = e.tenant
			next.pool.AddCert(ca)
			next.bundle = append(next.bundle, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ca.Raw})...)
		}
	}
	r.disputed = disputed
	previous := r.trust.Swap(next)
	if bytes.Equal(previous.bundle, next.bundle) {
		return
	}
	for _, listener := range r.listeners {
		listener.Enqueue()
	}
}

// Name says where the CAs come from; part of dynamiccertificates.CAContentProvider.
func (r *Registry) Name() string { return "virtual-clusters" }

// CurrentCABundleContent is the PEM of all tenants' client CAs.
func (r *Registry) CurrentCABundleContent() []byte { return r.trust.Load().bundle }

// VerifyOptions verify a client certificate of any tenant. The pool is never nil:
// Go takes a nil pool for the machine's own roots.
func (r *Registry) VerifyOptions() (x509.VerifyOptions, bool) {
	return x509.VerifyOptions{
		Roots: r.trust.Load().pool,
		// An empty pool of intermediates keeps those that a client sends out of the
		// chain: the tenant's CA signs the leaf itself.
		Intermediates: x509.NewCertPool(),
		KeyUsages:     []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}, true
}

// AddListener has the listener told when the CAs change.
func (r *Registry) AddListener(listener dynamiccertificates.Listener) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.listeners = append(r.listeners, listener)
}

// tenantOf is the tenant whose CA this is, nil if it is nobody's.
func (r *Registry) tenantOf(ca *x509.Certificate) *Tenant { return r.trust.Load().tenants[keyOf(ca)] }
