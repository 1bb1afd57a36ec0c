//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// TestShutdown ends the run (tests run in the order of their files): the
// cluster survives the death of all its processes, and down leaves nothing.
func TestShutdown(t *testing.T) {
	t.Run("kill-everything", killEverything)
	t.Run("down", downLeavesNothing)
}

// killEverything kills every process of the cluster, containers included, as a
// crash of the machine would, and brings it up again: the demo tenant and its
// data are there as before.
func killEverything(t *testing.T) {
	demo := openTenant(t, "tenants", "demo")
	demo.kubectl(t, "create", "configmap", "kept", "--from-literal=a=b")
	// Supervisors restart what they can until they are dead too.
	eventually(t, time.Minute, "all processes are dead", func(context.Context) error {
		pids := clusterProcesses(t)
		for _, pid := range pids {
			_ = syscall.Kill(pid, syscall.SIGKILL) // it may be gone already
		}
		if len(pids) > 0 {
			return fmt.Errorf("%d processes live", len(pids))
		}
		return nil
	})
	if err := local(t.Context(), "up"); err != nil {
		t.Fatalf("up after kill -9 of everything: %v", err)
	}
	if err := connect(); err != nil {
		t.Fatal(err)
	}
	eventually(t, 3*time.Minute, "the demo tenant works again", func(ctx context.Context) error {
		if err := demo.client.Get(ctx, client.ObjectKey{Namespace: "default", Name: "kept"}, &corev1.ConfigMap{}); err != nil {
			return err
		}
		var hello appsv1.Deployment
		if err := demo.client.Get(ctx, client.ObjectKey{Namespace: "default", Name: "hello"}, &hello); err != nil {
			return err
		}
		if hello.Status.AvailableReplicas != *hello.Spec.Replicas {
			return fmt.Errorf("hello has %d of %d replicas", hello.Status.AvailableReplicas, *hello.Spec.Replicas)
		}
		return nil
	})
	eventually(t, time.Minute, "logs of the demo tenant", func(ctx context.Context) error {
		out, err := demo.tryKubectl(ctx, "logs", "deploy/hello")
		if err != nil {
			err = fmt.Errorf("%w: %s", err, out)
		}
		return err
	})
}

func downLeavesNothing(t *testing.T) {
	if err := local(t.Context(), "down"); err != nil {
		t.Fatal(err)
	}
	if pids := clusterProcesses(t); len(pids) > 0 {
		t.Errorf("processes left: %v", pids)
	}
	for _, path := range []string{filepath.Join(super.root, ".local"), "/run/bulkhead-local"} {
		if _, err := os.Stat(path); !os.IsNotExist(err) {
			t.Errorf("%s is left (%v)", path, err)
		}
	}
	for _, check := range []struct {
		name    string
		command []string
		leaked  string
	}{
		{"interfaces", []string{"ip", "-o", "link"}, "bh"},
		{"network namespaces", []string{"ip", "netns", "list"}, "bh-"},
		{"firewall tables", []string{"nft", "list", "tables"}, "bulkhead"},
		{"mounts", []string{"cat", "/proc/self/mounts"}, filepath.Join(super.root, ".local")},
		{"routes", []string{"ip", "route"}, "10.78."},
	} {
		out, err := output(exec.CommandContext(t.Context(), check.command[0], check.command[1:]...))
		if err != nil {
			t.Errorf("%s: %v\n%s", check.name, err, out)
		}
		if strings.Contains(out, check.leaked) {
			t.Errorf("%s left:\n%s", check.name, out)
		}
	}
	cgroups, err := filepath.Glob("/sys/fs/cgroup/*/bulkhead-local")
	if err != nil || len(cgroups) > 0 {
		t.Errorf("cgroups left: %v (%v)", cgroups, err)
	}
	if err := local(t.Context(), "down"); err != nil {
		t.Errorf("down of nothing: %v", err)
	}
}
