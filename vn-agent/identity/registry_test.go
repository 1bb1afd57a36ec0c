package identity

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"math/big"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"github.com/go-logr/logr/funcr"
	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/authorization/authorizerfactory"

	"github.com/bulkhead-dev/bulkhead/internal/pki"
	"github.com/bulkhead-dev/bulkhead/internal/tenancy"
)

var (
	tenantA = tenancy.Tenant{UID: "uid-a", Namespace: "team-a", Name: "demo"}
	tenantB = tenancy.Tenant{UID: "uid-b", Namespace: "team-b", Name: "demo"}
)

// apiserverLeaf is what every tenant's apiserver shows: the same names everywhere.
var apiserverLeaf = pki.Leaf{CommonName: "kube-apiserver-kubelet-client", Organizations: []string{"system:masters"}, Usage: pki.Client}

func allowAll([]byte) (authorizer.Authorizer, error) {
	return authorizerfactory.NewAlwaysAllowAuthorizer(), nil
}

func newCA(t *testing.T, name string) *pki.CA {
	t.Helper()
	ca, err := pki.NewCA(name)
	if err != nil {
		t.Fatal(err)
	}
	return ca
}

func credentials(t *testing.T, cas ...*pki.CA) Credentials {
	t.Helper()
	var bundle []byte
	for _, ca := range cas {
		bundle = append(bundle, ca.Cert...)
	}
	parsed, err := ParseClientCAs(bundle)
	if err != nil {
		t.Fatal(err)
	}
	return Credentials{ClientCAs: parsed}
}

func set(t *testing.T, r *Registry, tenant tenancy.Tenant, cas ...*pki.CA) {
	t.Helper()
	if err := r.Set(tenant, credentials(t, cas...)); err != nil {
		t.Fatal(err)
	}
}

func issue(t *testing.T, ca *pki.CA, leaf pki.Leaf) *x509.Certificate {
	t.Helper()
	pair, err := ca.Issue(leaf)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := pki.ParseCertificate(pair.Cert)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

// whose returns the user that a request with these certificates has, nil for none.
func whose(r *Registry, shown ...*x509.Certificate) *User {
	request := &http.Request{TLS: &tls.ConnectionState{PeerCertificates: shown}}
	request = request.WithContext(context.Background())
	response, ok, err := r.Authenticator().AuthenticateRequest(request)
	if err != nil || !ok {
		return nil
	}
	return response.User.(*User)
}

func TestTheSigningCADecidesWhoseUserItIs(t *testing.T) {
	caA, caB := newCA(t, "kubelet-client-ca"), newCA(t, "kubelet-client-ca")
	r := NewRegistry(logr.Discard(), allowAll)
	set(t, r, tenantA, caA)
	set(t, r, tenantB, caB)
	for want, ca := range map[tenancy.Tenant]*pki.CA{tenantA: caA, tenantB: caB} {
		user := whose(r, issue(t, ca, apiserverLeaf))
		if user == nil || user.Tenant.Tenant != want {
			t.Fatalf("a certificate of %s is %+v's", want, user)
		}
		if diff := cmp.Diff([]string{"system:masters", "system:authenticated"}, user.GetGroups()); user.GetName() != apiserverLeaf.CommonName || diff != "" {
			t.Errorf("user %q with groups %s", user.GetName(), diff)
		}
	}
}

// The ancestor took the tenant from the common name of a certificate that nobody
// had verified.
func TestNamesInACertificateCountForNothing(t *testing.T) {
	caA := newCA(t, "kubelet-client-ca")
	r := NewRegistry(logr.Discard(), allowAll)
	set(t, r, tenantA, caA)
	// Everything a stranger can copy: the CA's own names, the victim's names and UID.
	stranger := newCA(t, "kubelet-client-ca")
	for name, leaf := range map[string]pki.Leaf{
		"the apiserver's name": apiserverLeaf,
		"the victim's UID":     {CommonName: string(tenantA.UID), Organizations: []string{"system:masters"}, Usage: pki.Client},
		"the victim's name":    {CommonName: tenantA.String(), Usage: pki.Client},
		"its namespace":        {CommonName: tenantA.ControlPlaneNamespace(), Usage: pki.Client},
	} {
		if user := whose(r, issue(t, stranger, leaf)); user != nil {
			t.Errorf("a stranger's certificate with %s is taken for %s", name, user.Tenant)
		}
	}
	if user := whose(r, issue(t, caA, pki.Leaf{CommonName: string(tenantB.UID), Usage: pki.Client})); user == nil || user.Tenant.Tenant != tenantA {
		t.Errorf("tenant A's certificate that names B is %+v", user)
	}
	if user := whose(r, issue(t, caA, pki.Leaf{CommonName: "kubelet", Usage: pki.Server})); user != nil {
		t.Error("a server's certificate was taken for a client's")
	}
	if user := whose(r); user != nil {
		t.Error("no certificate at all was taken for a user")
	}
}

func TestASharedCAServesNeitherTenant(t *testing.T) {
	shared, own := newCA(t, "shared"), newCA(t, "own")
	var logged []string
	r := NewRegistry(funcr.New(func(_, args string) { logged = append(logged, args) }, funcr.Options{}), allowAll)
	set(t, r, tenantA, shared)
	if whose(r, issue(t, shared, apiserverLeaf)) == nil {
		t.Fatal("tenant A is not known")
	}
	set(t, r, tenantB, shared, own)
	if user := whose(r, issue(t, shared, apiserverLeaf)); user != nil {
		t.Errorf("a CA of two tenants stands for %s", user.Tenant)
	}
	if user := whose(r, issue(t, own, apiserverLeaf)); user == nil || user.Tenant.Tenant != tenantB {
		t.Errorf("tenant B's own CA stands for %+v", user)
	}
	for _, uid := range []types.UID{tenantA.UID, tenantB.UID} {
		if !strings.Contains(strings.Join(logged, "\n"), string(uid)) {
			t.Errorf("nothing was logged about %s: %q", uid, logged)
		}
	}
	before := len(logged)
	set(t, r, tenantB, shared, own)
	if len(logged) != before {
		t.Errorf("logged again though nothing changed: %q", logged[before:])
	}
	r.Remove(types.NamespacedName{Namespace: tenantB.Namespace, Name: tenantB.Name})
	if user := whose(r, issue(t, shared, apiserverLeaf)); user == nil || user.Tenant.Tenant != tenantA {
		t.Errorf("once B is gone the CA stands for %+v", user)
	}
}

// One key under two names is one authority: the bytes of the CAs differ here.
func TestASharedKeyUnderAnotherNameServesNeitherTenant(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	first, second := selfSigned(t, key, "first"), selfSigned(t, key, "second")
	r := NewRegistry(logr.Discard(), allowAll)
	for tenant, ca := range map[tenancy.Tenant]*x509.Certificate{tenantA: first, tenantB: second} {
		if err := r.Set(tenant, Credentials{ClientCAs: []*x509.Certificate{ca}}); err != nil {
			t.Fatal(err)
		}
	}
	leaf := sign(t, &x509.Certificate{Subject: pkix.Name{CommonName: "x"}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}, first, key, &key.PublicKey)
	if user := whose(r, leaf); user != nil {
		t.Errorf("the key of two tenants stands for %s", user.Tenant)
	}
}

func TestAnIntermediateFromTheClientIsNotFollowed(t *testing.T) {
	key, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	root := selfSigned(t, key, "root")
	middleKey, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	middle := sign(t, caTemplate("middle"), root, key, &middleKey.PublicKey)
	leaf := sign(t, &x509.Certificate{Subject: pkix.Name{CommonName: "x"}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}, middle, middleKey, &middleKey.PublicKey)
	r := NewRegistry(logr.Discard(), allowAll)
	if err := r.Set(tenantA, Credentials{ClientCAs: []*x509.Certificate{root}}); err != nil {
		t.Fatal(err)
	}
	if user := whose(r, leaf, middle); user != nil {
		t.Error("a certificate of an intermediate that the client sent was accepted")
	}
}

// Go verifies against the machine's roots where a pool is nil.
func TestARegistryWithoutTenantsVerifiesNobody(t *testing.T) {
	r := NewRegistry(logr.Discard(), allowAll)
	options, ok := r.VerifyOptions()
	if !ok || options.Roots == nil || !options.Roots.Equal(x509.NewCertPool()) {
		t.Error("an empty registry does not verify against an empty pool")
	}
	if user := whose(r, issue(t, newCA(t, "any"), apiserverLeaf)); user != nil {
		t.Error("somebody is known")
	}
}

func TestATenantEndsWithItsVirtualCluster(t *testing.T) {
	caA := newCA(t, "a")
	r := NewRegistry(logr.Discard(), allowAll)
	set(t, r, tenantA, caA)
	first := whose(r, issue(t, caA, apiserverLeaf)).Tenant

	renewed := newCA(t, "a renewed")
	set(t, r, tenantA, caA, renewed)
	if user := whose(r, issue(t, renewed, apiserverLeaf)); user == nil || user.Tenant != first || first.Ended() {
		t.Fatal("renewing the CA did not keep the tenant")
	}

	again := tenantA
	again.UID = "uid-a-again"
	set(t, r, again, newCA(t, "other"))
	if !first.Ended() {
		t.Error("a new virtual cluster of the name did not end the old one")
	}
	if user := whose(r, issue(t, caA, apiserverLeaf)); user != nil {
		t.Errorf("the old one's CA still stands for %s", user.Tenant.UID)
	}
	r.Remove(types.NamespacedName{Namespace: tenantA.Namespace, Name: tenantA.Name})
	if r.Len() != 0 || len(r.CurrentCABundleContent()) != 0 {
		t.Error("something is left")
	}
}

func TestAKubeconfigThatCannotBeUsedChangesNothing(t *testing.T) {
	caA := newCA(t, "a")
	r := NewRegistry(logr.Discard(), func(kubeconfig []byte) (authorizer.Authorizer, error) {
		if string(kubeconfig) == "bad" {
			return nil, errors.New("bad kubeconfig")
		}
		return allowAll(kubeconfig)
	})
	set(t, r, tenantA, caA)
	if err := r.Set(tenantA, Credentials{ClientCAs: credentials(t, newCA(t, "new")).ClientCAs, Kubeconfig: []byte("bad")}); err == nil {
		t.Error("no error")
	}
	if user := whose(r, issue(t, caA, apiserverLeaf)); user == nil {
		t.Error("the good credentials of before are no longer in force")
	}
}

type listener chan struct{}

func (l listener) Enqueue() { l <- struct{}{} }

func TestListenersHearOfNewCAsOnly(t *testing.T) {
	r := NewRegistry(logr.Discard(), allowAll)
	heard := make(listener, 10)
	r.AddListener(heard)
	ca := newCA(t, "a")
	set(t, r, tenantA, ca)
	set(t, r, tenantA, ca)
	if len(heard) != 1 {
		t.Errorf("heard %d changes, not 1", len(heard))
	}
}

func caTemplate(name string) *x509.Certificate {
	return &x509.Certificate{Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
}

func selfSigned(t *testing.T, key *ecdsa.PrivateKey, name string) *x509.Certificate {
	t.Helper()
	template := caTemplate(name)
	return sign(t, template, template, key, &key.PublicKey)
}

func sign(t *testing.T, template, parent *x509.Certificate, key *ecdsa.PrivateKey, public *ecdsa.PublicKey) *x509.Certificate {
	t.Helper()
	template.SerialNumber = big.NewInt(time.Now().UnixNano())
	template.NotBefore, template.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	der, err := x509.CreateCertificate(rand.Reader, template, parent, public, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

func FuzzParseClientCAs(f *testing.F) {
	ca, err := pki.NewCA("ca")
	if err != nil {
		f.Fatal(err)
	}
	leaf, err := ca.Issue(apiserverLeaf)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(ca.Cert)
	f.Add(leaf.Cert)
	f.Add(append(append([]byte("text\n"), ca.Cert...), leaf.Cert...))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, bundle []byte) {
		cas, err := ParseClientCAs(bundle)
		if (err == nil) != (len(cas) > 0) {
			t.Fatalf("%d CAs and error %v", len(cas), err)
		}
		for _, ca := range cas {
			if !ca.IsCA {
				t.Fatal("something else than a CA was taken")
			}
		}
	})
}
