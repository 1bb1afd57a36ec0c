package main

import (
	"errors"
	"fmt"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/bulkhead-dev/bulkhead/internal/testenv"
)

// Resizing a pod in place goes down; what its node has allotted comes up.
func TestResize(t *testing.T) {
	startSyncer(t)
	tn := newTenant(t, 0, nil).synced()
	ctx := t.Context()
	ns := tn.namespace("resize")
	node := newNode(t, "node-resize")
	pod := newPod(ns, "web")
	pod.Spec.Containers[0].Resources.Requests = corev1.ResourceList{corev1.ResourceCPU: quantity("100m")}
	down := tn.runBound(pod, node.Name)

	// By this the tenant's apiserver knows that the node can resize.
	testenv.ChangeStatus(t, super.Client, down, func() { down.Status.ContainerStatuses[0].Resources = &down.Spec.Containers[0].Resources })
	waitFor(t, tn.client, ns, "web", pod, func(p *corev1.Pod) error {
		if p.Status.ContainerStatuses[0].Resources == nil {
			return errors.New("the status has no resources")
		}
		return nil
	})
	before := pod.DeepCopy()
	pod.Spec.Containers[0].Resources.Requests[corev1.ResourceCPU] = quantity("300m")
	must(t, tn.client.SubResource("resize").Patch(ctx, pod, client.StrategicMergeFrom(before)))
	waitFor(t, super.Client, down.Namespace, "web", down, func(p *corev1.Pod) error {
		if cpu := p.Spec.Containers[0].Resources.Requests[corev1.ResourceCPU]; cpu.String() != "300m" {
			return fmt.Errorf("requests %s", cpu.String())
		}
		return nil
	})
	testenv.ChangeStatus(t, super.Client, down, func() {
		down.Status.ContainerStatuses[0].AllocatedResources = down.Spec.Containers[0].Resources.Requests
	})
	waitFor(t, tn.client, ns, "web", pod, func(p *corev1.Pod) error {
		if cpu := p.Status.ContainerStatuses[0].AllocatedResources[corev1.ResourceCPU]; cpu.String() != "300m" {
			return fmt.Errorf("allotted %s", cpu.String())
		}
		return nil
	})
}

// kubectl debug: an ephemeral container goes down by the same rules as all others,
// and its status comes up.
func TestEphemeralContainers(t *testing.T) {
	startSyncer(t)
	tn := newTenant(t, 0, nil).synced()
	ctx := t.Context()
	ns := tn.namespace("debug")
	node := newNode(t, "node-debug")
	pod := newPod(ns, "web")
	down := tn.runBound(pod, node.Name)
	add := func(name string, edit func(*corev1.EphemeralContainer)) {
		t.Helper()
		must(t, tn.client.Get(ctx, client.ObjectKeyFromObject(pod), pod))
		before := pod.DeepCopy()
		container := corev1.EphemeralContainer{EphemeralContainerCommon: corev1.EphemeralContainerCommon{Name: name, Image: "registry.k8s.io/busybox:1"}, TargetContainerName: "main"}
		edit(&container)
		pod.Spec.EphemeralContainers = append(pod.Spec.EphemeralContainers, container)
		must(t, tn.client.SubResource("ephemeralcontainers").Patch(ctx, pod, client.StrategicMergeFrom(before)))
	}
	add("debugger", func(c *corev1.EphemeralContainer) { c.Stdin = true })
	waitFor(t, super.Client, down.Namespace, "web", down, func(p *corev1.Pod) error {
		if len(p.Spec.EphemeralContainers) != 1 || p.Spec.EphemeralContainers[0].Name != "debugger" || p.Spec.EphemeralContainers[0].TargetContainerName != "main" {
			return fmt.Errorf("there are %v", p.Spec.EphemeralContainers)
		}
		return nil
	})
	testenv.ChangeStatus(t, super.Client, down, func() {
		down.Status.EphemeralContainerStatuses = []corev1.ContainerStatus{{Name: "debugger", Image: "registry.k8s.io/busybox:1", State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}}}
	})
	waitFor(t, tn.client, ns, "web", pod, func(p *corev1.Pod) error {
		if len(p.Status.EphemeralContainerStatuses) != 1 || p.Status.EphemeralContainerStatuses[0].State.Running == nil {
			return fmt.Errorf("statuses %v", p.Status.EphemeralContainerStatuses)
		}
		return nil
	})

	yes := true
	add("root", func(c *corev1.EphemeralContainer) { c.SecurityContext = &corev1.SecurityContext{Privileged: &yes} })
	tn.waitEvent(pod, "RefusedByPlatform", "privileged")
	must(t, super.Client.Get(ctx, client.ObjectKeyFromObject(down), down))
	if len(down.Spec.EphemeralContainers) != 1 || down.DeletionTimestamp != nil {
		t.Errorf("a refused debugger went down, or ended the pod: %v", down.Spec.EphemeralContainers)
	}
	// It stays on the tenant's pod for good, and keeps no other from going down.
	add("another", func(*corev1.EphemeralContainer) {})
	waitFor(t, super.Client, down.Namespace, "web", down, func(p *corev1.Pod) error {
		if len(p.Spec.EphemeralContainers) != 2 || p.Spec.EphemeralContainers[1].Name != "another" {
			return fmt.Errorf("there are %v", p.Spec.EphemeralContainers)
		}
		return nil
	})
}

// The tenant's own eviction API ends a pod with its grace period, and the reason stays
// to be seen by the tenant's controllers until the pod is gone.
func TestEvictionByTheTenant(t *testing.T) {
	startSyncer(t)
	tn := newTenant(t, 0, nil).synced()
	ctx := t.Context()
	ns := tn.namespace("evicts")
	node := newNode(t, "node-evicts")
	pod := newPod(ns, "web")
	grace := int64(17)
	pod.Spec.TerminationGracePeriodSeconds = &grace
	down := tn.runBound(pod, node.Name)
	must(t, tn.client.SubResource("eviction").Create(ctx, pod, &policyv1.Eviction{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "web"}}))
	waitFor(t, super.Client, down.Namespace, "web", down, func(p *corev1.Pod) error {
		if p.DeletionTimestamp == nil || *p.DeletionGracePeriodSeconds != grace {
			return fmt.Errorf("deletion %v %v", p.DeletionTimestamp, p.DeletionGracePeriodSeconds)
		}
		return nil
	})
	testenv.ChangeStatus(t, super.Client, down, func() { down.Status.Phase = corev1.PodFailed })
	waitFor(t, tn.client, ns, "web", pod, func(p *corev1.Pod) error {
		if p.Status.Phase != corev1.PodFailed {
			return fmt.Errorf("phase %s", p.Status.Phase)
		}
		if !slices.ContainsFunc(p.Status.Conditions, func(c corev1.PodCondition) bool {
			return c.Type == corev1.DisruptionTarget && c.Reason == "EvictionByEvictionAPI"
		}) {
			return fmt.Errorf("conditions %v", p.Status.Conditions)
		}
		return nil
	})
	endPod(t, down)
	waitGone(t, tn.client, ns, "web", &corev1.Pod{})
}

// A node that is lost: its pods are not ready, and the tenant sees why, in its own words.
func TestNodeLoss(t *testing.T) {
	startSyncer(t)
	tn := newTenant(t, 0, nil).synced()
	ns := tn.namespace("lost")
	node := newNode(t, "node-lost")
	pod := newPod(ns, "web")
	down := tn.runBound(pod, node.Name)
	testenv.ChangeStatus(t, super.Client, node, func() {
		node.Status.Conditions[0] = corev1.NodeCondition{Type: corev1.NodeReady, Status: corev1.ConditionUnknown, Reason: "NodeStatusUnknown"}
	})
	waitFor(t, tn.client, "", node.Name, &corev1.Node{}, func(n *corev1.Node) error {
		if n.Status.Conditions[0].Status != corev1.ConditionUnknown {
			return fmt.Errorf("conditions %v", n.Status.Conditions)
		}
		return nil
	})
	testenv.ChangeStatus(t, super.Client, down, func() {
		down.Status.Phase, down.Status.Reason, down.Status.Message = corev1.PodFailed, "Evicted", "The node had to evict "+down.Namespace+"/web"
		down.Status.Conditions = append(down.Status.Conditions, corev1.PodCondition{Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, Reason: "DeletionByTaintManager", Message: "in " + down.Namespace})
	})
	waitFor(t, tn.client, ns, "web", pod, func(p *corev1.Pod) error {
		if p.Status.Reason != "Evicted" || p.Status.Message != "The node had to evict lost/web" {
			return errors.New(p.Status.Reason + ": " + p.Status.Message)
		}
		if !slices.ContainsFunc(p.Status.Conditions, func(c corev1.PodCondition) bool {
			return c.Reason == "DeletionByTaintManager" && c.Message == "in lost"
		}) {
			return fmt.Errorf("conditions %v", p.Status.Conditions)
		}
		return nil
	})
}
