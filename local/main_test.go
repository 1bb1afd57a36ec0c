package main

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/bulkhead-dev/bulkhead/local/layout"
	"github.com/bulkhead-dev/bulkhead/local/process"
)

func TestChooseSettings(t *testing.T) {
	l := layout.Layout{Root: t.TempDir()}
	env := map[string]string{}
	getenv := func(name string) string { return env[name] }

	if s, err := chooseSettings(l, getenv); err != nil || s != layout.DefaultSettings() {
		t.Fatalf("the first time: %v, %v; want the defaults", s, err)
	}
	env[layout.EnvPodCIDR] = "10.90.0.0/16"
	first, err := chooseSettings(l, getenv)
	if err != nil || first.PodCIDR.String() != "10.90.0.0/16" {
		t.Fatalf("with another pod network: %v, %v", first, err)
	}
	data, err := first.Encode()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(l.State(), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(l.SettingsFile(), data, 0o600); err != nil {
		t.Fatal(err)
	}

	delete(env, layout.EnvPodCIDR)
	if s, err := chooseSettings(l, getenv); err != nil || s != first {
		t.Errorf("without the environment: %v, %v; want what the cluster was made with", s, err)
	}
	env[layout.EnvPodCIDR] = "10.91.0.0/16"
	if _, err := chooseSettings(l, getenv); err == nil || !strings.Contains(err.Error(), layout.EnvPodCIDR) || !strings.Contains(err.Error(), "local down") {
		t.Errorf("changing the network of a cluster: error %v, want one that says what to do", err)
	}
}

func TestMountPoints(t *testing.T) {
	const mountinfo = `27 1 254:0 / / rw - ext4 /dev/vda rw
40 27 0:50 / /src/bulk\040head/.local/x rw - tmpfs tmpfs rw
41 27 0:51 / /src/bulk\040head/.localhost rw - tmpfs tmpfs rw
42 27 0:52 / /src/bulk\040head/.local rw - tmpfs tmpfs rw
`
	want := []string{"/src/bulk head/.local/x", "/src/bulk head/.local"}
	if diff := cmp.Diff(want, mountPoints(mountinfo, "/src/bulk head/.local")); diff != "" {
		t.Errorf("mounts (-want +got):\n%s", diff)
	}
}

func FuzzMountPoints(f *testing.F) {
	f.Add("40 27 0:50 / /a\\040b/c rw - tmpfs tmpfs rw\n", "/a b")
	f.Fuzz(func(t *testing.T, mountinfo, dir string) {
		for _, at := range mountPoints(mountinfo, dir) {
			if !strings.HasPrefix(at, dir) {
				t.Fatalf("%q is not in %q", at, dir)
			}
		}
	})
}

func TestServiceState(t *testing.T) {
	self, err := process.Identify(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	for want, state := range map[string]process.State{
		"running":                  {Supervisor: self, Child: self},
		"restarting (exit status)": {Supervisor: self, LastExit: "exit status"},
		"unsupervised":             {Child: self},
		"dead":                     {},
	} {
		if got := serviceState(state); got != want {
			t.Errorf("%+v is %q, want %q", state, got, want)
		}
	}
}

func TestStatusWithoutACluster(t *testing.T) {
	err := status(context.Background(), layout.Layout{Root: t.TempDir()}, &strings.Builder{})
	if err == nil || !strings.Contains(err.Error(), "make up") {
		t.Errorf("error %v, want one that says what to do", err)
	}
}

func TestStatusOfADeadCluster(t *testing.T) {
	l := layout.Layout{Root: t.TempDir()}
	data, err := layout.DefaultSettings().Encode()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(l.State(), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(l.SettingsFile(), data, 0o600); err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	if err := status(context.Background(), l, &out); err == nil {
		t.Error("a dead cluster is no error")
	}
	for _, want := range []string{"kube-apiserver           dead", "node-2-kubelet           dead", "super.kubeconfig"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the status does not say %q:\n%s", want, out.String())
		}
	}
}

func TestLockTree(t *testing.T) {
	l := layout.Layout{Root: t.TempDir()}
	lock, err := lockTree(l)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := lockTree(l); err == nil || !strings.Contains(err.Error(), "wait for its end") {
		t.Errorf("a second lock: error %v, want that another is at work", err)
	}
	if err := lock.Close(); err != nil {
		t.Fatal(err)
	}
	if lock, err = lockTree(l); err != nil {
		t.Fatal(err)
	}
	if err := lock.Close(); err != nil {
		t.Fatal(err)
	}
	if left, err := filepath.Glob(filepath.Join(l.Root, "*")); err != nil || len(left) > 0 {
		t.Errorf("the lock left %v, %v", left, err)
	}
}

func TestInstallSelf(t *testing.T) {
	l := layout.Layout{Root: t.TempDir()}
	for range 2 {
		if err := installSelf(l); err != nil {
			t.Fatal(err)
		}
		info, err := os.Stat(l.LocalProgram())
		if err != nil || info.Mode().Perm() != 0o755 || info.Size() == 0 {
			t.Fatalf("%v, %v", info, err)
		}
	}
}
