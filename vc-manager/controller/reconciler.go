// Package controller makes VirtualClusters real and takes them down again. One file
// is one step.
package controller

import (
	"context"
	"fmt"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/events"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"
	"sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	tenancyv1alpha1 "github.com/bulkhead-dev/bulkhead/api/tenancy/v1alpha1"
	"github.com/bulkhead-dev/bulkhead/internal/tenancy"
	"github.com/bulkhead-dev/bulkhead/vc-manager/apply"
	"github.com/bulkhead-dev/bulkhead/vc-manager/controlplane"
	"github.com/bulkhead-dev/bulkhead/vc-manager/tenantcluster"
)

// reconcileTimeout bounds one pass over one virtual cluster. Everything in a pass
// is a request to the super cluster; tenants' apiservers are not waited for.
const reconcileTimeout = 30 * time.Second

// Reconciler makes VirtualClusters real.
type Reconciler struct {
	// Client reads from a cache that has what CacheOptions says.
	Client client.Client
	// Live reads the super cluster itself.
	Live client.Reader
	// Recorder writes events about VirtualClusters.
	Recorder events.EventRecorder
	// Platform is what all control planes have in common.
	Platform controlplane.Platform
	// NodeAgentCA returns the PEM bundle that verifies vn-agents.
	NodeAgentCA func(context.Context) ([]byte, error)
	// Dialer opens connections to tenants' apiservers; *net.Dialer outside of tests.
	Dialer tenantcluster.Dialer
	// Now is the clock by which certificates expire; time.Now outside of tests.
	Now func() time.Time

	tenants *tenantcluster.Watcher
	metrics *metrics

	mu    sync.Mutex
	known map[types.UID]*knowledge
}

// Reconcile brings one virtual cluster nearer to what its resource says.
func (r *Reconciler) Reconcile(ctx context.Context, request reconcile.Request) (reconcile.Result, error) {
	ctx, cancel := context.WithTimeout(ctx, reconcileTimeout)
	defer cancel()

	vc := &tenancyv1alpha1.VirtualCluster{}
	if err := r.Client.Get(ctx, request.NamespacedName, vc); err != nil {
		if apierrors.IsNotFound(err) {
			return r.collectOrphans(ctx, request.NamespacedName)
		}
		return reconcile.Result{}, fmt.Errorf("reading virtual cluster %s: %w", request.NamespacedName, err)
	}
	if !vc.DeletionTimestamp.IsZero() {
		return r.delete(ctx, vc)
	}
	if !controllerutil.ContainsFinalizer(vc, tenancy.FinalizerControlPlane) {
		// First of all, so that nothing is made that nobody would take down.
		if err := r.addFinalizer(ctx, vc); err != nil {
			return reconcile.Result{}, client.IgnoreNotFound(err)
		}
	}
	pass := r.newPass(vc)
	failure := pass.run(ctx)
	if err := pass.writeStatus(ctx); err != nil && !apierrors.IsNotFound(err) {
		log.FromContext(ctx).V(1).Info("Status not written", "failure", failure)
		return reconcile.Result{}, err
	}
	return reconcile.Result{RequeueAfter: pass.requeueAfter}, failure
}

func (r *Reconciler) addFinalizer(ctx context.Context, vc *tenancyv1alpha1.VirtualCluster) error {
	before := vc.DeepCopy()
	controllerutil.AddFinalizer(vc, tenancy.FinalizerControlPlane)
	// The lock: a finalizer that somebody added meanwhile must not get lost.
	patch := client.MergeFromWithOptions(before, client.MergeFromWithOptimisticLock{})
	if err := r.Client.Patch(ctx, vc, patch, client.FieldOwner(apply.FieldManager)); err != nil {
		return fmt.Errorf("adding our finalizer to %s: %w", client.ObjectKeyFromObject(vc), err)
	}
	r.metrics.created(vc.UID)
	return nil
}

func tenantOf(vc *tenancyv1alpha1.VirtualCluster) tenancy.Tenant {
	return tenancy.Tenant{UID: vc.UID, Namespace: vc.Namespace, Name: vc.Name}
}
