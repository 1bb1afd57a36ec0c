//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/bulkhead-dev/bulkhead/internal/tenancy"
)

// twoTenantsWithIdenticalNames runs the same application under the same names
// in two virtual clusters and deletes one of them.
func twoTenantsWithIdenticalNames(t *testing.T) {
	tenants := newTenants(t, "twin-1", "twin-2")
	one, two := tenants[0], tenants[1]
	for _, tn := range tenants {
		tn.apply(t, "app.yaml")
		tn.kubectl(t, "patch", "configmap", "settings", "--patch", fmt.Sprintf(`{"data":{"owner":%q}}`, tn.Name))
	}
	for _, tn := range tenants {
		tn.kubectl(t, "rollout", "status", "deployment/app", "--timeout=4m")
		pod := strings.TrimSpace(tn.kubectl(t, "exec", "deploy/app", "--", "hostname"))
		eventually(t, 2*time.Minute, "the mounted ConfigMap is the tenant's own", func(ctx context.Context) error {
			out, err := tn.tryKubectl(ctx, "exec", pod, "--", "cat", "/config/owner")
			if err == nil && out != tn.Name {
				err = fmt.Errorf("%s reads %q", tn.Name, out)
			}
			return err
		})
		var pods corev1.PodList
		if err := tn.client.List(t.Context(), &pods); err != nil {
			t.Fatal(err)
		}
		for _, pod := range pods.Items {
			for key := range pod.Annotations {
				if tenancy.Reserved(key) {
					t.Errorf("%s sees the platform's annotation %s on pod %s", tn.Name, key, pod.Name)
				}
			}
		}
	}

	superNamespaces := []string{one.SuperNamespace("default"), one.ControlPlaneNamespace()}
	if before, err := carriesUID(t.Context(), one.Tenant); err != nil || len(before) < 10 {
		t.Fatalf("the inventory does not see the tenant: %v, %v", before, err)
	}
	if out, err := superTool(t.Context(), "kubectl-vc", "delete", one.Name, "-n", namespace, "--wait=false"); err != nil {
		t.Fatalf("deleting %s: %v\n%s", one.Name, err, out)
	}
	// On an idle machine it takes less than a minute, with a workload that takes half of
	// that to end. How long it took is told, not asserted.
	began := time.Now()
	eventually(t, 4*time.Minute, "nothing that carries the deleted tenant's UID is left", func(ctx context.Context) error {
		left, err := carriesUID(ctx, one.Tenant)
		if err != nil {
			return err
		}
		volumes, err := volumesOf(ctx, superNamespaces...)
		if err == nil && len(left)+len(volumes) > 0 {
			err = fmt.Errorf("left: %v, volumes %v", left, volumes)
		}
		return err
	})
	t.Logf("everything was gone after %s", time.Since(began).Round(time.Second))

	// The other one has noticed nothing.
	var pods corev1.PodList
	if err := two.client.List(t.Context(), &pods, client.InNamespace("default"), client.MatchingLabels{"app": "app"}); err != nil {
		t.Fatal(err)
	}
	if len(pods.Items) == 0 {
		t.Error("the other tenant's pods are gone")
	}
	for _, pod := range pods.Items {
		for _, status := range pod.Status.ContainerStatuses {
			if !status.Ready || status.RestartCount > 0 {
				t.Errorf("pod %s of the other tenant: ready %v, %d restarts", pod.Name, status.Ready, status.RestartCount)
			}
		}
	}
	two.kubectl(t, "scale", "deployment/app", "--replicas=1")
	two.kubectl(t, "rollout", "status", "deployment/app", "--timeout=1m")
}

// namesThatCollideOnceJoined makes a+b-c and a-b+c, and a namespace of 63 characters.
func namesThatCollideOnceJoined(t *testing.T) {
	long := strings.Repeat("n", 63)
	namespaces := map[string]string{"a": "b-c", "a-b": "c"}
	for _, tn := range newTenants(t, slices.Collect(maps.Keys(namespaces))...) {
		for _, ns := range []string{namespaces[tn.Name], long} {
			tn.kubectl(t, "create", "namespace", ns)
			eventually(t, time.Minute, "a pod is let in", func(ctx context.Context) error {
				out, err := tn.tryKubectl(ctx, "run", "p", "-n", ns, "--image=docker.io/library/busybox:1.37", "--restart=Never", endsAtOnce, "--", "sh", "-c", "echo from "+tn.Name+"; exec sleep 1000000")
				if err != nil {
					return fmt.Errorf("%w: %s", err, out)
				}
				return nil
			})
			tn.kubectl(t, "wait", "-n", ns, "--for=condition=Ready", "pod/p", "--timeout=2m")
			if out := tn.kubectl(t, "logs", "-n", ns, "p"); strings.TrimSpace(out) != "from "+tn.Name {
				t.Errorf("%s/%s logs %q", tn.Name, ns, out)
			}
		}
	}
}

// endsAtOnce is for kubectl run: sleep as a container's first process ignores SIGTERM.
const endsAtOnce = `--overrides={"spec":{"terminationGracePeriodSeconds":1}}`

// refusedPods applies pods that no tenant may run: an event on each names the
// field and the rule, and nothing of it reaches the super cluster.
func refusedPods(t *testing.T) {
	tn := newTenant(t, "refused")
	tn.kubectl(t, "apply", "-f", filepath.Join("testdata", "refused.yaml"))
	for pod, words := range map[string][]string{
		"host-path":    {"hostPath"},
		"host-network": {"hostNetwork"},
		"privileged":   {"privileged"},
		"runtime":      {"runtimeClassName"},
		"forged":       {"tenancy.bulkhead.dev/uid"},
		"kata":         {"io.katacontainers"},
	} {
		eventually(t, time.Minute, "an event on pod "+pod, func(ctx context.Context) error {
			var list corev1.EventList
			if err := tn.client.List(ctx, &list, client.InNamespace("default")); err != nil {
				return err
			}
			for _, event := range list.Items {
				if event.InvolvedObject.Name == pod && event.Type == corev1.EventTypeWarning && containsAll(event.Message, words) {
					return nil
				}
			}
			return fmt.Errorf("no warning with %v among %d events", words, len(list.Items))
		})
		var superPod corev1.Pod
		err := super.client.Get(t.Context(), client.ObjectKey{Namespace: tn.SuperNamespace("default"), Name: pod}, &superPod)
		if client.IgnoreNotFound(err) != nil {
			t.Fatal(err)
		}
		if err == nil {
			t.Errorf("pod %s is in the super cluster", pod)
		}
	}
	tn.kubectl(t, "wait", "--for=condition=Ready", "pod/good", "--timeout=2m")
}

func containsAll(text string, words []string) bool {
	for _, word := range words {
		if !strings.Contains(text, word) {
			return false
		}
	}
	return true
}
