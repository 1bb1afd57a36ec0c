// Package tenants starts and stops the engine's links: it follows VirtualClusters,
// their classes and the Secrets with their credentials.
package tenants

import (
	"context"
	"crypto/sha256"
	"fmt"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"
	"sigs.k8s.io/controller-runtime/pkg/event"
	logf "sigs.k8s.io/controller-runtime/pkg/log"

	tenancyv1alpha1 "github.com/bulkhead-dev/bulkhead/api/tenancy/v1alpha1"
	"github.com/bulkhead-dev/bulkhead/internal/kubeconfig"
	"github.com/bulkhead-dev/bulkhead/internal/tenancy"
	"github.com/bulkhead-dev/bulkhead/syncer/engine"
	"github.com/bulkhead-dev/bulkhead/syncer/translation"
)

// Reasons of the condition Synced, beside those of engine.State.
const (
	reasonControlPlane = "ControlPlaneNotReady"
	reasonCredentials  = "CredentialsNotReady"
)

// lookAgain is how often a virtual cluster is looked at without an event, in case
// that a change of its link's state was lost.
const lookAgain = 5 * time.Minute

// Reconciler makes the engine's links follow the VirtualClusters.
type Reconciler struct {
	// Client reads VirtualClusters, classes and our namespaces from the cache of the
	// super cluster, and writes.
	Client client.Client
	// Credentials reads the Secrets with the syncer's kubeconfigs.
	Credentials client.Reader
	// Engine runs the links. Whoever made it stops them all in the end.
	Engine *engine.Engine

	mu      sync.Mutex
	running map[types.NamespacedName]running
	changed chan event.GenericEvent
}

// running is what a link was started with.
type running struct {
	uid         types.UID
	credentials [sha256.Size]byte
}

// Reconcile implements reconcile.Reconciler.
func (r *Reconciler) Reconcile(ctx context.Context, request ctrl.Request) (ctrl.Result, error) {
	vc := &tenancyv1alpha1.VirtualCluster{}
	if err := r.Client.Get(ctx, request.NamespacedName, vc); err != nil {
		if !apierrors.IsNotFound(err) {
			return ctrl.Result{}, fmt.Errorf("reading virtual cluster %s: %w", request, err)
		}
		r.stop(request.NamespacedName)
		return ctrl.Result{}, nil
	}
	if at, ok := r.runningOf(request.NamespacedName); ok && at.uid != vc.UID {
		r.stop(request.NamespacedName) // another one of the same name
	}
	if vc.DeletionTimestamp != nil {
		return r.delete(ctx, vc)
	}
	state, err := r.run(ctx, vc)
	if err != nil {
		return ctrl.Result{}, err
	}
	return ctrl.Result{RequeueAfter: lookAgain}, r.setSynced(ctx, vc, state)
}

// run makes the link of a virtual cluster what it should be and returns its state.
func (r *Reconciler) run(ctx context.Context, vc *tenancyv1alpha1.VirtualCluster) (engine.State, error) {
	name := client.ObjectKeyFromObject(vc)
	at, runs := r.runningOf(name)
	// A link that runs goes on through an outage of its control plane.
	if !runs && !apiServerReady(vc) {
		return engine.State{Reason: reasonControlPlane, Message: "the control plane of the virtual cluster is not ready yet"}, nil
	}
	tenant, state, err := r.tenant(ctx, vc)
	if err != nil || state != nil {
		return valueOf(state), err
	}
	config, sum, state, err := r.credentials(ctx, tenant)
	if err != nil || state != nil {
		return valueOf(state), err
	}
	if runs && at.credentials != sum {
		logf.FromContext(ctx).Info("the credentials have changed, connecting anew")
		r.stop(name)
		runs = false
	}
	if runs {
		if err := r.Engine.Update(ctx, tenant); err != nil {
			return engine.State{}, fmt.Errorf("applying the class of virtual cluster %s: %w", name, err)
		}
	} else {
		if err := r.addFinalizer(ctx, vc); err != nil {
			return engine.State{}, err
		}
		// A link lives longer than this call: until it is stopped.
		if err := r.Engine.Start(context.WithoutCancel(ctx), tenant, config); err != nil {
			return engine.State{}, fmt.Errorf("starting virtual cluster %s: %w", name, err)
		}
		r.mu.Lock()
		r.running[name] = running{uid: vc.UID, credentials: sum}
		r.mu.Unlock()
	}
	return r.Engine.Link(vc.UID).State(), nil
}

// tenant reads the class. A state says why that is not possible yet.
func (r *Reconciler) tenant(ctx context.Context, vc *tenancyv1alpha1.VirtualCluster) (translation.Tenant, *engine.State, error) {
	class := &tenancyv1alpha1.VirtualClusterClass{}
	if err := r.Client.Get(ctx, client.ObjectKey{Name: vc.Spec.ClassName}, class); err != nil {
		if apierrors.IsNotFound(err) {
			return translation.Tenant{}, &engine.State{Reason: tenancyv1alpha1.ReasonClassNotFound, Message: "there is no VirtualClusterClass " + vc.Spec.ClassName}, nil
		}
		return translation.Tenant{}, nil, fmt.Errorf("reading class %s: %w", vc.Spec.ClassName, err)
	}
	tenant, err := translation.NewTenant(vc, class)
	if err != nil {
		message := fmt.Sprintf("VirtualClusterClass %s with this virtual cluster: %v", class.Name, err)
		return translation.Tenant{}, &engine.State{Reason: tenancyv1alpha1.ReasonClassInvalid, Message: message}, nil
	}
	return tenant, nil, nil
}

// credentials reads the syncer's kubeconfig for a tenant. A state says why that is
// not possible yet; a changed Secret is an event.
func (r *Reconciler) credentials(ctx context.Context, tenant translation.Tenant) (*rest.Config, [sha256.Size]byte, *engine.State, error) {
	var sum [sha256.Size]byte
	key := client.ObjectKey{Namespace: tenant.ControlPlaneNamespace(), Name: tenancy.SyncerKubeconfigSecret}
	secret := &corev1.Secret{}
	if err := r.Credentials.Get(ctx, key, secret); err != nil {
		if apierrors.IsNotFound(err) {
			return nil, sum, &engine.State{Reason: reasonCredentials, Message: "there is no Secret " + key.String() + " yet"}, nil
		}
		return nil, sum, nil, fmt.Errorf("reading secret %s: %w", key, err)
	}
	if err := tenancy.CheckOwned(secret, tenant.Tenant, tenancy.ManagedByManager, "secret "+key.String()); err != nil {
		return nil, sum, &engine.State{Reason: tenancyv1alpha1.ReasonNameTaken, Message: err.Error()}, nil //nolint:nilerr // the state says it
	}
	data := secret.Data[tenancy.KubeconfigKey]
	config, err := kubeconfig.RESTConfig(data)
	if err != nil {
		return nil, sum, &engine.State{Reason: reasonCredentials, Message: fmt.Sprintf("secret %s: %v", key, err)}, nil
	}
	return config, sha256.Sum256(data), nil, nil
}

func (r *Reconciler) addFinalizer(ctx context.Context, vc *tenancyv1alpha1.VirtualCluster) error {
	before := vc.DeepCopy()
	if !controllerutil.AddFinalizer(vc, tenancy.FinalizerSyncer) {
		return nil
	}
	if err := r.Client.Patch(ctx, vc, client.MergeFromWithOptions(before, client.MergeFromWithOptimisticLock{})); err != nil {
		return fmt.Errorf("adding our finalizer to virtual cluster %s/%s: %w", vc.Namespace, vc.Name, err)
	}
	return nil
}

// delete stops the link and deletes all that the tenant has in the super cluster.
func (r *Reconciler) delete(ctx context.Context, vc *tenancyv1alpha1.VirtualCluster) (ctrl.Result, error) {
	r.stop(client.ObjectKeyFromObject(vc))
	if !controllerutil.ContainsFinalizer(vc, tenancy.FinalizerSyncer) {
		return ctrl.Result{}, nil
	}
	left, err := r.clear(ctx, vc)
	if err != nil {
		return ctrl.Result{}, err
	}
	if left != "" {
		state := engine.State{Reason: tenancyv1alpha1.ReasonDeleting, Message: "being deleted in the super cluster: " + left}
		return ctrl.Result{RequeueAfter: deletionInterval}, r.setSynced(ctx, vc, state)
	}
	before := vc.DeepCopy()
	controllerutil.RemoveFinalizer(vc, tenancy.FinalizerSyncer)
	if err := r.Client.Patch(ctx, vc, client.MergeFromWithOptions(before, client.MergeFromWithOptimisticLock{})); err != nil {
		return ctrl.Result{}, client.IgnoreNotFound(fmt.Errorf("removing our finalizer from virtual cluster %s/%s: %w", vc.Namespace, vc.Name, err))
	}
	return ctrl.Result{}, nil
}

func (r *Reconciler) runningOf(name types.NamespacedName) (running, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	at, ok := r.running[name]
	return at, ok
}

// stop ends the link of a virtual cluster, if it runs.
func (r *Reconciler) stop(name types.NamespacedName) {
	at, ok := r.runningOf(name)
	if !ok {
		return
	}
	r.Engine.Stop(at.uid)
	r.mu.Lock()
	delete(r.running, name)
	r.mu.Unlock()
}

func apiServerReady(vc *tenancyv1alpha1.VirtualCluster) bool {
	return meta.IsStatusConditionTrue(vc.Status.Conditions, tenancyv1alpha1.ConditionAPIServerReady) ||
		meta.IsStatusConditionTrue(vc.Status.Conditions, tenancyv1alpha1.ConditionReady)
}

func valueOf(state *engine.State) engine.State {
	if state == nil {
		return engine.State{}
	}
	return *state
}
