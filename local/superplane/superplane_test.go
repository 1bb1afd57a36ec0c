package superplane

import (
	"crypto/x509"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/bulkhead-dev/bulkhead/internal/kubeconfig"
	"github.com/bulkhead-dev/bulkhead/internal/pki"
	"github.com/bulkhead-dev/bulkhead/local/golden"
	"github.com/bulkhead-dev/bulkhead/local/layout"
	"github.com/bulkhead-dev/bulkhead/local/process"
)

func TestServices(t *testing.T) {
	b := builder{layout.Layout{Root: "/src/bulkhead"}, layout.DefaultSettings()}
	services := []process.Service{b.registry(), b.etcd(), b.apiServer(), b.controllerManager(), b.scheduler()}
	for i, s := range services {
		if s.Name != Services()[i] {
			t.Errorf("service %d is %s, and Services lists %s", i, s.Name, Services()[i])
		}
		if err := s.Validate(); err != nil {
			t.Error(err)
		}
		golden.Check(t, s.Name+".txt", strings.Join(s.Command, "\n")+"\n\nreads when it starts:\n"+strings.Join(s.Inputs, "\n")+"\n")
	}
	golden.Check(t, "scheduler.yaml", b.schedulerConfig())
}

func TestPortsBelongToServices(t *testing.T) {
	known := map[string]bool{}
	for _, name := range Services() {
		known[name] = true
	}
	taken := map[string]bool{}
	for _, p := range Ports(layout.DefaultSettings()) {
		if !known[p.Service] || taken[p.Address.String()] {
			t.Errorf("%s listens on %s: not a service, or the address is taken", p.Service, p.Address)
		}
		taken[p.Address.String()] = true
	}
}

func readCert(t *testing.T, path string) *x509.Certificate {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := pki.ParseCertificate(data)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

// verifies tells whether the PEM authority vouches for the certificate.
func verifies(ca []byte, cert *x509.Certificate) bool {
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca)
	_, err := cert.Verify(x509.VerifyOptions{Roots: roots, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}})
	return err == nil
}

func TestCertify(t *testing.T) {
	l, s := layout.Layout{Root: t.TempDir()}, layout.DefaultSettings()
	a, err := Certify(l, s)
	if err != nil {
		t.Fatal(err)
	}
	authorities := map[string][]byte{
		"cluster": a.Cluster.Cert, "front proxy": a.FrontProxy.Cert, "etcd": a.Etcd.Cert, "registry": a.Registry.Cert,
	}
	for name, by := range map[string]string{
		"apiserver": "cluster", "apiserver-kubelet-client": "cluster", "controller-manager": "cluster", "scheduler": "cluster",
		"etcd": "etcd", "apiserver-etcd-client": "etcd", "front-proxy-client": "front proxy", "registry": "registry",
	} {
		cert := readCert(t, filepath.Join(l.PKI(), name+".crt"))
		for authority, ca := range authorities {
			if got, want := verifies(ca, cert), authority == by; got != want {
				t.Errorf("certificate %s by the authority of %s: valid %v, want %v", name, authority, got, want)
			}
		}
	}
	api := readCert(t, filepath.Join(l.PKI(), "apiserver.crt"))
	for _, host := range []string{s.HostIP().String(), s.APIServiceIP().String(), "kubernetes.default.svc"} {
		if err := api.VerifyHostname(host); err != nil {
			t.Error(err)
		}
	}

	data, err := os.ReadFile(l.SuperKubeconfig())
	if err != nil {
		t.Fatal(err)
	}
	config, err := kubeconfig.RESTConfig(data)
	if err != nil {
		t.Fatal(err)
	}
	if config.Host != s.APIServerURL() {
		t.Errorf("the kubeconfig leads to %s, want %s", config.Host, s.APIServerURL())
	}
	for _, pattern := range []string{filepath.Join(l.PKI(), "*.key"), l.SuperKubeconfig(), filepath.Join(l.PKI(), "*.kubeconfig")} {
		paths, err := filepath.Glob(pattern)
		if err != nil || len(paths) == 0 {
			t.Fatalf("%s: %v, %v", pattern, paths, err)
		}
		for _, path := range paths {
			info, err := os.Stat(path)
			if err != nil {
				t.Fatal(err)
			}
			if info.Mode().Perm() != 0o600 {
				t.Errorf("%s has mode %v, want 0600", path, info.Mode().Perm())
			}
		}
	}
}

// files returns the content of all files below dir.
func files(t *testing.T, dir string) map[string]string {
	t.Helper()
	found := map[string]string{}
	paths, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range paths {
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		found[filepath.Base(path)] = string(data)
	}
	return found
}

func TestCertifyKeepsWhatIsGood(t *testing.T) {
	l, s := layout.Layout{Root: t.TempDir()}, layout.DefaultSettings()
	if _, err := Certify(l, s); err != nil {
		t.Fatal(err)
	}
	before := files(t, l.PKI())
	if _, err := Certify(l, s); err != nil {
		t.Fatal(err)
	}
	for name, content := range files(t, l.PKI()) {
		if before[name] != content {
			t.Errorf("%s was made anew", name)
		}
	}

	// A lost leaf is made anew, by the same authority; nothing else changes.
	if err := os.Remove(filepath.Join(l.PKI(), "etcd.key")); err != nil {
		t.Fatal(err)
	}
	if _, err := Certify(l, s); err != nil {
		t.Fatal(err)
	}
	for name, content := range files(t, l.PKI()) {
		if changed, want := before[name] != content, name == "etcd.key" || name == "etcd.crt"; changed != want {
			t.Errorf("%s: changed %v, want %v", name, changed, want)
		}
	}

	if err := os.WriteFile(filepath.Join(l.PKI(), "ca.crt"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Certify(l, s); err == nil || !strings.Contains(err.Error(), "ca.crt") {
		t.Errorf("a broken authority: error %v, want one that names the file", err)
	}
}
