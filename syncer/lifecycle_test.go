package main

import (
	"context"
	"errors"
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/bulkhead-dev/bulkhead/internal/tenancy"
	"github.com/bulkhead-dev/bulkhead/internal/testenv"
)

// runBound brings a pod of the tenant to a node of the super cluster.
func (tn *tenant) runBound(pod *corev1.Pod, node string) (down *corev1.Pod) {
	tn.t.Helper()
	must(tn.t, tn.client.Create(tn.t.Context(), pod))
	down = tn.superPod(pod)
	schedule(tn.t, down, node)
	runPod(tn.t, down)
	waitFor(tn.t, tn.client, pod.Namespace, pod.Name, pod, func(p *corev1.Pod) error {
		if p.Status.Phase != corev1.PodRunning {
			return fmt.Errorf("phase %q, node %q", p.Status.Phase, p.Spec.NodeName)
		}
		return nil
	})
	return down
}

// A pod is never made twice under the same UID: one that disappears in the super
// cluster is deleted in the tenant's (the ancestor left it to its patrol).
func TestVanishedPodIsDeletedNotMadeAgain(t *testing.T) {
	startSyncer(t)
	tn := newTenant(t, 0, nil).synced()
	ns := tn.namespace("vanished")
	node := newNode(t, "node-vanished")
	pod := newPod(ns, "web")
	down := tn.runBound(pod, node.Name)
	endPod(t, down)
	waitGone(t, tn.client, ns, "web", &corev1.Pod{})
	if err := super.Client.Get(t.Context(), client.ObjectKeyFromObject(down), &corev1.Pod{}); !apierrors.IsNotFound(err) {
		t.Errorf("the pod was made again: %v", err)
	}
}

// Drained, evicted or preempted: the tenant's pod has the grace period that the
// super cluster gives, and goes when its containers have ended.
func TestEvictedPod(t *testing.T) {
	startSyncer(t)
	tn := newTenant(t, 0, nil).synced()
	ns := tn.namespace("evicted")
	node := newNode(t, "node-evicted")
	pod := newPod(ns, "web")
	down := tn.runBound(pod, node.Name)
	must(t, super.Client.Delete(t.Context(), down, client.GracePeriodSeconds(25)))
	waitFor(t, tn.client, ns, "web", pod, func(p *corev1.Pod) error {
		if p.DeletionTimestamp == nil || *p.DeletionGracePeriodSeconds != 25 {
			return fmt.Errorf("deletion %v %v", p.DeletionTimestamp, p.DeletionGracePeriodSeconds)
		}
		return nil
	})
	endPod(t, down)
	waitGone(t, tn.client, ns, "web", &corev1.Pod{})
}

// A pod with a finalizer stays until its owner has seen that it ended, and says so.
func TestPodWithFinalizer(t *testing.T) {
	startSyncer(t)
	tn := newTenant(t, 0, nil).synced()
	ns := tn.namespace("finalizer")
	node := newNode(t, "node-finalizer")
	pod := newPod(ns, "web")
	pod.Finalizers = []string{"example.com/count"}
	down := tn.runBound(pod, node.Name)
	must(t, tn.client.Delete(t.Context(), pod))
	waitFor(t, super.Client, down.Namespace, down.Name, down, func(p *corev1.Pod) error {
		if p.DeletionTimestamp == nil {
			return errors.New("it is not being deleted")
		}
		return nil
	})
	endPod(t, down)
	waitFor(t, tn.client, ns, "web", pod, func(p *corev1.Pod) error {
		if p.Status.Phase != corev1.PodFailed {
			return fmt.Errorf("phase %s", p.Status.Phase)
		}
		return nil
	})
	testenv.Change(t, tn.client, pod, func() { pod.Finalizers = nil })
	waitGone(t, tn.client, ns, "web", &corev1.Pod{})
}

// A pod that was deleted by force and made again under its name: the old containers
// are ended before the old super pod goes, and the new one is another.
func TestPodOfTheSameNameAgain(t *testing.T) {
	startSyncer(t)
	tn := newTenant(t, 0, nil).synced()
	ns := tn.namespace("again")
	node := newNode(t, "node-again")
	first := newPod(ns, "web")
	down := tn.runBound(first, node.Name)
	must(t, tn.client.Delete(t.Context(), first, client.GracePeriodSeconds(0)))
	second := newPod(ns, "web")
	must(t, tn.client.Create(t.Context(), second))
	waitFor(t, super.Client, down.Namespace, down.Name, down, func(p *corev1.Pod) error {
		if p.DeletionTimestamp == nil {
			return errors.New("the old pod is not being deleted")
		}
		return nil
	})
	endPod(t, down)
	if again := tn.superPod(second); again.UID == down.UID {
		t.Error("the old super pod was taken for the new one")
	}
}

func TestNamespaceOfTheSameNameAgain(t *testing.T) {
	startSyncer(t)
	tn := newTenant(t, 0, nil).synced()
	ctx := t.Context()
	ns := tn.namespace("twice")
	superNS := tn.SuperNamespace(ns)
	service := func() *corev1.Service {
		return &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "web"}, Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 80}}}}
	}
	must(t, tn.client.Create(ctx, service()))
	waitFor(t, super.Client, superNS, "web", &corev1.Service{}, nil)
	old := waitFor(t, super.Client, "", superNS, &corev1.Namespace{}, nil)
	// A finalizer keeps the old super namespace while the tenant makes a new one.
	hold := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: superNS, Name: "hold", Finalizers: []string{"example.com/hold"}}}
	must(t, super.Client.Create(ctx, hold))
	must(t, tn.client.Delete(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: ns}}))
	waitGone(t, tn.client, "", ns, &corev1.Namespace{})
	tn.namespace(ns)
	second := service()
	must(t, tn.client.Create(ctx, second))
	waitFor(t, super.Client, superNS, "hold", hold, func(c *corev1.ConfigMap) error {
		if c.DeletionTimestamp == nil {
			return errors.New("the old super namespace is not being deleted")
		}
		return nil
	})
	testenv.Change(t, super.Client, hold, func() { hold.Finalizers = nil })
	waitFor(t, super.Client, superNS, "web", &corev1.Service{}, func(s *corev1.Service) error {
		if origin, _ := tenancy.OriginOf(s); origin.UID != second.UID {
			return fmt.Errorf("it stands for %v", origin)
		}
		return nil
	})
	if now := waitFor(t, super.Client, "", superNS, &corev1.Namespace{}, nil); now.UID == old.UID {
		t.Error("the new namespace lives in the old one's super namespace")
	}
}

func TestReadinessGates(t *testing.T) {
	startSyncer(t)
	tn := newTenant(t, 0, nil).synced()
	ns := tn.namespace("gates")
	node := newNode(t, "node-gates")
	pod := newPod(ns, "web")
	pod.Spec.ReadinessGates = []corev1.PodReadinessGate{{ConditionType: "example.com/traffic"}}
	down := tn.runBound(pod, node.Name)
	testenv.ChangeStatus(t, tn.client, pod, func() {
		pod.Status.Conditions = append(pod.Status.Conditions, corev1.PodCondition{Type: "example.com/traffic", Status: corev1.ConditionTrue})
	})
	waitFor(t, super.Client, down.Namespace, down.Name, down, func(p *corev1.Pod) error {
		for _, condition := range p.Status.Conditions {
			if condition.Type == "example.com/traffic" && condition.Status == corev1.ConditionTrue {
				return nil
			}
		}
		return fmt.Errorf("conditions %v", p.Status.Conditions)
	})
}

// A virtual node is marked when its last pod has gone, before it goes itself, and a
// node that the tenant has made is not ours to touch.
func TestVirtualNodes(t *testing.T) {
	startSyncer(t)
	tn := newTenant(t, 0, nil).synced()
	ctx := t.Context()
	ns := tn.namespace("vnodes")
	node, taken := newNode(t, "node-used"), newNode(t, "node-taken")
	own := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: taken.Name}}
	must(t, tn.client.Create(ctx, own))
	t.Cleanup(func() { _ = tn.client.Delete(context.Background(), own) })

	pod := newPod(ns, "web")
	down := tn.runBound(pod, node.Name)
	// What is new on the node is seen by the tenant.
	testenv.Change(t, super.Client, node, func() { node.Spec.Unschedulable = true })
	waitFor(t, tn.client, "", node.Name, &corev1.Node{}, func(n *corev1.Node) error {
		if !n.Spec.Unschedulable {
			return errors.New("the cordon is not seen")
		}
		return nil
	})
	endPod(t, down)
	waitFor(t, tn.client, "", node.Name, &corev1.Node{}, func(n *corev1.Node) error {
		if n.Annotations[tenancy.AnnotationUnusedSince] == "" {
			return errors.New("it is not marked as unused")
		}
		return nil
	})

	blocked := newPod(ns, "blocked")
	must(t, tn.client.Create(ctx, blocked))
	schedule(t, tn.superPod(blocked), taken.Name)
	tn.waitEvent(blocked, "NameTaken", "nodes "+taken.Name)
	must(t, tn.client.Get(ctx, client.ObjectKeyFromObject(own), own))
	if len(own.Labels) > 0 || own.Status.DaemonEndpoints.KubeletEndpoint.Port != 0 {
		t.Errorf("the tenant's own node was changed: %+v", own)
	}
}
