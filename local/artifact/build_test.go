package artifact

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/bulkhead-dev/bulkhead/local/progress"
)

// steps collects what a build reports.
type steps struct {
	mu    sync.Mutex
	lines []string
}

func (s *steps) step(format string, a ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lines = append(s.lines, fmt.Sprintf(format, a...))
}

// newTree makes a work tree of our own programs, each of which prints its name.
func newTree(t *testing.T) (root string) {
	t.Helper()
	root = t.TempDir()
	write(t, filepath.Join(root, "go.mod"), "module example.com/tree\n\ngo 1.26.0\n")
	for _, dir := range own {
		write(t, filepath.Join(root, dir, "main.go"), fmt.Sprintf("package main\n\nfunc main() { println(%q) }\n", path.Base(dir)))
	}
	return root
}

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

func output(t *testing.T, program string, args ...string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), program, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("running %s %q: %v\n%s", program, args, err, out)
	}
	return string(out)
}

// TestUpstreamProgram builds one for real and looks when it is built again.
func TestUpstreamProgram(t *testing.T) {
	root, logs := t.TempDir(), t.TempDir()
	write(t, filepath.Join(root, "go.mod"), "module example.com/tree\n\ngo 1.26.0\n")
	const name = "loopback"
	program := filepath.Join(root, "bin", cniDir, name)
	build := func() os.FileInfo {
		t.Helper()
		got, err := BuildOnly(t.Context(), root, logs, new(steps).step, name)
		if err != nil {
			t.Fatal(err)
		}
		want := Programs{
			Bin: filepath.Join(root, "bin"), CNI: filepath.Join(root, "bin/cni"),
			Pause: filepath.Join(root, "bin/pause"), Busybox: filepath.Join(root, "bin/busybox"),
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("programs (-want +got):\n%s", diff)
		}
		info, err := os.Stat(program)
		if err != nil {
			t.Fatal(err)
		}
		return info
	}
	first := build()
	if got := output(t, program); !strings.Contains(got, "CNI loopback plugin "+cniPlugins.version) {
		t.Errorf("%s says %q", name, got)
	}
	content, err := os.ReadFile(program)
	if err != nil {
		t.Fatal(err)
	}

	if second := build(); !os.SameFile(first, second) {
		t.Error("built again although nothing had changed")
	}

	stamp := filepath.Join(root, "bin", ".stamp", name)
	for what, change := range map[string]func() error{
		"the program is gone":    func() error { return os.Remove(program) },
		"the program is cut off": func() error { return os.Truncate(program, 100) },
		"the stamp is gone":      func() error { return os.Remove(stamp) },
		"the stamp is another's": func() error { return os.WriteFile(stamp, []byte("0 0\n"), 0o644) },
	} {
		if err := change(); err != nil {
			t.Fatal(err)
		}
		build()
		again, err := os.ReadFile(program)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(content, again) {
			t.Errorf("after %s, the program differs from the first one", what)
		}
	}
}

func TestStampCoversWhatDecides(t *testing.T) {
	root := t.TempDir()
	for _, name := range []string{"go.mod", "go.sum", "ldflags", "main.go"} {
		write(t, filepath.Join(root, "kube", name), name)
	}
	base := upstream{module: module{"example.com/m", "v1.0.0", "h1:x"}, pkg: "cmd/p", ldflags: "-s", tags: "a"}
	with := func(change func(*upstream)) source { u := base; change(&u); return u }
	b := &builder{root: root, tools: toolchain{identity: "go1 linux/amd64"}}
	seen := map[string]string{}
	add := func(what string, b *builder, p program) {
		t.Helper()
		stamp, err := b.stamp(p)
		if err != nil {
			t.Fatal(err)
		}
		if other, ok := seen[stamp]; ok {
			t.Errorf("%s and %s have the same stamp", what, other)
		}
		seen[stamp] = what
	}
	add("the program", b, program{name: "p", from: base})
	add("another name", b, program{name: "q", from: base})
	add("another toolchain", &builder{root: root, tools: toolchain{identity: "go2"}}, program{name: "p", from: base})
	for what, change := range map[string]func(*upstream){
		"module":           func(u *upstream) { u.module.path = "example.com/n" },
		"version":          func(u *upstream) { u.module.version = "v1.0.1" },
		"checksum":         func(u *upstream) { u.module.sum = "h1:y" },
		"package":          func(u *upstream) { u.pkg = "cmd/q" },
		"linker flags":     func(u *upstream) { u.ldflags = "" },
		"tags":             func(u *upstream) { u.tags = "b" },
		"cgo":              func(u *upstream) { u.cgo = true },
		"kind of output":   func(u *upstream) { u.pie = true },
		"swapped settings": func(u *upstream) { u.ldflags, u.tags = u.tags, u.ldflags },
	} {
		add("another "+what, b, program{name: "p", from: with(change)})
	}
	add("a nested module", b, program{name: "p", from: nested{dir: "kube"}})
	for _, name := range []string{"go.mod", "go.sum", "ldflags", "main.go", "new.go"} {
		write(t, filepath.Join(root, "kube", name), "changed")
		add("a nested module with another "+name, b, program{name: "p", from: nested{dir: "kube"}})
	}
}

func TestChecksumIsCompared(t *testing.T) {
	root := t.TempDir()
	tools, err := findToolchain(t.Context(), root)
	if err != nil {
		t.Fatal(err)
	}
	b := &builder{root: root, bin: root, logDir: root, step: new(steps).step, tools: tools}
	if err := b.emptyScratch(); err != nil {
		t.Fatal(err)
	}
	other := cniPlugins
	other.sum = "h1:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="
	err = b.make(t.Context(), program{name: "p", from: upstream{module: other, pkg: "plugins/main/loopback"}})
	var logged *progress.LogError
	if !errors.As(err, &logged) || !strings.Contains(err.Error(), cniPlugins.sum) || !strings.Contains(err.Error(), other.sum) || logged.Hint == "" {
		t.Errorf("error is %v, want one that names both checksums and has a hint", err)
	}
	if _, err := os.Stat(filepath.Join(root, "p")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the program was built nevertheless (stat: %v)", err)
	}
}

func TestModuleThatDoesNotExist(t *testing.T) {
	root := t.TempDir()
	tools, err := findToolchain(t.Context(), root)
	if err != nil {
		t.Fatal(err)
	}
	b := &builder{root: root, bin: root, logDir: root, step: new(steps).step, tools: tools}
	missing := cniPlugins
	missing.version = "v99.99.99"
	err = b.make(t.Context(), program{name: "p", from: upstream{module: missing, pkg: "."}})
	var logged *progress.LogError
	if !errors.As(err, &logged) || !strings.Contains(err.Error(), missing.path+"@v99.99.99") {
		t.Fatalf("error is %v, want a LogError that names the module", err)
	}
	if log, err := os.ReadFile(logged.Log); err != nil || !strings.Contains(string(log), "v99.99.99") {
		t.Errorf("the log holds %q (%v), want what the Go tool said", log, err)
	}
}

func TestOwnPrograms(t *testing.T) {
	root, logs := newTree(t), t.TempDir()
	build := func() error {
		_, err := BuildOnly(t.Context(), root, logs, new(steps).step, Own()...)
		return err
	}
	if err := build(); err != nil {
		t.Fatal(err)
	}
	for _, name := range Own() {
		if got := output(t, filepath.Join(root, "bin", name)); got != name+"\n" {
			t.Errorf("%s prints %q", name, got)
		}
	}

	source := filepath.Join(root, own[0], "main.go")
	write(t, source, "package main\n\nfunc main() { println(\"changed\") }\n")
	if err := build(); err != nil {
		t.Fatal(err)
	}
	if got := output(t, filepath.Join(root, "bin", own[0])); got != "changed\n" {
		t.Errorf("%s prints %q after a change", own[0], got)
	}

	write(t, source, "package main\n\nfunc main() { undefined() }\n")
	err := build()
	var logged *progress.LogError
	if !errors.As(err, &logged) {
		t.Fatalf("error is %v, want a LogError", err)
	}
	if log, err := os.ReadFile(logged.Log); err != nil || !strings.Contains(string(log), "undefined: undefined") {
		t.Errorf("the log holds %q (%v), want what the compiler said", log, err)
	}
	if got := output(t, filepath.Join(root, "bin", own[0])); got != "changed\n" {
		t.Errorf("%s prints %q after a build that failed, want the old program", own[0], got)
	}

	if err := os.RemoveAll(filepath.Join(root, own[1])); err != nil {
		t.Fatal(err)
	}
	if err := build(); err == nil || !strings.Contains(err.Error(), "there is no folder "+filepath.Join(root, own[1])) {
		t.Errorf("error is %v, want one that names the missing folder", err)
	}
}

func TestUnknownProgram(t *testing.T) {
	_, err := BuildOnly(t.Context(), t.TempDir(), t.TempDir(), new(steps).step, "containerd", "no-such")
	if err == nil || !strings.Contains(err.Error(), `"no-such"`) {
		t.Errorf("error is %v, want one that names no-such", err)
	}
}

func TestBuildsOfOneTreeWait(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	var first steps
	unlock, err := lock(t.Context(), path, first.step)
	if err != nil {
		t.Fatal(err)
	}
	if len(first.lines) != 0 {
		t.Errorf("the first reports %q", first.lines)
	}

	waiting, cancel := context.WithCancel(t.Context())
	if _, err := lock(waiting, path, func(string, ...any) { cancel() }); !errors.Is(err, context.Canceled) {
		t.Errorf("a second whose context ends returns %v, want context.Canceled", err)
	}

	unlockThird, err := lock(t.Context(), path, func(string, ...any) { unlock() })
	if err != nil {
		t.Fatalf("a third cannot lock once the first has unlocked: %v", err)
	}
	unlockThird()
}

func TestCancelledBuildEnds(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := BuildOnly(ctx, newTree(t), t.TempDir(), new(steps).step, own[0]); !errors.Is(err, context.Canceled) {
		t.Errorf("error is %v, want context.Canceled", err)
	}
}
