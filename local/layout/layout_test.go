package layout

import (
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestFind(t *testing.T) {
	root, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	deep := filepath.Join(root, "tree", "a", "b")
	nested := filepath.Join(root, "tree", "hyperkube")
	for _, dir := range []string{deep, nested, filepath.Join(root, "other")} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for path, module := range map[string]string{
		"tree/go.mod":           "github.com/bulkhead-dev/bulkhead",
		"tree/hyperkube/go.mod": "github.com/bulkhead-dev/bulkhead/hyperkube",
		"other/go.mod":          "example.com/other",
	} {
		if err := os.WriteFile(filepath.Join(root, path), []byte("module "+module+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(deep, filepath.Join(root, "link")); err != nil {
		t.Fatal(err)
	}
	want := Layout{Root: filepath.Join(root, "tree")}
	for _, dir := range []string{want.Root, deep, nested, filepath.Join(root, "link")} {
		if got, err := Find(dir); err != nil || got != want {
			t.Errorf("from %s: %v, %v; want %v", dir, got, err, want)
		}
	}
	if _, err := Find(filepath.Join(root, "other")); err == nil || !strings.Contains(err.Error(), "--root") {
		t.Errorf("outside of a work tree: error %v, want one that says what to do", err)
	}
}

func TestAddresses(t *testing.T) {
	s := DefaultSettings()
	want := []Node{
		{"node-1", netip.MustParseAddr("172.31.77.11"), netip.MustParsePrefix("10.78.1.0/24")},
		{"node-2", netip.MustParseAddr("172.31.77.12"), netip.MustParsePrefix("10.78.2.0/24")},
	}
	if diff := cmp.Diff(want, s.NodeList(), cmp.Comparer(func(a, b netip.Addr) bool { return a == b }),
		cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); diff != "" {
		t.Errorf("nodes (-want +got):\n%s", diff)
	}
	for got, want := range map[string]string{
		s.HostIP().String(): "172.31.77.1", s.APIServiceIP().String(): "10.77.0.1", s.DNSServiceIP().String(): "10.77.0.10",
		s.APIServerURL(): "https://172.31.77.1:6443", s.RegistryAddress(): "172.31.77.1:5000",
	} {
		if got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}

func TestFromEnvironment(t *testing.T) {
	for name, tc := range map[string]struct {
		env  map[string]string
		want string // in the error; empty for none
	}{
		"nothing set":        {nil, ""},
		"all moved":          {map[string]string{EnvNodeCIDR: "192.168.7.0/24", EnvServiceCIDR: "10.1.0.0/16", EnvPodCIDR: "10.2.0.0/15"}, ""},
		"no network":         {map[string]string{EnvNodeCIDR: "hello"}, EnvNodeCIDR},
		"an address":         {map[string]string{EnvPodCIDR: "10.2.3.4/16"}, "10.2.0.0/16"},
		"IPv6":               {map[string]string{EnvPodCIDR: "fd00::/16"}, "IPv4"},
		"too small for pods": {map[string]string{EnvPodCIDR: "10.2.0.0/24"}, "/16"},
		"nodes not /24":      {map[string]string{EnvNodeCIDR: "10.0.0.0/16"}, "/24"},
		"too wide":           {map[string]string{EnvServiceCIDR: "0.0.0.0/0"}, "/12"},
		"overlap":            {map[string]string{EnvServiceCIDR: "10.78.4.0/24"}, "overlap"},
	} {
		s, err := FromEnvironment(func(name string) string { return tc.env[name] })
		if tc.want != "" {
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("%s: error %v, want %q in it", name, err, tc.want)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if v := tc.env[EnvPodCIDR]; v != "" && s.PodCIDR.String() != v {
			t.Errorf("%s: pods get %s, want %s", name, s.PodCIDR, v)
		}
	}
}

func TestSettingsAreKept(t *testing.T) {
	file := filepath.Join(t.TempDir(), "settings.json")
	if _, ok, err := LoadSettings(file); ok || err != nil {
		t.Fatalf("settings before there are any: %v, %v", ok, err)
	}
	want := DefaultSettings()
	data, err := want.Encode()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, data, 0o600); err != nil {
		t.Fatal(err)
	}
	got, ok, err := LoadSettings(file)
	if got != want || !ok || err != nil {
		t.Errorf("got %v, %v, %v; want %v", got, ok, err, want)
	}
}

func FuzzParseSettings(f *testing.F) {
	data, err := DefaultSettings().Encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Add([]byte(`{"nodes":-1}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := ParseSettings(data)
		if err != nil {
			return
		}
		for _, n := range s.NodeList() {
			if !s.NodeCIDR.Contains(n.IP) || !s.PodCIDR.Overlaps(n.PodCIDR) {
				t.Fatalf("node %v is outside of %v", n, s)
			}
		}
		if !s.ServiceCIDR.Contains(s.DNSServiceIP()) {
			t.Fatalf("DNS %s is outside of %s", s.DNSServiceIP(), s.ServiceCIDR)
		}
	})
}
