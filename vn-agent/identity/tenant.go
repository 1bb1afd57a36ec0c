package identity

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"sync/atomic"

	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/client-go/util/cert"

	"github.com/bulkhead-dev/bulkhead/internal/tenancy"
)

// Tenant is one virtual cluster that vn-agent serves. It stays the same value
// while its credentials are renewed, and ends when the virtual cluster is gone.
type Tenant struct {
	tenancy.Tenant

	done       chan struct{}
	authorizer atomic.Value // of authorizerBox
}

// authorizerBox gives atomic.Value the one concrete type it needs.
type authorizerBox struct{ authorizer.Authorizer }

func newTenant(tenant tenancy.Tenant) *Tenant {
	return &Tenant{Tenant: tenant, done: make(chan struct{})}
}

// Done is closed when the tenant is no longer served; its open streams end with it.
func (t *Tenant) Done() <-chan struct{} { return t.done }

// Ended tells whether the tenant is no longer served.
func (t *Tenant) Ended() bool {
	select {
	case <-t.done:
		return true
	default:
		return false
	}
}

// Authorize asks the tenant's own apiserver whether its user may do something. An
// apiserver that does not answer makes it fail for this tenant only.
func (t *Tenant) Authorize(ctx context.Context, attributes authorizer.Attributes) (authorizer.Decision, string, error) {
	return t.authorizer.Load().(authorizerBox).Authorize(ctx, attributes)
}

// User is who sent a request: a user of one tenant's cluster.
type User struct {
	user.Info
	// Tenant is the one whose CA signed the user's certificate.
	Tenant *Tenant
}

// Credentials are what vn-agent needs to serve a tenant.
type Credentials struct {
	// ClientCAs sign the certificates that the tenant's control plane shows.
	ClientCAs []*x509.Certificate
	// Kubeconfig reaches the tenant's apiserver, which says what its users may do.
	Kubeconfig []byte
}

// ParseClientCAs reads a PEM bundle and refuses one that holds anything but CAs.
func ParseClientCAs(bundle []byte) ([]*x509.Certificate, error) {
	cas, err := cert.ParseCertsPEM(bundle)
	if err != nil {
		return nil, fmt.Errorf("parsing the client CA bundle: %w", err)
	}
	if len(cas) == 0 {
		return nil, errors.New("the client CA bundle is empty")
	}
	for _, ca := range cas {
		if !ca.IsCA {
			return nil, fmt.Errorf("the client CA bundle holds %q, which is not a CA", ca.Subject.CommonName)
		}
	}
	return cas, nil
}
