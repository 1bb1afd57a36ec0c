package kinds

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/bulkhead-dev/bulkhead/internal/tenancy"
	"github.com/bulkhead-dev/bulkhead/syncer/engine"
)

// nodeLinger is how long a virtual node stays after its last pod has gone.
const nodeLinger = 2 * time.Minute

// nodes come up as virtual nodes where a tenant has pods, and where its class offers
// them (decision D8).
func nodes() engine.Kind {
	return &engine.Up[*corev1.Node]{
		Name:    "nodes",
		Targets: nodeTargets,
		Same:    sameNode,
		Translate: func(ctx context.Context, l *engine.Link, key engine.Key, super, present *corev1.Node) (*corev1.Node, error) {
			offered := l.Tenant().OffersNode(super.Labels)
			if !offered {
				used, err := podsOn(ctx, l.SuperReader(), indexTenantNode, string(l.Tenant().UID)+"/"+key.Name)
				if err != nil || len(used) == 0 {
					return nil, err
				}
			}
			if present != nil {
				l.Enqueue(leaseKey(key.Name)) // which waits for the node
			}
			return virtualNode(super, offered), nil
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

// nodeTargets are the tenants with pods on a node, and those whose class may offer it,
// or has done so.
func nodeTargets(ctx context.Context, e *engine.Engine, super *corev1.Node, to func(*engine.Link, engine.Key)) error {
	tenants, err := podsOn(ctx, e.Super(), indexNode, super.Name)
	for tenant := range tenants {
		if link := e.Link(tenant); link != nil {
			to(link, engine.Key{Resource: "nodes", Name: super.Name})
		}
	}
	for _, link := range e.Links() {
		if link.Tenant().Nodes != nil {
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
