package kinds

import (
	"context"
	"fmt"
	"maps"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/bulkhead-dev/bulkhead/internal/tenancy"
	"github.com/bulkhead-dev/bulkhead/syncer/engine"
)

// nodeLinger is how long a virtual node stays after its last pod has gone.
const nodeLinger = 2 * time.Minute

// nodes come up as virtual nodes where a tenant has pods (decision D8).
func nodes() engine.Kind {
	return &engine.Up[*corev1.Node]{
		Name:    "nodes",
		Targets: nodeTargets,
		Translate: func(ctx context.Context, l *engine.Link, key engine.Key, super, _ *corev1.Node) (*corev1.Node, error) {
			used, err := podsOn(ctx, l.SuperReader(), indexTenantNode, string(l.Tenant().UID)+"/"+key.Name)
			if err != nil || len(used) == 0 {
				return nil, err
			}
			return virtualNode(super), nil
		},
		Merge: func(tenant, desired *corev1.Node) {
			tenant.Spec.Unschedulable, tenant.Spec.Taints = desired.Spec.Unschedulable, desired.Spec.Taints
		},
		Status: func(tenant, desired *corev1.Node) {
			desired.Status.Conditions = withoutHeartbeats(tenant.Status.Conditions, desired.Status.Conditions)
			tenant.Status = desired.Status
		},
		Linger: nodeLinger,
	}
}

// nodeTargets are the tenants with pods on a node.
func nodeTargets(ctx context.Context, e *engine.Engine, super *corev1.Node, to func(*engine.Link, engine.Key)) error {
	tenants, err := podsOn(ctx, e.Super(), indexNode, super.Name)
	for tenant := range tenants {
		if link := e.Link(tenant); link != nil {
			to(link, engine.Key{Resource: "nodes", Name: super.Name})
		}
	}
	return err
}

// podsOn counts tenants' pods by an index.
func podsOn(ctx context.Context, super client.Reader, index, value string) (map[types.UID]int, error) {
	var list corev1.PodList
	if err := super.List(ctx, &list, client.MatchingFields{index: value}, client.UnsafeDisableDeepCopy); err != nil {
		return nil, fmt.Errorf("listing the pods of node %s: %w", value, err)
	}
	count := map[types.UID]int{}
	for i := range list.Items {
		count[types.UID(list.Items[i].Labels[tenancy.LabelTenant])]++
	}
	return count, nil
}

// nodeLabels are the labels, and prefixes of labels, that tenants see.
var nodeLabels = []string{corev1.LabelHostname, corev1.LabelOSStable, corev1.LabelArchStable, corev1.LabelInstanceTypeStable, "topology.kubernetes.io/"}

// virtualNode is what a tenant sees of a super node.
func virtualNode(super *corev1.Node) *corev1.Node {
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
	if super.Spec.Unschedulable {
		node.Spec.Taints = []corev1.Taint{{Key: corev1.TaintNodeUnschedulable, Effect: corev1.TaintEffectNoSchedule}}
	}
	in := super.Status
	node.Status = corev1.NodeStatus{
		Capacity: in.Capacity, Allocatable: in.Allocatable,
		DaemonEndpoints: corev1.NodeDaemonEndpoints{KubeletEndpoint: corev1.DaemonEndpoint{Port: tenancy.VNAgentPort}},
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
