package kinds

import (
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/bulkhead-dev/bulkhead/internal/tenancy"
)

// nodeLabels are the labels, and prefixes of labels, that tenants see.
var nodeLabels = []string{corev1.LabelHostname, corev1.LabelOSStable, corev1.LabelArchStable, corev1.LabelInstanceTypeStable, "topology.kubernetes.io/"}

// sameNode: a heartbeat concerns no tenant.
func sameNode(before, after *corev1.Node) bool {
	seen, now := virtualNode(before, true), virtualNode(after, true)
	now.Status.Conditions = withoutHeartbeats(seen.Status.Conditions, now.Status.Conditions)
	return maps.Equal(before.Labels, after.Labels) && equality.Semantic.DeepEqual(seen, now)
}

// virtualNode is what a tenant sees of a super node. The taints of one that its
// class offers are what its pods have to tolerate; others are the platform's own.
func virtualNode(super *corev1.Node, offered bool) *corev1.Node {
	super = super.DeepCopy()
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Labels: maps.Clone(super.Labels)}}
	maps.DeleteFunc(node.Labels, func(key, _ string) bool {
		for _, allowed := range nodeLabels {
			if key == allowed || (strings.HasSuffix(allowed, "/") && strings.HasPrefix(key, allowed)) {
				return false
			}
		}
		return true
	})
	node.Spec.Unschedulable = super.Spec.Unschedulable
	if offered {
		node.Spec.Taints = super.Spec.Taints
	}
	cordon := corev1.Taint{Key: corev1.TaintNodeUnschedulable, Effect: corev1.TaintEffectNoSchedule}
	if super.Spec.Unschedulable && !slices.ContainsFunc(node.Spec.Taints, func(taint corev1.Taint) bool { return taint.MatchTaint(&cordon) }) {
		node.Spec.Taints = append(node.Spec.Taints, cordon)
	}
	in := super.Status
	node.Status = corev1.NodeStatus{
		Capacity: in.Capacity, Allocatable: in.Allocatable,
		// The tenant's apiserver and scheduler ask by these what a node's kubelet can do.
		DeclaredFeatures: in.DeclaredFeatures,
		DaemonEndpoints:  corev1.NodeDaemonEndpoints{KubeletEndpoint: corev1.DaemonEndpoint{Port: tenancy.VNAgentPort}},
		NodeInfo: corev1.NodeSystemInfo{
			KernelVersion: in.NodeInfo.KernelVersion, OSImage: in.NodeInfo.OSImage, OperatingSystem: in.NodeInfo.OperatingSystem,
			Architecture: in.NodeInfo.Architecture, KubeletVersion: in.NodeInfo.KubeletVersion,
			ContainerRuntimeVersion: in.NodeInfo.ContainerRuntimeVersion,
		},
	}
	for _, address := range in.Addresses {
		if address.Type == corev1.NodeInternalIP || address.Type == corev1.NodeHostName {
			node.Status.Addresses = append(node.Status.Addresses, address)
		}
	}
	for _, condition := range in.Conditions {
		switch condition.Type {
		case corev1.NodeReady, corev1.NodeMemoryPressure, corev1.NodeDiskPressure, corev1.NodePIDPressure, corev1.NodeNetworkUnavailable:
			node.Status.Conditions = append(node.Status.Conditions, condition)
		}
	}
	return node
}

// withoutHeartbeats keeps the time of the last heartbeat that the tenant has seen
// where nothing else has changed: a heartbeat alone is not worth a write per tenant.
func withoutHeartbeats(before, after []corev1.NodeCondition) []corev1.NodeCondition {
	for i := range after {
		for _, old := range before {
			if renewed := old; old.Type == after[i].Type {
				renewed.LastHeartbeatTime = after[i].LastHeartbeatTime
				if renewed == after[i] {
					after[i].LastHeartbeatTime = old.LastHeartbeatTime
				}
			}
		}
	}
	return after
}
