//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	tenancyv1alpha1 "github.com/bulkhead-dev/bulkhead/api/tenancy/v1alpha1"
)

// ownScheduler runs a tenant whose own kube-scheduler places its pods on nodes that
// its class selected: what needs to see nodes beforehand works.
func ownScheduler(t *testing.T) {
	// As the default class, which knows how this super cluster exposes apiservers.
	offered := &tenancyv1alpha1.VirtualClusterClass{}
	if err := super.client.Get(t.Context(), client.ObjectKey{Name: "default"}, offered); err != nil {
		t.Fatal(err)
	}
	class := &tenancyv1alpha1.VirtualClusterClass{ObjectMeta: metav1.ObjectMeta{Name: "e2e-own-scheduler"}, Spec: offered.Spec}
	class.Spec.Scheduling = tenancyv1alpha1.ScheduledByTenant
	class.Spec.Nodes = tenancyv1alpha1.NodesSpec{Mode: tenancyv1alpha1.NodesSelected, Selector: &metav1.LabelSelector{}}
	if err := super.client.Create(t.Context(), class); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := super.client.Delete(context.WithoutCancel(t.Context()), class); err != nil {
			t.Error(err)
		}
	})
	tn := newTenantsOf(t, class.Name, "scheduling")[0]
	tn.apply(t, "scheduling.yaml")
	t.Run("placement", func(t *testing.T) { placement(t, tn) })
	t.Run("preemption", func(t *testing.T) { preemption(t, tn) })
	t.Run("resize", func(t *testing.T) { resize(t, tn) })
	t.Run("debug", func(t *testing.T) { debugContainer(t, tn) })
}

// placement finds a pod of the DaemonSet, and one of the two that keep apart, on each node.
func placement(t *testing.T, tn *tenant) {
	tn.kubectl(t, "rollout", "status", "daemonset/everywhere", "--timeout=3m")
	tn.kubectl(t, "rollout", "status", "deployment/apart", "--timeout=3m")
	for _, app := range []string{"everywhere", "apart"} {
		var pods corev1.PodList
		if err := tn.client.List(t.Context(), &pods, client.InNamespace("default"), client.MatchingLabels{"app": app}); err != nil {
			t.Fatal(err)
		}
		var on []string
		for _, pod := range pods.Items {
			on = append(on, pod.Spec.NodeName)
		}
		if slices.Sort(on); !slices.Equal(on, nodeNames) {
			t.Errorf("%s runs on %v, want %v", app, on, nodeNames)
		}
	}
}

// preemption has a pod of the tenant make room for one of its own with a higher
// priority, on a node that has memory for either but not for both.
func preemption(t *testing.T, tn *tenant) {
	var node corev1.Node
	if err := tn.client.Get(t.Context(), client.ObjectKey{Name: nodeNames[0]}, &node); err != nil {
		t.Fatal(err)
	}
	half := resource.NewQuantity(node.Status.Allocatable.Memory().Value()*6/10, resource.BinarySI)
	big := func(name, priorityClass string) *corev1.Pod {
		pod := sleeper(name)
		pod.Spec.PriorityClassName = priorityClass
		pod.Spec.NodeSelector = map[string]string{corev1.LabelHostname: node.Labels[corev1.LabelHostname]}
		pod.Spec.Containers[0].Resources.Requests = corev1.ResourceList{corev1.ResourceMemory: *half}
		return pod
	}
	if err := tn.client.Create(t.Context(), big("patient", "")); err != nil {
		t.Fatal(err)
	}
	tn.kubectl(t, "wait", "--for=condition=Ready", "pod/patient", "--timeout=2m")
	if err := tn.client.Create(t.Context(), big("urgent", "urgent")); err != nil {
		t.Fatal(err)
	}
	tn.kubectl(t, "wait", "--for=condition=Ready", "pod/urgent", "--timeout=3m")
	if out, err := tn.tryKubectl(t.Context(), "get", "pod", "patient"); err == nil {
		t.Errorf("the other pod is still there:\n%s", out)
	}
	tn.kubectl(t, "delete", "pod", "urgent")
}

// resize gives a running container more memory without a restart.
func resize(t *testing.T, tn *tenant) {
	pod := firstOf(t, tn, "apart")
	tn.kubectl(t, "patch", "pod", pod, "--subresource", "resize", "--patch",
		`{"spec":{"containers":[{"name":"main","resources":{"limits":{"memory":"48Mi"}}}]}}`)
	eventually(t, 2*time.Minute, "the kernel has the new limit", func(ctx context.Context) error {
		// The limit as the container sees it, whichever version cgroups have.
		out, err := tn.tryKubectl(ctx, "exec", pod, "--", "sh", "-c", "cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max 2>/dev/null; true")
		if err == nil && strings.TrimSpace(out) != fmt.Sprint(48<<20) {
			err = fmt.Errorf("limit %q", out)
		}
		return err
	})
	eventually(t, time.Minute, "the tenant's pod says so", func(ctx context.Context) error {
		out, err := tn.tryKubectl(ctx, "get", "pod", pod, "-o", "jsonpath={.status.containerStatuses[0].resources.limits.memory} {.status.containerStatuses[0].restartCount}")
		if err == nil && out != "48Mi 0" {
			err = fmt.Errorf("limit and restarts are %q", out)
		}
		return err
	})
}

// debugContainer adds a container to a running pod as kubectl debug does; one that
// the class does not allow is refused with words, and is not in the next one's way.
func debugContainer(t *testing.T, tn *tenant) {
	pod := firstOf(t, tn, "everywhere")
	add := func(name, profile string) {
		tn.kubectl(t, "debug", pod, "--image=docker.io/library/busybox:1.37", "--container="+name, "--profile="+profile, "--", "sh", "-c", "echo looked in from $(hostname)")
	}
	add("strong", "sysadmin")
	eventually(t, time.Minute, "the strong one is refused", func(ctx context.Context) error {
		out, err := tn.tryKubectl(ctx, "events", "--for", "pod/"+pod)
		if err == nil && !containsAll(out, []string{"RefusedByPlatform", "strong", "privileged"}) {
			err = fmt.Errorf("events:\n%s", out)
		}
		return err
	})
	add("look", "baseline")
	eventually(t, 2*time.Minute, "the debug container ran", func(ctx context.Context) error {
		out, err := tn.tryKubectl(ctx, "logs", pod, "-c", "look")
		if err == nil && strings.TrimSpace(out) != "looked in from "+pod {
			err = fmt.Errorf("it says %q", out)
		}
		return err
	})
}

// firstOf is the name of a pod with that label.
func firstOf(t *testing.T, tn *tenant, app string) string {
	t.Helper()
	name := tn.kubectl(t, "get", "pods", "-l", "app="+app, "-o", "jsonpath={.items[0].metadata.name}")
	if name == "" {
		t.Fatalf("no pod has app=%s", app)
	}
	return name
}
