// Package node knows the zone of the node that tenant-proxy runs on, as the super
// cluster has it.
package node

import (
	"context"
	"fmt"
	"sync"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// Zone follows the zone of one node.
type Zone struct {
	// Name of the node.
	Name string
	// Set is told the zone, first and when it changes.
	Set func(zone string)

	reader client.Reader
	once   sync.Once
	known  chan struct{}
}

// CacheObject is what a cache has to watch: the node's metadata.
func CacheObject() client.Object { return empty() }

func empty() *metav1.PartialObjectMetadata {
	node := &metav1.PartialObjectMetadata{}
	node.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("Node"))
	return node
}

// CacheOptions narrow a watch of nodes to the one.
func CacheOptions(name string) cache.ByObject {
	return cache.ByObject{Field: fields.OneTermEqualSelector("metadata.name", name), Transform: cache.TransformStripManagedFields()}
}

// SetupWithManager has the manager run it.
func (z *Zone) SetupWithManager(manager ctrl.Manager) error {
	z.reader, z.known = manager.GetCache(), make(chan struct{})
	return ctrl.NewControllerManagedBy(manager).Named("node").For(CacheObject(), builder.OnlyMetadata).Complete(z)
}

// Reconcile takes in the node's labels. While the node is not there its last zone
// counts.
func (z *Zone) Reconcile(ctx context.Context, request ctrl.Request) (ctrl.Result, error) {
	node := empty()
	if err := z.reader.Get(ctx, request.NamespacedName, node); err != nil {
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	z.Set(node.Labels[corev1.LabelTopologyZone])
	z.once.Do(func() { close(z.known) })
	return ctrl.Result{}, nil
}

// Wait returns when the zone is known; a pod runs on a node, so there is one.
func (z *Zone) Wait(ctx context.Context) error {
	select {
	case <-z.known:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("waiting for node %s: %w", z.Name, ctx.Err())
	}
}
