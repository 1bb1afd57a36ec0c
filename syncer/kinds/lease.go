package kinds

import (
	"context"
	"hash/fnv"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	"github.com/bulkhead-dev/bulkhead/syncer/engine"
)

// A kubelet renews its node's lease every 10 seconds. Tenants' leases are renewed
// once in leaseWindow, and say that they hold longer than that.
const (
	leaseWindow   = 2 * time.Minute
	leaseDuration = 5 * time.Minute
)

// leases of virtual nodes follow those of their super nodes, at a lower rate.
func leases() engine.Kind {
	return &engine.Up[*coordinationv1.Lease]{
		Name: "leases",
		Same: func(before, after *coordinationv1.Lease) bool { return renewed(before).Equal(renewed(after)) },
		SuperKey: func(_ *engine.Link, key engine.Key) types.NamespacedName {
			return types.NamespacedName{Namespace: key.Namespace, Name: key.Name}
		},
		Targets: func(ctx context.Context, e *engine.Engine, super *coordinationv1.Lease, to func(*engine.Link, engine.Key)) error {
			node, err := engine.Get[*corev1.Node](ctx, e.Super(), "", super.Name)
			if err != nil || node == nil {
				return err
			}
			return nodeTargets(ctx, e, node, func(l *engine.Link, _ engine.Key) { to(l, leaseKey(super.Name)) })
		},
		Translate: func(ctx context.Context, l *engine.Link, key engine.Key, super, _ *coordinationv1.Lease) (*coordinationv1.Lease, error) {
			node, err := engine.Get[*corev1.Node](ctx, l.TenantReader(), "", key.Name)
			if err != nil || node == nil || !engine.Ours(node) {
				return nil, err
			}
			return virtualLease(super, node), nil
		},
		Merge: func(tenant, desired *coordinationv1.Lease) {
			tenant.Spec, tenant.OwnerReferences = desired.Spec, desired.OwnerReferences
		},
	}
}

func leaseKey(node string) engine.Key {
	return engine.Key{Resource: "leases", Namespace: corev1.NamespaceNodeLease, Name: node}
}

// virtualLease goes with the tenant's node.
func virtualLease(super *coordinationv1.Lease, node *corev1.Node) *coordinationv1.Lease {
	lease := &coordinationv1.Lease{
		ObjectMeta: metav1.ObjectMeta{OwnerReferences: []metav1.OwnerReference{{APIVersion: "v1", Kind: "Node", Name: node.Name, UID: node.UID}}},
		Spec:       coordinationv1.LeaseSpec{HolderIdentity: ptr.To(node.Name), LeaseDurationSeconds: ptr.To(int32(leaseDuration.Seconds()))},
	}
	if at := renewed(super); !at.IsZero() {
		lease.Spec.RenewTime = &metav1.MicroTime{Time: at}
	}
	return lease
}

// renewed is the begin of the window in which a lease was last renewed. The windows
// of different nodes begin at different times, so that their writes do.
func renewed(super *coordinationv1.Lease) time.Time {
	if super.Spec.RenewTime == nil || super.Spec.RenewTime.IsZero() {
		return time.Time{}
	}
	hash := fnv.New32a()
	hash.Write([]byte(super.Name))
	offset := time.Duration(hash.Sum32()) % leaseWindow
	return super.Spec.RenewTime.Add(-offset).Truncate(leaseWindow).Add(offset)
}
