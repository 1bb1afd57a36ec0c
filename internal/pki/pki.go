// Package pki makes certificate authorities, the leaf certificates they sign and
// service account keys. It keeps nothing: callers store the PEM it returns.
//
// All keys are ECDSA P-256: every Kubernetes component accepts them, and making
// one takes microseconds, where RSA-2048 would add a visible share to the start
// of a control plane that needs a dozen.
package pki

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"time"
)

// Lifetimes of what this package issues. RenewBefore is the share of a leaf's
// lifetime that may be left when it is issued anew.
const (
	CAValidity   = 10 * 365 * 24 * time.Hour
	LeafValidity = 365 * 24 * time.Hour
	renewShare   = 3 // a leaf is due when less than 1/renewShare of its life is left

	// backdate makes a certificate valid on machines whose clock is a little behind ours.
	backdate = 5 * time.Minute
)

// PEM block types, as in RFC 7468 section 5, RFC 5915 and RFC 5958.
const (
	blockCertificate = "CERTIFICATE"
	blockECKey       = "EC PRIVATE KEY"
	blockPKCS8Key    = "PRIVATE KEY"
	blockPublicKey   = "PUBLIC KEY"
)

// Pair is a certificate with its private key, both PEM encoded.
type Pair struct {
	Cert []byte
	Key  []byte
}

// CA signs certificates.
type CA struct {
	Pair
	cert *x509.Certificate
	key  crypto.Signer
}

// Usage says what a leaf certificate may be used for.
type Usage int

// The extended key usages of a leaf. Peer is both, as etcd members need among themselves.
const (
	Client Usage = iota + 1
	Server
	Peer
)

// Leaf describes a certificate to issue.
type Leaf struct {
	// CommonName is the user name that Kubernetes reads from a client certificate.
	CommonName string
	// Organizations are the groups that Kubernetes reads from a client certificate.
	Organizations []string
	// Hosts are the DNS names and IP addresses a server certificate is for.
	Hosts []string
	Usage Usage
	// Validity is how long the certificate lasts; LeafValidity if zero. It never
	// outlives its CA.
	Validity time.Duration
}

// NewCA makes a self-signed certificate authority that may sign leaves only.
func NewCA(commonName string) (*CA, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("generating the key of CA %q: %w", commonName, err)
	}
	now := time.Now()
	template, err := newTemplate(pkix.Name{CommonName: commonName}, now, now.Add(CAValidity))
	if err != nil {
		return nil, err
	}
	template.IsCA = true
	template.BasicConstraintsValid = true
	template.MaxPathLenZero = true
	template.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature | x509.KeyUsageCRLSign
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("signing CA %q: %w", commonName, err)
	}
	keyPEM, err := encodeKey(key)
	if err != nil {
		return nil, err
	}
	return ParseCA(Pair{Cert: pem.EncodeToMemory(&pem.Block{Type: blockCertificate, Bytes: der}), Key: keyPEM})
}

// ParseCA reads a CA that NewCA made, or any other with an ECDSA or RSA key.
func ParseCA(pair Pair) (*CA, error) {
	cert, err := ParseCertificate(pair.Cert)
	if err != nil {
		return nil, err
	}
	if !cert.IsCA {
		return nil, fmt.Errorf("certificate %q is not a CA", cert.Subject.CommonName)
	}
	key, err := parseKey(pair.Key)
	if err != nil {
		return nil, fmt.Errorf("key of CA %q: %w", cert.Subject.CommonName, err)
	}
	if !publicKeysEqual(cert.PublicKey, key.Public()) {
		return nil, fmt.Errorf("key of CA %q does not belong to its certificate", cert.Subject.CommonName)
	}
	return &CA{Pair: pair, cert: cert, key: key}, nil
}

// Issue makes a new key and a certificate for it.
func (ca *CA) Issue(leaf Leaf) (Pair, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return Pair{}, fmt.Errorf("generating the key of %q: %w", leaf.CommonName, err)
	}
	cert, err := ca.Sign(key.Public(), leaf)
	if err != nil {
		return Pair{}, err
	}
	keyPEM, err := encodeKey(key)
	if err != nil {
		return Pair{}, err
	}
	return Pair{Cert: cert, Key: keyPEM}, nil
}

// Sign issues a certificate for a key that its owner made and kept, as a
// CertificateSigningRequest asks for. It returns the certificate PEM.
func (ca *CA) Sign(public crypto.PublicKey, leaf Leaf) ([]byte, error) {
	validity := leaf.Validity
	if validity == 0 {
		validity = LeafValidity
	}
	now := time.Now()
	notAfter := now.Add(validity)
	if notAfter.After(ca.cert.NotAfter) {
		notAfter = ca.cert.NotAfter
	}
	template, err := newTemplate(pkix.Name{CommonName: leaf.CommonName, Organization: leaf.Organizations}, now, notAfter)
	if err != nil {
		return nil, err
	}
	template.KeyUsage = x509.KeyUsageDigitalSignature
	switch leaf.Usage {
	case Client:
		template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	case Server:
		template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	case Peer:
		template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth}
	default:
		return nil, fmt.Errorf("certificate %q: no usage given", leaf.CommonName)
	}
	for _, host := range leaf.Hosts {
		if ip := net.ParseIP(host); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, host)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, ca.cert, public, ca.key)
	if err != nil {
		return nil, fmt.Errorf("signing the certificate of %q: %w", leaf.CommonName, err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: blockCertificate, Bytes: der}), nil
}

// Signed tells whether the CA's key signed the PEM certificate.
func (ca *CA) Signed(certPEM []byte) bool {
	cert, err := ParseCertificate(certPEM)
	return err == nil && cert.CheckSignatureFrom(ca.cert) == nil
}

// Current tells whether pair is what Issue(leaf) would make and need not be made
// anew yet: signed by this CA, for the same subject, hosts and usage, its key its
// own, and with at least a third of its life left at now.
func (ca *CA) Current(pair Pair, leaf Leaf, now time.Time) bool {
	cert, err := ParseCertificate(pair.Cert)
	if err != nil || cert.CheckSignatureFrom(ca.cert) != nil || RenewalDue(cert, now) {
		return false
	}
	key, err := parseKey(pair.Key)
	if err != nil || !publicKeysEqual(cert.PublicKey, key.Public()) {
		return false
	}
	return cert.Subject.CommonName == leaf.CommonName &&
		sameStrings(cert.Subject.Organization, leaf.Organizations) &&
		sameStrings(hosts(cert), canonicalHosts(leaf.Hosts)) &&
		hasUsage(cert, leaf.Usage)
}

// RenewalDue tells whether less than a third of the certificate's life is left at now.
func RenewalDue(cert *x509.Certificate, now time.Time) bool {
	life := cert.NotAfter.Sub(cert.NotBefore)
	return now.After(cert.NotAfter.Add(-life / renewShare))
}

// NewServiceAccountKey makes the key pair that signs and verifies service account
// tokens: Pair.Key is the private, Pair.Cert the public key in PKIX PEM.
func NewServiceAccountKey() (Pair, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return Pair{}, fmt.Errorf("generating a service account key: %w", err)
	}
	private, err := encodeKey(key)
	if err != nil {
		return Pair{}, err
	}
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return Pair{}, fmt.Errorf("encoding a service account key: %w", err)
	}
	return Pair{Cert: pem.EncodeToMemory(&pem.Block{Type: blockPublicKey, Bytes: der}), Key: private}, nil
}

// ParseCertificate reads the first certificate of a PEM text.
func ParseCertificate(certPEM []byte) (*x509.Certificate, error) {
	for rest := certPEM; ; {
		block, next := pem.Decode(rest)
		if block == nil {
			return nil, errors.New("no PEM certificate found")
		}
		if block.Type == blockCertificate {
			cert, err := x509.ParseCertificate(block.Bytes)
			if err != nil {
				return nil, fmt.Errorf("parsing a certificate: %w", err)
			}
			return cert, nil
		}
		rest = next
	}
}

func newTemplate(subject pkix.Name, from, to time.Time) (*x509.Certificate, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, fmt.Errorf("drawing the serial number of %q: %w", subject.CommonName, err)
	}
	return &x509.Certificate{SerialNumber: serial, Subject: subject, NotBefore: from.Add(-backdate), NotAfter: to}, nil
}
