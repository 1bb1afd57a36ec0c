// Package test runs the hyperkube binary as its users do. It is apart from the
// main package so that testing does not compile Kubernetes a second time in
// another mode than the one that the binary is built in.
package test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// names are the programs that the binary must hold.
var names = []string{
	"etcd", "etcdctl", "etcdutl", "kube-apiserver", "kube-controller-manager",
	"kube-proxy", "kube-scheduler", "kubectl", "kubelet",
}

// binary is the hyperkube binary under test, links the folder of links to it.
var binary, links string

func TestMain(m *testing.M) { os.Exit(testMain(m)) }

func testMain(m *testing.M) int {
	dir, err := os.MkdirTemp("", "hyperkube")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	binary = filepath.Join(dir, "hyperkube")
	links = filepath.Join(dir, "links")
	if err := build(binary, links); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}

// build builds the binary as the README says, and a link to it for each name.
func build(binary, links string) error {
	ldflags, err := os.ReadFile("../ldflags")
	if err != nil {
		return err
	}
	cmd := exec.Command("go", "build", "-p", "2", "-trimpath", "-ldflags", strings.Join(strings.Fields(string(ldflags)), " "), "-o", binary, ".")
	cmd.Dir = ".."
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("building hyperkube: %w\n%s", err, out)
	}
	if err := os.Mkdir(links, 0o755); err != nil {
		return err
	}
	for _, name := range names {
		if err := os.Symlink(binary, filepath.Join(links, name)); err != nil {
			return err
		}
	}
	return nil
}

// run runs a program and returns its standard output, its standard error and
// its exit status.
func run(t *testing.T, program string, args ...string) (stdout, stderr string, status int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var out, errOut bytes.Buffer
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Stdout, cmd.Stderr = &out, &errOut
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatalf("running %s %q: %v", program, args, err)
	}
	return out.String(), errOut.String(), cmd.ProcessState.ExitCode()
}

// pinned returns the version of a module that hyperkube's go.mod requires.
func pinned(t *testing.T, module string) string {
	t.Helper()
	gomod, err := os.ReadFile("../go.mod")
	if err != nil {
		t.Fatal(err)
	}
	match := regexp.MustCompile(`(?m)^\s*(?:require )?` + regexp.QuoteMeta(module) + ` (v\S+)`).FindSubmatch(gomod)
	if match == nil {
		t.Fatalf("go.mod does not require %s", module)
	}
	return string(match[1])
}

// TestVersions runs every program, by link and by argument, and compares what
// it says of its version with what go.mod pins.
func TestVersions(t *testing.T) {
	kubernetes := pinned(t, "k8s.io/kubernetes")
	etcd := strings.TrimPrefix(pinned(t, "go.etcd.io/etcd/server/v3"), "v")
	tests := map[string]struct {
		args []string
		want string
	}{
		"etcd":                    {[]string{"--version"}, "etcd Version: " + etcd + "\nGit SHA: v" + etcd + "\n"},
		"etcdctl":                 {[]string{"version"}, "etcdctl version: " + etcd + "\n"},
		"etcdutl":                 {[]string{"version"}, "etcdutl version: " + etcd + "\n"},
		"kube-apiserver":          {[]string{"--version"}, "Kubernetes " + kubernetes + "\n"},
		"kube-controller-manager": {[]string{"--version"}, "Kubernetes " + kubernetes + "\n"},
		"kube-proxy":              {[]string{"--version"}, "Kubernetes " + kubernetes + "\n"},
		"kube-scheduler":          {[]string{"--version"}, "Kubernetes " + kubernetes + "\n"},
		"kubectl":                 {[]string{"version", "--client"}, "Client Version: " + kubernetes + "\n"},
		"kubelet":                 {[]string{"--version"}, "Kubernetes " + kubernetes + "\n"},
	}
	for _, name := range names {
		tt, ok := tests[name]
		if !ok {
			t.Errorf("%s: no case", name)
			continue
		}
		for how, command := range map[string][]string{
			"link":     append([]string{filepath.Join(links, name)}, tt.args...),
			"argument": append([]string{binary, name}, tt.args...),
		} {
			t.Run(name+"/"+how, func(t *testing.T) {
				stdout, stderr, status := run(t, command[0], command[1:]...)
				if status != 0 || !strings.HasPrefix(stdout, tt.want) {
					t.Errorf("exit status %d, output %q, want 0 and %q\n%s", status, stdout, tt.want, stderr)
				}
			})
		}
	}
}

// TestReplacesFollowKubernetes guards the one thing that is easily forgotten
// when Kubernetes is raised: v1.X.Y goes with staging modules v0.X.Y.
func TestReplacesFollowKubernetes(t *testing.T) {
	want := "v0" + strings.TrimPrefix(pinned(t, "k8s.io/kubernetes"), "v1")
	gomod, err := os.ReadFile("../go.mod")
	if err != nil {
		t.Fatal(err)
	}
	replaces := regexp.MustCompile(`(?m)^\s*(k8s\.io/\S+) => (\S+) (\S+)$`).FindAllStringSubmatch(string(gomod), -1)
	if len(replaces) == 0 {
		t.Fatal("go.mod has no replacements")
	}
	for _, r := range replaces {
		if r[1] != r[2] || r[3] != want {
			t.Errorf("%s is replaced by %s %s, want %s %s", r[1], r[2], r[3], r[1], want)
		}
	}
}

func TestSelection(t *testing.T) {
	tests := []struct {
		name   string
		args   []string
		status int
		stdout bool // whether the list of names is on stdout, or else on stderr
	}{
		{"no arguments", nil, 0, true},
		{"help", []string{"--help"}, 0, true},
		{"unknown program", []string{"kube-unknown"}, 2, false},
		{"unknown flag", []string{"--version"}, 2, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			stdout, stderr, status := run(t, binary, tt.args...)
			if status != tt.status {
				t.Errorf("exit status %d, want %d", status, tt.status)
			}
			list := "  " + strings.Join(names, "\n  ") + "\n"
			if strings.HasSuffix(stdout, list) != tt.stdout || strings.HasSuffix(stderr, list) == tt.stdout {
				t.Errorf("stdout %q, stderr %q, want the list of names on stdout: %v", stdout, stderr, tt.stdout)
			}
		})
	}
}

// TestKubectlIsUnchanged looks for what the other programs in the binary could
// do to kubectl: etcdctl turns on the matching of commands by prefix.
func TestKubectlIsUnchanged(t *testing.T) {
	kubectl := filepath.Join(links, "kubectl")
	_, stderr, status := run(t, kubectl, "versio", "--client")
	if status == 0 || !strings.Contains(stderr, `unknown command "versio" for "kubectl"`) {
		t.Errorf("kubectl versio: exit status %d, %q, want an unknown command", status, stderr)
	}
	_, stderr, _ = run(t, kubectl, "--help")
	if strings.Contains(stderr, "etcd") {
		t.Errorf("kubectl --help speaks of etcd:\n%s", stderr)
	}
}

// TestEtcdServes starts etcd as its container does, on unix sockets, and writes
// and reads a key through it.
func TestEtcdServes(t *testing.T) {
	// etcd takes "host:port" for the name of a socket in its working directory.
	dir := t.TempDir()
	const client, peer = "unix://client:1", "unix://peer:1"

	ctx, cancel := context.WithCancel(t.Context())
	var log bytes.Buffer
	etcd := exec.CommandContext(ctx, filepath.Join(links, "etcd"),
		"--data-dir", filepath.Join(dir, "data"),
		"--listen-client-urls", client, "--advertise-client-urls", client,
		"--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer,
		"--initial-cluster", "default="+peer)
	etcd.Dir, etcd.Stdout, etcd.Stderr = dir, &log, &log
	if err := etcd.Start(); err != nil {
		t.Fatal(err)
	}
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		_ = etcd.Wait() // the log says why
	}()
	t.Cleanup(func() {
		cancel()
		<-stopped
		if t.Failed() {
			t.Logf("etcd's log:\n%s", log.String())
		}
	})

	// etcdctl itself waits for etcd for as long as it is told to.
	etcdctl := func(args ...string) string {
		t.Helper()
		cmd := exec.CommandContext(ctx, filepath.Join(links, "etcdctl"), append([]string{
			"--endpoints", client, "--dial-timeout", "1m", "--command-timeout", "1m"}, args...)...)
		cmd.Dir = dir
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("etcdctl %q: %v\n%s", args, err, out)
		}
		return string(out)
	}
	etcdctl("put", "key", "value")
	if got := etcdctl("get", "key", "--print-value-only"); got != "value\n" {
		t.Errorf("get returned %q, want the value that was put", got)
	}
}
