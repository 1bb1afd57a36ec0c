package tenants

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"

	tenancyv1alpha1 "github.com/bulkhead-dev/bulkhead/api/tenancy/v1alpha1"
	"github.com/bulkhead-dev/bulkhead/internal/tenancy"
)

const (
	// deletionInterval is how often what is left of a deleted tenant is looked at.
	deletionInterval = time.Second
	// maxGrace is how long, in seconds, the pods of a deleted virtual cluster have at
	// most, whatever they ask for.
	maxGrace = 30
)

// clear deletes all that a tenant has in the super cluster, and returns what is
// left. It asks the super cluster itself: what was made a moment ago must not be
// missed. Pods go first, for the namespace controller would come back to a namespace
// only after half of its pods' grace period.
func (r *Reconciler) clear(ctx context.Context, vc *tenancyv1alpha1.VirtualCluster) (left string, err error) {
	ours := client.MatchingLabels{tenancy.LabelTenant: string(vc.UID), tenancy.LabelManagedBy: tenancy.ManagedBySyncer}
	var pods corev1.PodList
	if err := r.Engine.Live().List(ctx, &pods, ours); err != nil {
		return "", fmt.Errorf("listing the pods of virtual cluster %s/%s: %w", vc.Namespace, vc.Name, err)
	}
	for i := range pods.Items {
		if err := r.deletePod(ctx, &pods.Items[i]); err != nil {
			return "", err
		}
	}
	if len(pods.Items) > 0 {
		return fmt.Sprintf("%d pods", len(pods.Items)), nil
	}
	var namespaces corev1.NamespaceList
	if err := r.Engine.Live().List(ctx, &namespaces, ours); err != nil {
		return "", fmt.Errorf("listing the namespaces of virtual cluster %s/%s: %w", vc.Namespace, vc.Name, err)
	}
	for i := range namespaces.Items {
		namespace := &namespaces.Items[i]
		if namespace.DeletionTimestamp != nil {
			continue
		}
		if err := r.deleteObject(ctx, namespace); err != nil {
			return "", fmt.Errorf("deleting namespace %s: %w", namespace.Name, err)
		}
	}
	if len(namespaces.Items) > 0 {
		return fmt.Sprintf("%d namespaces", len(namespaces.Items)), nil
	}
	return "", nil
}

// deletePod gives a pod the grace period that it asks for, up to maxGrace.
func (r *Reconciler) deletePod(ctx context.Context, pod *corev1.Pod) error {
	grace := int64(maxGrace)
	if asked := pod.Spec.TerminationGracePeriodSeconds; asked != nil {
		grace = max(1, min(grace, *asked)) // with 0 the containers would outlive the object
	}
	if now := pod.DeletionGracePeriodSeconds; pod.DeletionTimestamp != nil && now != nil && *now <= grace {
		return nil
	}
	if err := r.deleteObject(ctx, pod, client.GracePeriodSeconds(grace)); err != nil {
		return fmt.Errorf("deleting pod %s/%s: %w", pod.Namespace, pod.Name, err)
	}
	return nil
}

// deleteObject deletes an object unless there is another of its name by now.
func (r *Reconciler) deleteObject(ctx context.Context, object client.Object, options ...client.DeleteOption) error {
	uid := object.GetUID()
	err := r.Client.Delete(ctx, object, append(options, client.Preconditions{UID: &uid})...)
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		return nil
	}
	return err
}
