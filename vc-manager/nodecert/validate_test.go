package nodecert

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"net"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/bulkhead-dev/bulkhead/internal/pki"
	"github.com/bulkhead-dev/bulkhead/internal/tenancy"
)

const agent = "system:serviceaccount:bulkhead-system:vn-agent"

func ecdsaKey(t testing.TB, curve elliptic.Curve) crypto.Signer {
	t.Helper()
	key, err := ecdsa.GenerateKey(curve, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func pkcs10(t testing.TB, key crypto.Signer, template *x509.CertificateRequest) []byte {
	t.Helper()
	der, err := x509.CreateCertificateRequest(rand.Reader, template, key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})
}

func askedFor() *x509.CertificateRequest {
	return &x509.CertificateRequest{
		Subject: pkix.Name{CommonName: "node-1"}, DNSNames: []string{"node-1"}, IPAddresses: []net.IP{net.ParseIP("10.0.0.1")},
	}
}

func sampleRequest(t testing.TB, key crypto.Signer, template *x509.CertificateRequest) *certificatesv1.CertificateSigningRequest {
	t.Helper()
	return &certificatesv1.CertificateSigningRequest{
		ObjectMeta: metav1.ObjectMeta{Name: "csr-1"},
		Spec: certificatesv1.CertificateSigningRequestSpec{
			SignerName: tenancy.VNAgentServingSigner, Username: agent,
			Extra: map[string]certificatesv1.ExtraValue{
				"authentication.kubernetes.io/node-name": {"node-1"},
				"authentication.kubernetes.io/node-uid":  {"node-uid"},
			},
			Usages:  []certificatesv1.KeyUsage{certificatesv1.UsageDigitalSignature, certificatesv1.UsageServerAuth},
			Request: pkcs10(t, key, template),
		},
	}
}

func sampleNode() *corev1.Node {
	return &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: "node-1", UID: "node-uid"},
		Status: corev1.NodeStatus{Addresses: []corev1.NodeAddress{
			{Type: corev1.NodeInternalIP, Address: "10.0.0.1"}, {Type: corev1.NodeInternalIP, Address: "fd00::1"},
			{Type: corev1.NodeHostName, Address: "host-1"}, {Type: corev1.NodeExternalIP, Address: "203.0.113.1"},
		}},
	}
}

func TestNodeOf(t *testing.T) {
	key := ecdsaKey(t, elliptic.P256())
	for name, tc := range map[string]struct {
		change func(*certificatesv1.CertificateSigningRequest)
		want   string // in the refusal; none if empty
	}{
		"as vn-agent asks": {func(*certificatesv1.CertificateSigningRequest) {}, ""},
		"another signer":   {func(r *certificatesv1.CertificateSigningRequest) { r.Spec.SignerName = "kubernetes.io/kubelet-serving" }, "not ours"},
		"a tenant's user":  {func(r *certificatesv1.CertificateSigningRequest) { r.Spec.Username = "eve" }, "not eve"},
		"another namespace's": {func(r *certificatesv1.CertificateSigningRequest) {
			r.Spec.Username = "system:serviceaccount:eve:vn-agent"
		}, "only " + agent},
		"a token of no node": {func(r *certificatesv1.CertificateSigningRequest) {
			delete(r.Spec.Extra, "authentication.kubernetes.io/node-name")
		}, "not bound"},
		"two nodes": {func(r *certificatesv1.CertificateSigningRequest) {
			r.Spec.Extra["authentication.kubernetes.io/node-name"] = []string{"node-1", "node-2"}
		}, "not bound"},
	} {
		request := sampleRequest(t, key, askedFor())
		tc.change(request)
		node, err := nodeOf(request, agent)
		checkRefusal(t, name, err, tc.want)
		if tc.want == "" && node != "node-1" {
			t.Errorf("%s: node %q", name, node)
		}
	}
}

func checkRefusal(t *testing.T, name string, err error, want string) {
	t.Helper()
	switch {
	case want == "" && err != nil:
		t.Errorf("%s: refused: %v", name, err)
	case want != "" && (!isRefusal(err) || !strings.Contains(err.Error(), want)):
		t.Errorf("%s: %v, want a refusal that says %q", name, err, want)
	}
}

func TestValidate(t *testing.T) {
	key := ecdsaKey(t, elliptic.P256())
	weak, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	strong, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	asked := func(change func(*x509.CertificateRequest)) func(*certificatesv1.CertificateSigningRequest) {
		template := askedFor()
		change(template)
		return func(r *certificatesv1.CertificateSigningRequest) { r.Spec.Request = pkcs10(t, key, template) }
	}
	raw := func(text string) func(*certificatesv1.CertificateSigningRequest) {
		return func(r *certificatesv1.CertificateSigningRequest) { r.Spec.Request = []byte(text) }
	}
	for name, tc := range map[string]struct {
		change func(*certificatesv1.CertificateSigningRequest)
		want   string
	}{
		"as vn-agent asks": {asked(func(*x509.CertificateRequest) {}), ""},
		"no common name":   {asked(func(r *x509.CertificateRequest) { r.Subject = pkix.Name{} }), ""},
		"IPv6 and host name": {asked(func(r *x509.CertificateRequest) {
			r.DNSNames, r.IPAddresses = []string{"host-1"}, []net.IP{net.ParseIP("fd00::1")}
		}), ""},
		"RSA": {func(r *certificatesv1.CertificateSigningRequest) { r.Spec.Request = pkcs10(t, strong, askedFor()) }, ""},
		"key encipherment": {func(r *certificatesv1.CertificateSigningRequest) {
			r.Spec.Usages = append(r.Spec.Usages, certificatesv1.UsageKeyEncipherment)
		}, ""},

		"another node's name":    {asked(func(r *x509.CertificateRequest) { r.DNSNames = []string{"node-2"} }), `"node-2" is not one of node node-1`},
		"a wildcard":             {asked(func(r *x509.CertificateRequest) { r.DNSNames = []string{"*"} }), "not one of node"},
		"another node's address": {asked(func(r *x509.CertificateRequest) { r.IPAddresses = []net.IP{net.ParseIP("10.0.0.2")} }), "10.0.0.2 is not one of"},
		"an outer address":       {asked(func(r *x509.CertificateRequest) { r.IPAddresses = []net.IP{net.ParseIP("203.0.113.1")} }), "not one of"},
		"another common name":    {asked(func(r *x509.CertificateRequest) { r.Subject.CommonName = "admin" }), "common name"},
		"an organization":        {asked(func(r *x509.CertificateRequest) { r.Subject.Organization = []string{"system:masters"} }), "more than a common name"},
		"only an organization":   {asked(func(r *x509.CertificateRequest) { r.Subject = pkix.Name{Organization: []string{"system:masters"}} }), "more than a common name"},
		"two common names": {asked(func(r *x509.CertificateRequest) {
			r.Subject = pkix.Name{ExtraNames: []pkix.AttributeTypeAndValue{{Type: []int{2, 5, 4, 3}, Value: "admin"}, {Type: []int{2, 5, 4, 3}, Value: "node-1"}}}
		}), "more than a common name"},
		"an e-mail address": {asked(func(r *x509.CertificateRequest) { r.EmailAddresses = []string{"a@b"} }), "e-mail"},
		"a URI":             {asked(func(r *x509.CertificateRequest) { r.URIs = []*url.URL{{Scheme: "spiffe", Host: "x"}} }), "URI"},
		"no host":           {asked(func(r *x509.CertificateRequest) { r.DNSNames, r.IPAddresses = nil, nil }), "no name or address"},

		"client usage": {func(r *certificatesv1.CertificateSigningRequest) {
			r.Spec.Usages = append(r.Spec.Usages, certificatesv1.UsageClientAuth)
		}, `usage "client auth"`},
		"no server usage": {func(r *certificatesv1.CertificateSigningRequest) {
			r.Spec.Usages = []certificatesv1.KeyUsage{certificatesv1.UsageDigitalSignature}
		}, "missing"},
		"a CA's usage": {func(r *certificatesv1.CertificateSigningRequest) {
			r.Spec.Usages = append(r.Spec.Usages, certificatesv1.UsageCertSign)
		}, `usage "cert sign"`},

		"a weak key": {func(r *certificatesv1.CertificateSigningRequest) { r.Spec.Request = pkcs10(t, weak, askedFor()) }, "key is neither"},
		"a small curve": {func(r *certificatesv1.CertificateSigningRequest) {
			r.Spec.Request = pkcs10(t, ecdsaKey(t, elliptic.P224()), askedFor())
		}, "key is neither"},
		"an earlier node": {func(r *certificatesv1.CertificateSigningRequest) {
			r.Spec.Extra["authentication.kubernetes.io/node-uid"] = []string{"old"}
		}, "earlier node"},
		"nothing":               {raw(""), "one PEM block"},
		"no PEM":                {raw("hello"), "one PEM block"},
		"a certificate":         {raw("-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n"), "one PEM block"},
		"garbage":               {raw("-----BEGIN CERTIFICATE REQUEST-----\nAA==\n-----END CERTIFICATE REQUEST-----\n"), "cannot be parsed"},
		"too long":              {raw(strings.Repeat("x", maxRequest+1)), "bytes"},
		"signed by another key": {func(r *certificatesv1.CertificateSigningRequest) { r.Spec.Request = forge(t, r.Spec.Request) }, "not signed by its own key"},
		"two requests": {func(r *certificatesv1.CertificateSigningRequest) {
			r.Spec.Request = append(r.Spec.Request, r.Spec.Request...)
		}, "one PEM block"},
	} {
		request := sampleRequest(t, key, askedFor())
		tc.change(request)
		_, leaf, err := validate(request, sampleNode())
		checkRefusal(t, name, err, tc.want)
		if err == nil && (leaf.Usage != pki.Server || leaf.CommonName != "node-1" || len(leaf.Organizations) > 0) {
			t.Errorf("%s: would sign %+v", name, leaf)
		}
	}
}

// forge spoils the signature, which stands at the end.
func forge(t *testing.T, request []byte) []byte {
	t.Helper()
	block, _ := pem.Decode(request)
	block.Bytes[len(block.Bytes)-1] ^= 1
	return pem.EncodeToMemory(block)
}

func TestLifetime(t *testing.T) {
	key := ecdsaKey(t, elliptic.P256())
	for name, tc := range map[string]struct {
		asked *int32
		want  time.Duration
	}{
		"not asked": {nil, lifetime}, "less": {ptr.To[int32](3600), time.Hour}, "more": {ptr.To[int32](1 << 30), lifetime},
	} {
		request := sampleRequest(t, key, askedFor())
		request.Spec.ExpirationSeconds = tc.asked
		_, leaf, err := validate(request, sampleNode())
		if err != nil {
			t.Fatal(err)
		}
		if leaf.Validity != tc.want {
			t.Errorf("%s: %s, want %s", name, leaf.Validity, tc.want)
		}
	}
}

// Whatever is asked for, what is signed is for serving at the node's own names.
func FuzzValidate(f *testing.F) {
	f.Add(pkcs10(f, ecdsaKey(f, elliptic.P256()), askedFor()))
	odd := askedFor()
	odd.Subject.Organization, odd.DNSNames = []string{"system:masters"}, []string{"", "node-1", "*.x"}
	f.Add(pkcs10(f, ecdsaKey(f, elliptic.P384()), odd))
	f.Add([]byte("-----BEGIN CERTIFICATE REQUEST-----\n-----END CERTIFICATE REQUEST-----\n"))
	ca, err := pki.NewCA("fuzz")
	if err != nil {
		f.Fatal(err)
	}
	base := sampleRequest(f, ecdsaKey(f, elliptic.P256()), askedFor())
	f.Fuzz(func(t *testing.T, text []byte) {
		request := base.DeepCopy()
		request.Spec.Request = text
		public, leaf, err := validate(request, sampleNode())
		if err != nil {
			if !isRefusal(err) {
				t.Fatalf("not a refusal: %v", err)
			}
			return
		}
		signed, err := ca.Sign(public, leaf)
		if err != nil {
			t.Fatal(err)
		}
		cert, err := pki.ParseCertificate(signed)
		if err != nil {
			t.Fatal(err)
		}
		allowed := []string{"node-1", "host-1", "10.0.0.1", "fd00::1"}
		for _, host := range leaf.Hosts {
			if !slices.Contains(allowed, host) {
				t.Fatalf("valid for %q", host)
			}
		}
		if cert.IsCA || cert.Subject.CommonName != "node-1" || len(cert.Subject.Names) != 1 {
			t.Fatalf("signed %s, CA %v", cert.Subject, cert.IsCA)
		}
		if diff := cmp.Diff([]x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, cert.ExtKeyUsage); diff != "" {
			t.Fatal(diff)
		}
	})
}
