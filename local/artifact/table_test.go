package artifact

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

func TestTable(t *testing.T) {
	sum := regexp.MustCompile(`^h1:[A-Za-z0-9+/]{43}=$`)
	seen := map[string]bool{}
	for _, name := range Own() {
		seen[name] = true
	}
	for _, p := range table {
		for _, name := range append([]string{p.name}, p.links...) {
			if seen[name] {
				t.Errorf("%s is there twice", name)
			}
			seen[name] = true
		}
		var m module
		switch from := p.from.(type) {
		case upstream:
			m = from.module
			if from.cgo != (len(p.packages) > 0) {
				t.Errorf("%s: cgo is %v and its packages are %v", p.name, from.cgo, p.packages)
			}
		case pauseC:
			m = from.module
		case nested:
			m = from.module
			gomod, err := os.ReadFile(filepath.Join("../..", from.dir, "go.mod"))
			if err != nil {
				t.Fatal(err)
			}
			if !strings.Contains(string(gomod), m.path+" "+m.version+"\n") {
				t.Errorf("the go.mod of %s does not require %s %s", from.dir, m.path, m.version)
			}
			gosum, err := os.ReadFile(filepath.Join("../..", from.dir, "go.sum"))
			if err != nil {
				t.Fatal(err)
			}
			if !strings.Contains(string(gosum), m.path+" "+m.version+" "+m.sum+"\n") {
				t.Errorf("the go.sum of %s has another checksum of %s than the table", from.dir, m.path)
			}
		case debian:
			continue
		}
		if !sum.MatchString(m.sum) {
			t.Errorf("%s: %q is no checksum of a module", p.name, m.sum)
		}
		if Version(p.name) == "" {
			t.Errorf("%s has no version", p.name)
		}
	}
	if got := Version("no-such"); got != "" {
		t.Errorf("no-such has version %q", got)
	}
}

// TestProgramsTellTheirVersions asks the programs of this work tree what they
// are. It builds those that are missing or stale, which takes a quarter of an
// hour unless make build came before.
func TestProgramsTellTheirVersions(t *testing.T) {
	tests := map[string]struct {
		args []string
		want string
	}{
		"hyperkube":               {[]string{"kube-apiserver", "--version"}, "Kubernetes " + kubernetes.version},
		"containerd":              {[]string{"--version"}, containerd.version},
		"containerd-shim-runc-v2": {[]string{"-v"}, containerd.version},
		"ctr":                     {[]string{"--version"}, containerd.version},
		"runc":                    {[]string{"--version"}, "runc version " + strings.TrimPrefix(runc.version, "v") + "\n"},
		"pause":                   {[]string{"-v"}, "pause.c v3.10.1\n"},
		"busybox":                 {nil, "BusyBox v1."},
		"bridge":                  {nil, "CNI bridge plugin " + cniPlugins.version},
		"host-local":              {nil, "CNI host-local plugin " + cniPlugins.version},
		"loopback":                {nil, "CNI loopback plugin " + cniPlugins.version},
		"portmap":                 {nil, "CNI portmap plugin " + cniPlugins.version},
		"ptp":                     {nil, "CNI ptp plugin " + cniPlugins.version},
		"helm":                    {[]string{"version", "--short"}, helm.version},
		"coredns":                 {[]string{"-version"}, "CoreDNS-" + strings.TrimPrefix(coreDNS.version, "v")},
		"local-path-provisioner":  {[]string{"--version"}, localPath.version},
		"metrics-server":          {[]string{"--version"}, metrics.version},
		"agnhost":                 {[]string{"--version"}, "app version"},
		"sample-apiserver":        {[]string{"--help"}, "--etcd-servers"},
		"golangci-lint":           {[]string{"--version"}, strings.TrimPrefix(golangciLint.version, "v")},
		"controller-gen":          {[]string{"--version"}, controllerTools.version},
	}
	var names []string
	for _, p := range table {
		names = append(names, p.name)
	}
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	programs, err := BuildOnly(t.Context(), root, t.TempDir(), t.Logf, names...)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range table {
		tt, ok := tests[p.name]
		if !ok {
			t.Errorf("%s: no case", p.name)
			continue
		}
		t.Run(p.name, func(t *testing.T) {
			if got := output(t, filepath.Join(programs.Bin, p.dir, p.name), tt.args...); !strings.Contains(got, tt.want) {
				t.Errorf("%q prints %q, want %q", tt.args, got, tt.want)
			}
		})
	}
	// runc without seccomp would fail pods that have a seccomp profile.
	if got := output(t, filepath.Join(programs.Bin, "runc"), "--version"); !strings.Contains(got, "libseccomp: ") {
		t.Errorf("runc is without seccomp: %q", got)
	}
	if got := output(t, filepath.Join(programs.Bin, "kubectl"), "version", "--client"); !strings.Contains(got, "Client Version: "+kubernetes.version) {
		t.Errorf("kubectl prints %q", got)
	}
}
