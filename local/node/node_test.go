package node

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/yaml"

	"github.com/bulkhead-dev/bulkhead/internal/pki"
	"github.com/bulkhead-dev/bulkhead/local/golden"
	"github.com/bulkhead-dev/bulkhead/local/layout"
	"github.com/bulkhead-dev/bulkhead/local/process"
	"github.com/bulkhead-dev/bulkhead/local/superplane"
)

func testNode(root string) Node {
	s := layout.DefaultSettings()
	return Node{
		Node: s.NodeList()[0], layout: layout.Layout{Root: root}, settings: s,
		cni: filepath.Join(root, "bin", "cni"), restrictOOM: true,
	}
}

func TestRender(t *testing.T) {
	files, err := testNode("/src/bulkhead").render()
	if err != nil {
		t.Fatal(err)
	}
	for name, content := range files {
		golden.Check(t, filepath.Join("config", name), content)
		if filepath.Ext(name) == ".yaml" {
			if err := yaml.UnmarshalStrict([]byte(content), &map[string]any{}); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
}

func TestServices(t *testing.T) {
	n := testNode("/src/bulkhead")
	for i, s := range []process.Service{n.containerd(), n.criExt(), n.kubelet(), n.kubeProxy()} {
		if s.Name != ServiceNames(n.Name)[i] {
			t.Errorf("service %d is %s, and ServiceNames lists %s", i, s.Name, ServiceNames(n.Name)[i])
		}
		if err := s.Validate(); err != nil {
			t.Error(err)
		}
		golden.Check(t, s.Name+".txt", strings.Join(s.Command, "\n")+"\n\nreads when it starts:\n"+strings.Join(s.Inputs, "\n")+"\n")
	}
}

func TestWriteConfig(t *testing.T) {
	n := testNode(t.TempDir())
	a, err := superplane.LoadAuthorities(filepath.Join(n.layout.Root, "pki"))
	if err != nil {
		t.Fatal(err)
	}
	if err := n.makeSources(); err != nil {
		t.Fatal(err)
	}
	if err := n.writeConfig(a); err != nil {
		t.Fatal(err)
	}
	resolver := filepath.Join(n.config(), "resolv.conf")
	before, err := os.Stat(resolver)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(resolver, []byte("nameserver 192.0.2.254\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := n.writeConfig(a); err != nil {
		t.Fatal(err)
	}
	after, err := os.Stat(resolver)
	if err != nil {
		t.Fatal(err)
	}
	if !os.SameFile(before, after) {
		t.Error("resolv.conf became another file, and the one that is mounted in the node is never changed again")
	}
	data, err := os.ReadFile(filepath.Join(n.config(), "kubelet.crt"))
	if err != nil {
		t.Fatal(err)
	}
	cert, err := pki.ParseCertificate(data)
	if err != nil {
		t.Fatal(err)
	}
	if err := cert.VerifyHostname(n.IP.String()); err != nil {
		t.Errorf("kubelet's certificate: %v", err)
	}
}

func TestReachableServers(t *testing.T) {
	for name, tc := range map[string]struct{ text, want string }{
		"plain":       {"search corp.example\nnameserver 192.0.2.53\n", "nameserver 192.0.2.53\n"},
		"stub only":   {"nameserver 127.0.0.53\noptions edns0\n", ""},
		"mixed":       {"nameserver ::1\nnameserver 2001:db8::1\nnameserver 127.0.0.1\n", "nameserver 2001:db8::1\n"},
		"nonsense":    {"nameserver\nnameserver example.com\n# nameserver 192.0.2.1\n", ""},
		"empty":       {"", ""},
		"unspecified": {"nameserver 0.0.0.0\n", ""},
	} {
		if got := reachableServers(tc.text); got != tc.want {
			t.Errorf("%s: %q, want %q", name, got, tc.want)
		}
	}
}

func FuzzReachableServers(f *testing.F) {
	f.Add("nameserver 192.0.2.53\nnameserver 127.0.0.53\n")
	f.Fuzz(func(t *testing.T, text string) {
		for line := range strings.Lines(reachableServers(text)) {
			if !strings.HasPrefix(line, "nameserver ") || strings.Contains(line, " 127.") {
				t.Fatalf("line %q", line)
			}
		}
	})
}

func TestUpstreamResolver(t *testing.T) {
	dir := t.TempDir()
	stub, behind := filepath.Join(dir, "stub"), filepath.Join(dir, "real")
	for path, content := range map[string]string{stub: "nameserver 127.0.0.53\n", behind: "nameserver 192.0.2.53\n"} {
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if got := upstreamResolver([]string{filepath.Join(dir, "none"), stub, behind}); got != "nameserver 192.0.2.53\n" {
		t.Errorf("resolver %q, want the one behind the stub", got)
	}
	if got := upstreamResolver([]string{stub}); got != "" {
		t.Errorf("resolver %q, want none", got)
	}
}

func TestMayLowerOOMScore(t *testing.T) {
	for status, want := range map[string]bool{
		"Name:\tx\nCapEff:\t000001ffffffffff\nCapBnd:\t0\n": true,
		"Name:\tx\nCapEff:\t000001fffeffffff\nCapBnd:\t0\n": false,
		"CapEff:\tx\n": false,
		"":             false,
	} {
		if got := mayLowerOOMScore(status); got != want {
			t.Errorf("%q: %v, want %v", status, got, want)
		}
	}
}

func TestProxyEnvironment(t *testing.T) {
	n := testNode("/src/bulkhead")
	env := map[string]string{}
	getenv := func(name string) string { return env[name] }
	if got := n.proxyEnvironment(getenv); got != nil {
		t.Errorf("without a proxy: %v", got)
	}
	env["HTTPS_PROXY"], env["no_proxy"] = "http://proxy.example:3128", "corp.example"
	want := []string{"HTTPS_PROXY=http://proxy.example:3128", "NO_PROXY=172.31.77.0/24,10.77.0.0/16,10.78.0.0/16,corp.example"}
	if diff := cmp.Diff(want, n.proxyEnvironment(getenv)); diff != "" {
		t.Errorf("environment (-want +got):\n%s", diff)
	}
}
