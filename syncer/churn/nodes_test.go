//go:build churn

package churn

import (
	"context"
	"fmt"
	"hash/fnv"
	"slices"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// nodeCount is how many nodes the super cluster has. Every second one is in the pool
// that a class selects.
const nodeCount = 4

func nodeName(i int) string { return fmt.Sprintf("node-%d", i) }

// nodes plays what the super cluster's machines do: a scheduler and kubelets.
type nodes struct {
	super client.Client
	// began numbers addresses.
	addresses int
	// deleting is since when a pod of that UID was seen as being deleted.
	renewed time.Time
}

// run goes on until the context ends. What an apiserver does not take is tried again.
func (n *nodes) run(ctx context.Context) {
	tick := time.NewTicker(250 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		call, cancel := context.WithTimeout(ctx, 2*callTimeout)
		n.once(call)
		cancel()
	}
}

// once looks at all pods. Errors are those of an apiserver that was killed, or of a pod
// that has changed: the next look shows what is left to do.
func (n *nodes) once(ctx context.Context) {
	var list corev1.NodeList
	if err := n.super.List(ctx, &list); err != nil {
		return
	}
	ready := index(list.Items)
	if time.Since(n.renewed) > 5*time.Second {
		n.renewed = time.Now()
		for name := range ready {
			n.renew(ctx, name)
		}
	}
	var pods corev1.PodList
	// From the apiserver's cache: this asks often.
	if err := n.super.List(ctx, &pods, &client.ListOptions{Raw: &metav1.ListOptions{ResourceVersion: "0"}}); err != nil {
		return
	}
	for i := range pods.Items {
		pod := &pods.Items[i]
		node := ready[pod.Spec.NodeName]
		switch {
		case pod.Spec.NodeName == "" && pod.DeletionTimestamp == nil:
			n.schedule(ctx, pod, list.Items)
		case pod.Spec.NodeName == "":
		case node == nil, pod.DeletionTimestamp != nil:
			// The pod's containers have ended, or its node has and somebody collects it.
			_ = n.super.Delete(ctx, pod, client.GracePeriodSeconds(0), client.Preconditions{UID: &pod.UID})
		case pod.Status.Phase == corev1.PodPending:
			n.start(ctx, pod)
		case pod.Status.Phase == corev1.PodRunning:
			n.keep(ctx, pod)
		}
	}
}

// schedule binds a pod to a node that takes it, always the same for a pod of that UID.
func (n *nodes) schedule(ctx context.Context, pod *corev1.Pod, all []corev1.Node) {
	var fit []string
	for i := range all {
		node := &all[i]
		if !node.Spec.Unschedulable && node.DeletionTimestamp == nil && (!confined(pod) || node.Labels[poolLabel] == "selected") {
			fit = append(fit, node.Name)
		}
	}
	if len(fit) == 0 {
		return
	}
	slices.Sort(fit)
	hash := fnv.New32a()
	hash.Write([]byte(pod.UID))
	_ = n.super.SubResource("binding").Create(ctx, pod, &corev1.Binding{
		ObjectMeta: metav1.ObjectMeta{Namespace: pod.Namespace, Name: pod.Name, UID: pod.UID},
		Target:     corev1.ObjectReference{Kind: "Node", Name: fit[int(hash.Sum32())%len(fit)]},
	})
}

// confined tells whether a pod may run on the nodes of the pool alone.
func confined(pod *corev1.Pod) bool {
	affinity := pod.Spec.Affinity
	if affinity == nil || affinity.NodeAffinity == nil || affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution == nil {
		return false
	}
	return slices.ContainsFunc(affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms, func(term corev1.NodeSelectorTerm) bool {
		return slices.ContainsFunc(term.MatchExpressions, func(r corev1.NodeSelectorRequirement) bool { return r.Key == poolLabel })
	})
}

// start says that a pod's containers run.
func (n *nodes) start(ctx context.Context, pod *corev1.Pod) {
	n.addresses++
	address := fmt.Sprintf("10.2.%d.%d", n.addresses/250%250, 1+n.addresses%250)
	n.status(ctx, pod, func(status *corev1.PodStatus) {
		status.Phase, status.StartTime = corev1.PodRunning, ptr.To(metav1.Now())
		status.HostIP, status.HostIPs = "10.1.0.1", []corev1.HostIP{{IP: "10.1.0.1"}}
		status.PodIP, status.PodIPs = address, []corev1.PodIP{{IP: address}}
		for _, condition := range []corev1.PodConditionType{corev1.PodInitialized, corev1.ContainersReady, corev1.PodReady} {
			status.Conditions = append(status.Conditions, corev1.PodCondition{Type: condition, Status: corev1.ConditionTrue, LastTransitionTime: metav1.Now()})
		}
		status.ContainerStatuses = runningContainers(pod, 0)
	})
}

// keep says of a running pod what has changed: images, and the generation that is seen.
func (n *nodes) keep(ctx context.Context, pod *corev1.Pod) {
	restarts := int32(0)
	same := len(pod.Status.ContainerStatuses) == len(pod.Spec.Containers)
	for i, status := range pod.Status.ContainerStatuses {
		restarts = max(restarts, status.RestartCount)
		same = same && status.Image == pod.Spec.Containers[i].Image
	}
	if same && pod.Status.ObservedGeneration == pod.Generation {
		return
	}
	n.status(ctx, pod, func(status *corev1.PodStatus) {
		if !same {
			restarts++
		}
		status.ContainerStatuses = runningContainers(pod, restarts)
	})
}

func (n *nodes) status(ctx context.Context, pod *corev1.Pod, change func(*corev1.PodStatus)) {
	changed := pod.DeepCopy()
	change(&changed.Status)
	changed.Status.ObservedGeneration = pod.Generation
	_ = n.super.Status().Patch(ctx, changed, client.MergeFromWithOptions(pod, client.MergeFromWithOptimisticLock{}))
}

func runningContainers(pod *corev1.Pod, restarts int32) []corev1.ContainerStatus {
	var all []corev1.ContainerStatus
	for _, container := range pod.Spec.Containers {
		all = append(all, corev1.ContainerStatus{
			Name: container.Name, Image: container.Image, ImageID: "sha256:" + container.Image, ContainerID: "containerd://" + string(pod.UID) + container.Name,
			Ready: true, Started: ptr.To(true), RestartCount: restarts,
			// Without them the API server takes no resize.
			Resources: container.Resources.DeepCopy(), AllocatedResources: container.Resources.Requests.DeepCopy(),
			State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: *pod.CreationTimestamp.DeepCopy()}},
		})
	}
	return all
}

// renew is a node's heartbeat.
func (n *nodes) renew(ctx context.Context, name string) {
	lease := &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Namespace: corev1.NamespaceNodeLease, Name: name}}
	err := n.super.Get(ctx, client.ObjectKeyFromObject(lease), lease)
	lease.Spec = coordinationv1.LeaseSpec{HolderIdentity: &name, LeaseDurationSeconds: ptr.To(int32(40)), RenewTime: ptr.To(metav1.NowMicro())}
	switch {
	case apierrors.IsNotFound(err):
		_ = n.super.Create(ctx, lease)
	case err == nil:
		_ = n.super.Update(ctx, lease)
	}
}

// addNode makes a node as its kubelet would.
func addNode(ctx context.Context, super client.Client, i int) error {
	name, pool := nodeName(i), "others"
	if i%2 == 0 {
		pool = "selected"
	}
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{
		corev1.LabelHostname: name, corev1.LabelOSStable: "linux", corev1.LabelArchStable: "amd64", corev1.LabelTopologyZone: fmt.Sprintf("zone-%d", i/2),
		poolLabel: pool, "platform.example/rack": "r1",
	}}}
	if err := super.Create(ctx, node); err != nil {
		return client.IgnoreAlreadyExists(err)
	}
	before := node.DeepCopy()
	node.Status = corev1.NodeStatus{
		Capacity:   corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("64"), corev1.ResourceMemory: resource.MustParse("256Gi"), corev1.ResourcePods: resource.MustParse("1000")},
		Addresses:  []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: fmt.Sprintf("10.1.0.%d", i+1)}},
		Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue, Reason: "KubeletReady", LastHeartbeatTime: metav1.Now()}},
	}
	node.Status.Allocatable = node.Status.Capacity
	return super.Status().Patch(ctx, node, client.MergeFrom(before))
}
