package nodecert

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"slices"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apiserver/pkg/authentication/serviceaccount"

	"github.com/bulkhead-dev/bulkhead/internal/pki"
	"github.com/bulkhead-dev/bulkhead/internal/tenancy"
)

const (
	// lifetime of vn-agent's serving certificates; a request may ask for less.
	lifetime = 90 * 24 * time.Hour
	// maxRequest is the largest PEM request that is looked into.
	maxRequest = 64 << 10
	minRSABits = 2048
)

// refusal says what is wrong with a request, in words for its author.
type refusal struct{ message string }

func (r *refusal) Error() string { return r.message }

func refuse(format string, args ...any) error { return &refusal{fmt.Sprintf(format, args...)} }

// nodeOf returns the node a request comes from: the one that the super cluster's
// apiserver wrote into the token of the vn-agent ServiceAccount agent, as the user
// name of that. The request itself has no say in it.
func nodeOf(request *certificatesv1.CertificateSigningRequest, agent string) (name string, err error) {
	if request.Spec.SignerName != tenancy.VNAgentServingSigner {
		return "", refuse("signer %s is not ours", request.Spec.SignerName)
	}
	if request.Spec.Username != agent {
		return "", refuse("only %s may ask for certificates of signer %s, not %s", agent, tenancy.VNAgentServingSigner, request.Spec.Username)
	}
	names := request.Spec.Extra[serviceaccount.NodeNameKey]
	if len(names) != 1 || names[0] == "" {
		return "", refuse("the token the request was made with is not bound to a pod on one node (%s)", serviceaccount.NodeNameKey)
	}
	return names[0], nil
}

// validate returns the key and the certificate to sign for a request from a node.
// It accepts a request for nothing but serving at that node's name and addresses.
func validate(request *certificatesv1.CertificateSigningRequest, node *corev1.Node) (crypto.PublicKey, pki.Leaf, error) {
	if uids := request.Spec.Extra[serviceaccount.NodeUIDKey]; len(uids) > 0 && (len(uids) != 1 || uids[0] != string(node.UID)) {
		return nil, pki.Leaf{}, refuse("the token the request was made with is bound to an earlier node of the name %s", node.Name)
	}
	if err := validateUsages(request.Spec.Usages); err != nil {
		return nil, pki.Leaf{}, err
	}
	asked, err := parseRequest(request.Spec.Request)
	if err != nil {
		return nil, pki.Leaf{}, err
	}
	if err := validateKey(asked.PublicKey); err != nil {
		return nil, pki.Leaf{}, err
	}
	hosts, err := validateNames(asked, node)
	if err != nil {
		return nil, pki.Leaf{}, err
	}
	leaf := pki.Leaf{CommonName: node.Name, Hosts: hosts, Usage: pki.Server, Validity: lifetime}
	if seconds := request.Spec.ExpirationSeconds; seconds != nil {
		leaf.Validity = min(lifetime, time.Duration(max(*seconds, 0))*time.Second)
	}
	return asked.PublicKey, leaf, nil
}

func validateUsages(usages []certificatesv1.KeyUsage) error {
	if !slices.Contains(usages, certificatesv1.UsageServerAuth) {
		return refuse("usage %q is missing", certificatesv1.UsageServerAuth)
	}
	for _, usage := range usages {
		switch usage {
		case certificatesv1.UsageServerAuth, certificatesv1.UsageDigitalSignature, certificatesv1.UsageKeyEncipherment:
		default:
			return refuse("usage %q is not given", usage)
		}
	}
	return nil
}

// parseRequest reads a PEM encoded PKCS #10 request (RFC 2986, RFC 7468 section 7).
func parseRequest(text []byte) (*x509.CertificateRequest, error) {
	if len(text) > maxRequest {
		return nil, refuse("the request has %d bytes, more than %d", len(text), maxRequest)
	}
	block, rest := pem.Decode(text)
	if block == nil || block.Type != "CERTIFICATE REQUEST" || len(rest) > 0 {
		return nil, refuse("the request is not one PEM block of type CERTIFICATE REQUEST")
	}
	request, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		return nil, refuse("the request cannot be parsed: %v", err)
	}
	if err := request.CheckSignature(); err != nil {
		return nil, refuse("the request is not signed by its own key: %v", err)
	}
	return request, nil
}

func validateKey(public crypto.PublicKey) error {
	switch key := public.(type) {
	case *ecdsa.PublicKey:
		if key.Curve == elliptic.P256() || key.Curve == elliptic.P384() || key.Curve == elliptic.P521() {
			return nil
		}
	case ed25519.PublicKey:
		return nil
	case *rsa.PublicKey:
		if key.N.BitLen() >= minRSABits {
			return nil
		}
	}
	return refuse("the key is neither ECDSA (P-256 or larger), Ed25519 nor RSA (%d bits or more)", minRSABits)
}

// validateNames returns the hosts asked for, all of which must be the node's.
func validateNames(asked *x509.CertificateRequest, node *corev1.Node) (hosts []string, err error) {
	subject := asked.Subject
	if subject.CommonName != "" && subject.CommonName != node.Name {
		return nil, refuse("common name %q is not the node's name %q", subject.CommonName, node.Name)
	}
	if extra := len(subject.Names); extra > 1 || (extra == 1 && subject.CommonName == "") {
		return nil, refuse("the subject has more than a common name: %s", subject)
	}
	if len(asked.EmailAddresses) > 0 || len(asked.URIs) > 0 {
		return nil, refuse("e-mail addresses and URIs are not given")
	}
	names, addresses := namesOf(node)
	for _, name := range asked.DNSNames {
		if !slices.Contains(names, name) {
			return nil, refuse("DNS name %q is not one of node %s", name, node.Name)
		}
		hosts = append(hosts, name)
	}
	for _, ip := range asked.IPAddresses {
		if !slices.ContainsFunc(addresses, ip.Equal) {
			return nil, refuse("address %s is not one of node %s", ip, node.Name)
		}
		hosts = append(hosts, ip.String())
	}
	if len(hosts) == 0 {
		return nil, refuse("no name or address is asked for")
	}
	return hosts, nil
}

func namesOf(node *corev1.Node) (names []string, addresses []net.IP) {
	names = []string{node.Name}
	for _, address := range node.Status.Addresses {
		switch address.Type {
		case corev1.NodeInternalIP:
			if ip := net.ParseIP(address.Address); ip != nil {
				addresses = append(addresses, ip)
			}
		case corev1.NodeHostName, corev1.NodeInternalDNS:
			names = append(names, address.Address)
		}
	}
	return names, addresses
}

func isRefusal(err error) bool {
	var refused *refusal
	return errors.As(err, &refused)
}
