package controller

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	tenancyv1alpha1 "github.com/bulkhead-dev/bulkhead/api/tenancy/v1alpha1"
	"github.com/bulkhead-dev/bulkhead/internal/tenancy"
	"github.com/bulkhead-dev/bulkhead/vc-manager/apply"
	"github.com/bulkhead-dev/bulkhead/vc-manager/controlplane"
)

// deletionInterval is how often a deletion is looked at if no event comes. Pods are
// not watched, and are gone soon.
const deletionInterval = 500 * time.Millisecond

// delete takes a virtual cluster down: the syncer's objects first, while the
// control plane can still say what they were, then the pods, then the volume and
// the namespace with all the rest. The super cluster would delete pods and volumes
// with the namespace, too, but if something is left when it looks, it looks again
// after half of a pod's grace period, or after 5 s, then 10 s. Each step is done from
// what is there, so that it does not matter how far the virtual cluster ever got, or
// how often this is interrupted.
func (r *Reconciler) delete(ctx context.Context, vc *tenancyv1alpha1.VirtualCluster) (reconcile.Result, error) {
	if !controllerutil.ContainsFinalizer(vc, tenancy.FinalizerControlPlane) {
		return reconcile.Result{}, nil
	}
	var left string
	var err error
	if controllerutil.ContainsFinalizer(vc, tenancy.FinalizerSyncer) {
		left = "waiting for the syncer to remove the tenant's objects from the super cluster"
	} else if left, err = r.takeDown(ctx, tenantOf(vc)); err != nil {
		left = err.Error()
	}
	if left == "" {
		return reconcile.Result{}, r.removeFinalizer(ctx, vc)
	}
	status := vc.Status.DeepCopy()
	changed := meta.SetStatusCondition(&status.Conditions, metav1.Condition{
		Type: tenancyv1alpha1.ConditionReady, Status: metav1.ConditionFalse,
		Reason: tenancyv1alpha1.ReasonDeleting, Message: left, ObservedGeneration: vc.Generation,
	})
	if changed {
		if writeErr := writeStatus(ctx, r.Client, vc, *status); client.IgnoreNotFound(writeErr) != nil {
			return reconcile.Result{}, errors.Join(err, writeErr)
		}
	}
	return reconcile.Result{RequeueAfter: deletionInterval}, err
}

// takeDown does what can be done now and says what is left; nothing if it is empty.
func (r *Reconciler) takeDown(ctx context.Context, tenant tenancy.Tenant) (left string, err error) {
	r.tenants.Forget(tenant.UID)
	namespace := &corev1.Namespace{}
	err = r.Live.Get(ctx, client.ObjectKey{Name: tenant.ControlPlaneNamespace()}, namespace)
	switch {
	case apierrors.IsNotFound(err):
		return r.volumesLeft(ctx, tenant.ControlPlaneNamespace())
	case err != nil:
		return "", fmt.Errorf("reading namespace %s: %w", tenant.ControlPlaneNamespace(), err)
	}
	if err := tenancy.CheckOwned(namespace, tenant, tenancy.ManagedByManager, "namespace "+namespace.Name); err != nil {
		// Somebody else's: nothing of ours was ever in it.
		return "", nil //nolint:nilerr // not ours is no error: there is nothing to take down
	}
	if namespace.DeletionTimestamp.IsZero() {
		if left, err := r.stopWorkloads(ctx, tenant); left != "" || err != nil {
			return left, err
		}
		if err := r.deleteClaims(ctx, tenant); err != nil {
			return "", err
		}
		err = r.Client.Delete(ctx, namespace, client.Preconditions{UID: &namespace.UID})
		if err != nil && !apierrors.IsNotFound(err) {
			return "", fmt.Errorf("deleting namespace %s: %w", namespace.Name, err)
		}
	}
	return namespaceLeft(namespace), nil
}

// stopWorkloads deletes the workloads and says which of their pods are left. etcd is
// the last: an apiserver without it does not end before its grace period does.
func (r *Reconciler) stopWorkloads(ctx context.Context, tenant tenancy.Tenant) (left string, err error) {
	applier := &apply.Applier{Writer: r.Client, Live: r.Live}
	workloads := controlplane.Workloads(controlplane.Input{Tenant: tenant, Established: true})
	// In the reverse of the order in which they need each other.
	for _, stage := range [][]client.Object{workloads[1:], workloads[:1]} {
		for _, workload := range stage {
			_, err := applier.Delete(ctx, tenant, workload)
			var foreign *tenancy.ForeignError
			if err != nil && !errors.As(err, &foreign) { // what is not ours goes with the namespace
				return "", err
			}
		}
		if left, err := r.podsLeft(ctx, tenant, stage); left != "" || err != nil {
			return left, err
		}
	}
	return "", nil
}

// podsLeft says which pods of workloads are left.
func (r *Reconciler) podsLeft(ctx context.Context, tenant tenancy.Tenant, workloads []client.Object) (string, error) {
	var pods corev1.PodList
	if err := r.Live.List(ctx, &pods, client.InNamespace(tenant.ControlPlaneNamespace()), client.MatchingLabels{tenancy.LabelTenant: string(tenant.UID)}); err != nil {
		return "", fmt.Errorf("listing the pods of namespace %s: %w", tenant.ControlPlaneNamespace(), err)
	}
	var names []string
	for _, pod := range pods.Items {
		for _, workload := range workloads {
			if pod.Labels[controlplane.LabelComponent] == workload.GetName() {
				names = append(names, pod.Name)
			}
		}
	}
	if len(names) == 0 {
		return "", nil
	}
	return "waiting until the pods have ended: " + strings.Join(names, ", "), nil
}

// deleteClaims deletes the claims of volumes. They are gone soon: no pod uses them.
func (r *Reconciler) deleteClaims(ctx context.Context, tenant tenancy.Tenant) error {
	var claims corev1.PersistentVolumeClaimList
	if err := r.Live.List(ctx, &claims, client.InNamespace(tenant.ControlPlaneNamespace()), client.MatchingLabels{tenancy.LabelTenant: string(tenant.UID)}); err != nil {
		return fmt.Errorf("listing the claims of namespace %s: %w", tenant.ControlPlaneNamespace(), err)
	}
	for _, claim := range claims.Items {
		err := r.Client.Delete(ctx, &claim, client.Preconditions{UID: &claim.UID})
		if err != nil && !apierrors.IsNotFound(err) {
			return fmt.Errorf("deleting claim %s: %w", client.ObjectKeyFromObject(&claim), err)
		}
	}
	return nil
}

// namespaceLeft says in the super cluster's own words what is left in a namespace
// that is being deleted.
func namespaceLeft(namespace *corev1.Namespace) string {
	var problems []string
	for _, condition := range namespace.Status.Conditions {
		if condition.Status == corev1.ConditionTrue {
			problems = append(problems, condition.Message)
		}
	}
	message := "waiting until namespace " + namespace.Name + " is gone"
	if len(problems) > 0 {
		message += ": " + strings.Join(problems, "; ")
	}
	return message
}

// volumesLeft says which volumes of the namespace's claims are still to be deleted.
// Those that their class wants retained are not: what becomes of them is the
// platform team's business.
func (r *Reconciler) volumesLeft(ctx context.Context, namespace string) (string, error) {
	var volumes corev1.PersistentVolumeList
	if err := r.Client.List(ctx, &volumes, client.MatchingFields{indexClaimNamespace: namespace}); err != nil {
		return "", fmt.Errorf("listing the volumes of namespace %s: %w", namespace, err)
	}
	var left []string
	for _, volume := range volumes.Items {
		if volume.Spec.PersistentVolumeReclaimPolicy != corev1.PersistentVolumeReclaimDelete {
			continue
		}
		name := volume.Name
		if volume.Status.Phase == corev1.VolumeFailed {
			name += " (" + volume.Status.Message + ")"
		}
		left = append(left, name)
	}
	if len(left) == 0 {
		return "", nil
	}
	return "waiting until the volumes are deleted: " + strings.Join(left, ", "), nil
}

func (r *Reconciler) removeFinalizer(ctx context.Context, vc *tenancyv1alpha1.VirtualCluster) error {
	before := vc.DeepCopy()
	controllerutil.RemoveFinalizer(vc, tenancy.FinalizerControlPlane)
	patch := client.MergeFromWithOptions(before, client.MergeFromWithOptimisticLock{})
	err := r.Client.Patch(ctx, vc, patch, client.FieldOwner(apply.FieldManager))
	if client.IgnoreNotFound(err) != nil {
		return fmt.Errorf("removing our finalizer from %s: %w", client.ObjectKeyFromObject(vc), err)
	}
	r.forget(vc.UID)
	return nil
}
