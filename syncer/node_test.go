package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	tenancyv1alpha1 "github.com/bulkhead-dev/bulkhead/api/tenancy/v1alpha1"
	"github.com/bulkhead-dev/bulkhead/internal/testenv"
)

// offer makes a class offer the nodes of a pool.
func offer(pool string, scheduling tenancyv1alpha1.Scheduling) func(*tenancyv1alpha1.VirtualClusterClass) {
	return func(c *tenancyv1alpha1.VirtualClusterClass) {
		c.Spec.Nodes = tenancyv1alpha1.NodesSpec{Mode: tenancyv1alpha1.NodesSelected, Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"pool": pool}}}
		c.Spec.Scheduling = scheduling
	}
}

// change edits an object of the super cluster until it is taken.
func change[T client.Object](t *testing.T, object T, edit func(T)) {
	t.Helper()
	testenv.Change(t, super.Client, object, func() { edit(object) })
}

// poolNode makes a node of a pool with a kubelet's lease.
func poolNode(t *testing.T, name, pool string) *corev1.Node {
	t.Helper()
	node := newNode(t, name)
	change(t, node, func(n *corev1.Node) {
		n.Labels["pool"] = pool
		n.Spec.Taints = nil // as the node lifecycle controller does of a node that is ready
	})
	testenv.ChangeStatus(t, super.Client, node, func() { node.Status.Allocatable[corev1.ResourcePods] = quantity("110") })
	now := metav1.NowMicro()
	lease := &coordinationv1.Lease{
		ObjectMeta: metav1.ObjectMeta{Namespace: corev1.NamespaceNodeLease, Name: name},
		Spec:       coordinationv1.LeaseSpec{HolderIdentity: &name, RenewTime: &now},
	}
	must(t, super.Client.Create(t.Context(), lease))
	t.Cleanup(func() { _ = super.Client.Delete(context.Background(), lease) })
	return node
}

// Nodes that a class offers are there before any pod, follow the super cluster's in
// all that tenants may see, and go when they do (decision D8).
func TestSelectedNodes(t *testing.T) {
	node := poolNode(t, "node-selected", "selected")
	other := poolNode(t, "node-not-selected", "other")
	startSyncer(t)
	tn := newTenant(t, 0, offer("selected", tenancyv1alpha1.ScheduledBySuper)).synced()
	up := waitFor(t, tn.client, "", node.Name, &corev1.Node{}, func(n *corev1.Node) error {
		if len(n.Status.Conditions) != 1 || n.Status.Conditions[0].Status != corev1.ConditionTrue || len(n.Spec.Taints) > 0 {
			return fmt.Errorf("conditions %v, taints %v", n.Status.Conditions, n.Spec.Taints)
		}
		return nil
	})
	if up.Labels["pool"] != "" || up.Labels["topology.kubernetes.io/zone"] != "z1" {
		t.Errorf("the tenant sees labels %v", up.Labels)
	}

	// Its lease is renewed at most once in two minutes, and says that it holds longer.
	lease := waitFor(t, tn.client, corev1.NamespaceNodeLease, node.Name, &coordinationv1.Lease{}, nil)
	if lease.Spec.RenewTime == nil || time.Since(lease.Spec.RenewTime.Time) > time.Duration(*lease.Spec.LeaseDurationSeconds)*time.Second || lease.OwnerReferences[0].UID != up.UID {
		t.Errorf("lease %+v of %v", lease.Spec, lease.OwnerReferences)
	}

	// Taint, cordon and extended resources.
	change(t, node, func(n *corev1.Node) {
		n.Spec.Unschedulable = true
		n.Spec.Taints = append(n.Spec.Taints, corev1.Taint{Key: "dedicated", Value: "tenants", Effect: corev1.TaintEffectNoSchedule})
	})
	testenv.ChangeStatus(t, super.Client, node, func() { node.Status.Allocatable["example.com/gpu"] = quantity("2") })
	waitFor(t, tn.client, "", node.Name, up, func(n *corev1.Node) error {
		gpus := n.Status.Allocatable["example.com/gpu"]
		if !n.Spec.Unschedulable || len(n.Spec.Taints) != 2 || gpus.String() != "2" {
			return fmt.Errorf("unschedulable %v, taints %v, allocatable %v", n.Spec.Unschedulable, n.Spec.Taints, n.Status.Allocatable)
		}
		return nil
	})
	change(t, node, func(n *corev1.Node) { n.Spec.Unschedulable, n.Spec.Taints = false, nil })
	waitFor(t, tn.client, "", node.Name, up, func(n *corev1.Node) error {
		if n.Spec.Unschedulable || len(n.Spec.Taints) > 0 {
			return fmt.Errorf("taints %v", n.Spec.Taints)
		}
		return nil
	})

	// A heartbeat is no write.
	testenv.ChangeStatus(t, super.Client, node, func() { node.Status.Conditions[0].LastHeartbeatTime = metav1.NewTime(time.Now().Add(time.Hour)) })
	// One that joins the pool comes after the heartbeat, and shows that it was seen.
	change(t, other, func(n *corev1.Node) { n.Labels["pool"] = "selected" })
	waitFor(t, tn.client, "", other.Name, &corev1.Node{}, nil)
	after := waitFor(t, tn.client, "", node.Name, &corev1.Node{}, nil)
	if after.ResourceVersion != up.ResourceVersion {
		t.Errorf("a heartbeat was written: %v", after.Status.Conditions)
	}

	must(t, super.Client.Delete(t.Context(), node))
	waitGone(t, tn.client, "", node.Name, &corev1.Node{})
	waitGone(t, tn.client, corev1.NamespaceNodeLease, node.Name, &coordinationv1.Lease{})
}

// The tenant's own DaemonSet controller puts a pod on each offered node; the super
// cluster's scheduler is told the node and the pool.
func TestDaemonSet(t *testing.T) {
	names := []string{poolNode(t, "node-daemon-a", "daemon").Name, poolNode(t, "node-daemon-b", "daemon").Name}
	startSyncer(t)
	tn := newTenant(t, 0, offer("daemon", tenancyv1alpha1.ScheduledBySuper)).synced()
	ns := tn.namespace("daemon")
	template := newPod(ns, "agent")
	set := &appsv1.DaemonSet{
		ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "agent"},
		Spec: appsv1.DaemonSetSpec{
			Selector: &metav1.LabelSelector{MatchLabels: template.Labels},
			Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: template.Labels}, Spec: template.Spec},
		},
	}
	must(t, tn.client.Create(t.Context(), set))
	eventually(t, "a super pod for each node", func(ctx context.Context) error {
		var list corev1.PodList
		if err := super.Client.List(ctx, &list, client.InNamespace(tn.SuperNamespace(ns))); err != nil {
			return err
		}
		found := map[string]bool{}
		for _, pod := range list.Items {
			term := pod.Spec.Affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms[0]
			if len(term.MatchExpressions) != 1 || term.MatchExpressions[0].Key != "pool" {
				t.Errorf("the pod may leave the pool: %v", term)
			}
			found[term.MatchFields[0].Values[0]] = true
		}
		for _, name := range names {
			if !found[name] {
				return fmt.Errorf("found %v", found)
			}
		}
		return nil
	})
	must(t, tn.client.Delete(t.Context(), set))
}

// runScheduler runs an unmodified kube-scheduler in the tenant's cluster.
func (tn *tenant) runScheduler() {
	tn.t.Helper()
	hyperkube, err := testenv.Program("hyperkube")
	must(tn.t, err)
	dir := tn.t.TempDir()
	kubeconfig := filepath.Join(dir, "kubeconfig")
	must(tn.t, os.WriteFile(kubeconfig, tn.cluster.Kubeconfig, 0o600))
	log, err := os.Create(filepath.Join(dir, "log"))
	must(tn.t, err)
	ctx, cancel := context.WithCancel(context.Background())
	command := exec.CommandContext(ctx, hyperkube, "kube-scheduler", "--kubeconfig="+kubeconfig, "--authentication-kubeconfig="+kubeconfig,
		"--authorization-kubeconfig="+kubeconfig, "--bind-address=127.0.0.1", "--secure-port=0", "--leader-elect=false")
	command.Stdout, command.Stderr = log, log
	must(tn.t, command.Start())
	tn.t.Cleanup(func() {
		cancel()
		_ = command.Wait()
		if text, err := os.ReadFile(log.Name()); err == nil && tn.t.Failed() {
			tn.t.Logf("kube-scheduler: %.3000s", text)
		}
		log.Close()
	})
}

// The tenant's own scheduler places the pod among the offered nodes; it goes down
// bound, and what the kubelet then says comes up.
func TestScheduledByTheTenant(t *testing.T) {
	node := poolNode(t, "node-tenant-schedules", "tenant-schedules")
	hidden := poolNode(t, "node-hidden", "none")
	startSyncer(t)
	tn := newTenant(t, 0, offer("tenant-schedules", tenancyv1alpha1.ScheduledByTenant)).synced()
	ctx := t.Context()
	ns := tn.namespace("schedules")
	waitFor(t, tn.client, "", node.Name, &corev1.Node{}, nil)

	gated := newPod(ns, "gated")
	gated.Spec.SchedulingGates = []corev1.PodSchedulingGate{{Name: "example.com/wait"}}
	pod := newPod(ns, "web")
	for _, p := range []*corev1.Pod{gated, pod} {
		must(t, tn.client.Create(ctx, p))
	}
	tn.runScheduler()
	down := tn.superPod(pod)
	if down.Spec.NodeName != node.Name {
		t.Fatalf("the pod went down to node %q", down.Spec.NodeName)
	}
	runPod(t, down)
	waitFor(t, tn.client, ns, "web", pod, func(p *corev1.Pod) error {
		if p.Status.Phase != corev1.PodRunning || p.Status.PodIP != "10.2.0.5" {
			return fmt.Errorf("status %+v", p.Status)
		}
		for _, condition := range p.Status.Conditions {
			if condition.Type == corev1.PodScheduled && condition.Status == corev1.ConditionTrue {
				return nil
			}
		}
		return fmt.Errorf("conditions %v", p.Status.Conditions)
	})
	if err := super.Client.Get(ctx, client.ObjectKey{Namespace: down.Namespace, Name: "gated"}, &corev1.Pod{}); !apierrors.IsNotFound(err) {
		t.Errorf("a pod with a closed gate went down: %v", err)
	}

	// What the super cluster's kubelet does not take ends, and the tenant sees why.
	full := newPod(ns, "full")
	must(t, tn.client.Create(ctx, full))
	rejected := tn.superPod(full)
	testenv.ChangeStatus(t, super.Client, rejected, func() {
		rejected.Status.Phase, rejected.Status.Reason = corev1.PodFailed, "OutOfcpu"
		rejected.Status.Message = "Pod was rejected: Node didn't have enough resource: cpu, for " + rejected.Namespace + "/full"
	})
	waitFor(t, tn.client, ns, "full", full, func(p *corev1.Pod) error {
		if p.Status.Phase != corev1.PodFailed || p.Status.Reason != "OutOfcpu" || p.Status.Message != "Pod was rejected: Node didn't have enough resource: cpu, for schedules/full" {
			return fmt.Errorf("status %+v", p.Status)
		}
		return nil
	})

	// A node that is not offered is not to be had by naming it.
	thief := newPod(ns, "thief")
	thief.Spec.NodeName = hidden.Name
	must(t, tn.client.Create(ctx, thief))
	tn.waitEvent(thief, "RefusedByPlatform", "offers no node "+hidden.Name)
	if err := super.Client.Get(ctx, client.ObjectKey{Namespace: down.Namespace, Name: "thief"}, &corev1.Pod{}); !apierrors.IsNotFound(err) {
		t.Errorf("the pod went down to a node that is not offered: %v", err)
	}

	// Once its kubelet has had it, a pod that vanishes is not made again.
	testenv.ChangeStatus(t, super.Client, down, func() {
		now := metav1.Now()
		down.Status.StartTime = &now
	})
	waitFor(t, tn.client, ns, "web", pod, func(p *corev1.Pod) error {
		if p.Status.StartTime == nil {
			return errors.New("it has no start time")
		}
		return nil
	})
	endPod(t, down)
	waitGone(t, tn.client, ns, "web", &corev1.Pod{})
}
