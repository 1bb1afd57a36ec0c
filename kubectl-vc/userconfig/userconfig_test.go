package userconfig

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/bulkhead-dev/bulkhead/internal/kubeconfig"
	"github.com/bulkhead-dev/bulkhead/internal/pki"
)

var update = flag.Bool("update", false, "write golden files anew")

var demo = Identity{SuperCluster: "https://super.example:6443", VirtualCluster: "tenants/demo"}

// fixed is a kubeconfig whose certificates are the same in each run; nothing here
// connects with them.
func fixed(t *testing.T, server string) []byte {
	t.Helper()
	data, err := kubeconfig.Encode(kubeconfig.Config{
		Name: "demo", Server: server, CA: []byte("ca of " + server), User: "kubernetes-admin",
		Client: pki.Pair{Cert: []byte("certificate"), Key: []byte("key")}, Namespace: "default",
	})
	if err != nil {
		t.Fatal(err)
	}
	return data
}

const existing = `apiVersion: v1
kind: Config
clusters:
- name: work
  cluster: {server: "https://work.example", certificate-authority: relative/ca.crt}
contexts:
- name: work
  context: {cluster: work, user: me, namespace: team}
current-context: work
users:
- name: me
  user:
    exec: {apiVersion: client.authentication.k8s.io/v1, command: login, interactiveMode: Never}
`

func TestMerge(t *testing.T) {
	for name, tc := range map[string]struct {
		before string
		name   string
		twice  bool
	}{
		"new-file": {name: "demo"},
		"existing": {before: existing, name: "tenants-demo"},
		// The second time at another address, as after making the cluster anew.
		"again": {before: existing, name: "tenants-demo", twice: true},
	} {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "folder", "config")
			if tc.before != "" {
				write(t, file, tc.before)
			}
			if err := Merge(t.Context(), file, tc.name, demo, fixed(t, "https://10.0.0.1:6443")); err != nil {
				t.Fatal(err)
			}
			if tc.twice {
				if err := Merge(t.Context(), file, tc.name, demo, fixed(t, "https://10.0.0.2:6443")); err != nil {
					t.Fatal(err)
				}
			}
			golden(t, "testdata/"+name+".yaml", read(t, file))
			info, err := os.Stat(file)
			if err != nil {
				t.Fatal(err)
			}
			if info.Mode().Perm() != 0o600 {
				t.Errorf("mode %v", info.Mode())
			}
			left, err := filepath.Glob(filepath.Join(filepath.Dir(file), "*"))
			if err != nil || len(left) != 1 {
				t.Errorf("files left: %v, %v", left, err)
			}
		})
	}
}

func TestForeignEntriesStay(t *testing.T) {
	mine := filepath.Join(t.TempDir(), "mine")
	if err := Merge(t.Context(), mine, "demo", demo, fixed(t, "https://10.0.0.1:6443")); err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		before   string
		name     string
		identity Identity
		kind     string
	}{
		"foreign context": {existing, "work", demo, "context"},
		"foreign user":    {existing, "me", demo, "user"},
		"foreign cluster": {strings.ReplaceAll(existing, "name: work\n  cluster", "name: other\n  cluster"), "other", demo, "cluster"},
		"same name in another super cluster": {
			read(t, mine), "demo", Identity{SuperCluster: "https://elsewhere.example", VirtualCluster: demo.VirtualCluster}, "context",
		},
		"another virtual cluster": {read(t, mine), "demo", Identity{SuperCluster: demo.SuperCluster, VirtualCluster: "other/demo"}, "context"},
		"mark of another kind": {
			strings.ReplaceAll(existing, "namespace: team", "namespace: team, extensions: [{name: "+extension+", extension: 7}]"), "work", demo, "context",
		},
	} {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "config")
			write(t, file, tc.before)
			err := Merge(t.Context(), file, tc.name, tc.identity, fixed(t, "https://10.0.0.9:6443"))
			var foreign *ForeignError
			if !errors.As(err, &foreign) || foreign.Kind != tc.kind || foreign.Name != tc.name {
				t.Errorf("got %v", err)
			}
			if diff := cmp.Diff(tc.before, read(t, file)); diff != "" {
				t.Errorf("the file changed:\n%s", diff)
			}
		})
	}
}

func TestUnusableInput(t *testing.T) {
	good := fixed(t, "https://10.0.0.1:6443")
	for name, tc := range map[string]struct {
		before  string
		content string
		want    string
	}{
		"damaged file":     {"{", string(good), "parsing"},
		"runs a program":   {"", existing, "cannot be merged"},
		"empty kubeconfig": {"", "", "cannot be merged"},
	} {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "config")
			write(t, file, tc.before)
			if err := Merge(t.Context(), file, "demo", demo, []byte(tc.content)); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v", err)
			}
			if got := read(t, file); got != tc.before {
				t.Errorf("the file is now %q", got)
			}
		})
	}
}

func TestSymbolicLinkStays(t *testing.T) {
	folder := t.TempDir()
	target, link := filepath.Join(folder, "real"), filepath.Join(folder, "config")
	write(t, target, existing)
	if err := os.Chmod(target, 0o640); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("real", link); err != nil {
		t.Fatal(err)
	}
	if err := Merge(t.Context(), link, "demo", demo, fixed(t, "https://10.0.0.1:6443")); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Lstat(link); err != nil || info.Mode()&os.ModeSymlink == 0 {
		t.Errorf("the link became %v, %v", info.Mode(), err)
	}
	if info, err := os.Stat(target); err != nil || info.Mode().Perm() != 0o640 {
		t.Errorf("the target's mode became %v, %v", info.Mode(), err)
	}
	if !strings.Contains(read(t, target), "name: demo") {
		t.Error("the target was not changed")
	}
	if err := os.Remove(target); err != nil {
		t.Fatal(err)
	}
	if err := Merge(t.Context(), link, "demo", demo, fixed(t, "https://10.0.0.1:6443")); err == nil || !strings.Contains(err.Error(), "link to nowhere") {
		t.Errorf("got %v", err)
	}
}

// Many at once: nothing is lost.
func TestConcurrentChanges(t *testing.T) {
	file := filepath.Join(t.TempDir(), "config")
	write(t, file, existing)
	var group sync.WaitGroup
	for i := range 8 {
		group.Go(func() {
			identity := Identity{SuperCluster: demo.SuperCluster, VirtualCluster: fmt.Sprintf("tenants/t%d", i)}
			if err := Merge(t.Context(), file, fmt.Sprintf("t%d", i), identity, fixed(t, "https://10.0.0.1:6443")); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	config, err := clientcmd.LoadFromFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if len(config.Contexts) != 9 || config.CurrentContext != "work" {
		t.Errorf("%d contexts, current %q", len(config.Contexts), config.CurrentContext)
	}
}

func TestLockOfAnotherProgram(t *testing.T) {
	file := filepath.Join(t.TempDir(), "config")
	write(t, file+".lock", "")
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	err := Merge(ctx, file, "demo", demo, fixed(t, "https://10.0.0.1:6443"))
	if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), file) {
		t.Errorf("got %v", err)
	}
	if _, err := os.Stat(file); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("wrote in spite of the lock: %v", err)
	}
	if _, err := os.Stat(file + ".lock"); err != nil {
		t.Errorf("took the other's lock away: %v", err)
	}
}

// Whatever is in the user's file: merging keeps every entry, or refuses.
func FuzzMerge(f *testing.F) {
	f.Add(existing)
	f.Add("")
	f.Add("contexts: [{name: demo, context: {extensions: [{name: x, extension: []}]}}]")
	f.Add("contexts: [{name: demo, context: {extensions: [{name: " + extension + ", extension: {superCluster: x}}]}}]")
	from, err := clientcmd.Load([]byte(existing))
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, before string) {
		data, err := merged([]byte(before), from, "config", "demo", demo)
		if err != nil {
			return
		}
		now, err := clientcmd.Load(data)
		if err != nil {
			t.Fatalf("wrote what cannot be read: %v", err)
		}
		if now.Contexts["demo"] == nil || now.CurrentContext == "" {
			t.Fatal("the context was not added")
		}
		old, err := parse([]byte(before))
		if err != nil {
			t.Fatalf("merged into what cannot be read: %v", err)
		}
		for name := range old.Contexts {
			if now.Contexts[name] == nil {
				t.Fatalf("lost context %q", name)
			}
		}
		for name := range old.Clusters {
			if now.Clusters[name] == nil {
				t.Fatalf("lost cluster %q", name)
			}
		}
		for name := range old.AuthInfos {
			if now.AuthInfos[name] == nil {
				t.Fatalf("lost user %q", name)
			}
		}
	})
}

func golden(t *testing.T, file, got string) {
	t.Helper()
	if *update {
		write(t, file, got)
	}
	if diff := cmp.Diff(read(t, file), got); diff != "" {
		t.Errorf("%s (-update writes it anew):\n%s", file, diff)
	}
}

func read(t *testing.T, file string) string {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func write(t *testing.T, file, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}
