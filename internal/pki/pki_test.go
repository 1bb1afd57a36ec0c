package pki

import (
	"crypto/tls"
	"crypto/x509"
	"testing"
	"time"
)

func newCA(t *testing.T, name string) *CA {
	t.Helper()
	ca, err := NewCA(name)
	if err != nil {
		t.Fatal(err)
	}
	return ca
}

func TestIssuedCertificateVerifiesForItsHostsOnly(t *testing.T) {
	ca := newCA(t, "etcd-ca")
	pair, err := ca.Issue(Leaf{CommonName: "etcd", Hosts: []string{"etcd.ns.svc", "10.0.0.1"}, Usage: Peer})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tls.X509KeyPair(pair.Cert, pair.Key); err != nil {
		t.Fatalf("key and certificate do not fit: %v", err)
	}
	cert, err := ParseCertificate(pair.Cert)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca.Cert)
	for host, want := range map[string]bool{"etcd.ns.svc": true, "10.0.0.1": true, "other": false, "10.0.0.2": false} {
		_, err := cert.Verify(x509.VerifyOptions{Roots: roots, DNSName: host})
		if got := err == nil; got != want {
			t.Errorf("valid for %q: %v, want %v (%v)", host, got, want, err)
		}
	}
}

func TestCurrent(t *testing.T) {
	ca, other := newCA(t, "ca"), newCA(t, "ca")
	leaf := Leaf{CommonName: "admin", Organizations: []string{"system:masters"}, Hosts: []string{"::1", "a"}, Usage: Client}
	pair, err := ca.Issue(leaf)
	if err != nil {
		t.Fatal(err)
	}
	foreign, err := other.Issue(leaf)
	if err != nil {
		t.Fatal(err)
	}
	with := func(change func(*Leaf)) Leaf {
		l := leaf
		change(&l)
		return l
	}
	now := time.Now()
	for name, tc := range map[string]struct {
		pair Pair
		leaf Leaf
		now  time.Time
		want bool
	}{
		"as issued":          {pair, leaf, now, true},
		"order of hosts":     {pair, with(func(l *Leaf) { l.Hosts = []string{"a", "0:0:0:0:0:0:0:1"} }), now, true},
		"other CA, own name": {foreign, leaf, now, false},
		"other key":          {Pair{Cert: pair.Cert, Key: foreign.Key}, leaf, now, false},
		"host added":         {pair, with(func(l *Leaf) { l.Hosts = append([]string{"b"}, l.Hosts...) }), now, false},
		"other usage":        {pair, with(func(l *Leaf) { l.Usage = Server }), now, false},
		"other group":        {pair, with(func(l *Leaf) { l.Organizations = nil }), now, false},
		"two thirds over":    {pair, leaf, now.Add(LeafValidity*2/3 + time.Hour), false},
		"nothing stored":     {Pair{}, leaf, now, false},
	} {
		if got := ca.Current(tc.pair, tc.leaf, tc.now); got != tc.want {
			t.Errorf("%s: current %v, want %v", name, got, tc.want)
		}
	}
}

func TestParseCARefusesWhatIsNoCA(t *testing.T) {
	ca := newCA(t, "ca")
	leaf, err := ca.Issue(Leaf{CommonName: "x", Usage: Client})
	if err != nil {
		t.Fatal(err)
	}
	for name, pair := range map[string]Pair{
		"a leaf":        leaf,
		"another's key": {Cert: ca.Cert, Key: newCA(t, "b").Key},
		"no key":        {Cert: ca.Cert},
		"nothing":       {},
	} {
		if _, err := ParseCA(pair); err == nil {
			t.Errorf("%s was taken for a CA", name)
		}
	}
}

func TestLeafNeverOutlivesItsCA(t *testing.T) {
	ca := newCA(t, "ca")
	pair, err := ca.Issue(Leaf{CommonName: "x", Usage: Client, Validity: 2 * CAValidity})
	if err != nil {
		t.Fatal(err)
	}
	cert, err := ParseCertificate(pair.Cert)
	if err != nil {
		t.Fatal(err)
	}
	if cert.NotAfter.After(ca.cert.NotAfter) {
		t.Errorf("leaf ends %s, its CA %s", cert.NotAfter, ca.cert.NotAfter)
	}
}

func FuzzParseCA(f *testing.F) {
	ca, err := NewCA("seed")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(ca.Cert, ca.Key)
	f.Add([]byte("-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n"), []byte("x"))
	f.Fuzz(func(t *testing.T, cert, key []byte) {
		parsed, err := ParseCA(Pair{Cert: cert, Key: key})
		if err == nil && !parsed.cert.IsCA {
			t.Fatal("parsed a CA that is none")
		}
	})
}
