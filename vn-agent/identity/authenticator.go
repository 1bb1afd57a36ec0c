package identity

import (
	stdx509 "crypto/x509"
	"fmt"
	"slices"

	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/request/x509"
	"k8s.io/apiserver/pkg/authentication/user"
)

// Authenticator takes client certificates and nothing else. The response's user
// is a *User: name and groups from the certificate as a kubelet reads them, the
// tenant from the CA that verified it.
func (r *Registry) Authenticator() authenticator.Request {
	return x509.NewDynamic(r.VerifyOptions, x509.UserConversionFunc(r.user))
}

func (r *Registry) user(chain []*stdx509.Certificate) (*authenticator.Response, bool, error) {
	if len(chain) != 2 {
		return nil, false, fmt.Errorf("the client certificate is not signed by a tenant's CA itself: its chain has %d certificates", len(chain))
	}
	tenant := r.tenantOf(chain[1])
	if tenant == nil {
		return nil, false, fmt.Errorf("the client certificate's CA %q is no longer a tenant's", chain[1].Subject.CommonName)
	}
	response, ok, err := x509.CommonNameUserConversion(chain)
	if err != nil || !ok {
		return nil, false, err
	}
	response.User = &User{
		Info: &user.DefaultInfo{
			Name:   response.User.GetName(),
			UID:    response.User.GetUID(),
			Groups: append(slices.Clone(response.User.GetGroups()), user.AllAuthenticated),
			Extra:  response.User.GetExtra(),
		},
		Tenant: tenant,
	}
	return response, true, nil
}
