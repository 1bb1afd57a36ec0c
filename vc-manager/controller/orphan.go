package controller

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	tenancyv1alpha1 "github.com/bulkhead-dev/bulkhead/api/tenancy/v1alpha1"
	"github.com/bulkhead-dev/bulkhead/internal/tenancy"
	"github.com/bulkhead-dev/bulkhead/vc-manager/controlplane"
)

// collectOrphans takes down control planes whose virtual cluster is gone. A
// vc-manager that has just started, or was held up in the middle of a pass, may
// have seen an old state of the super cluster and made a namespace after another had
// removed the finalizer.
//
// Such a control plane has never run. One that has held a tenant's data is left
// alone: its virtual cluster was lost in another way, and to delete on the grounds
// that something is missing is no way to treat data.
func (r *Reconciler) collectOrphans(ctx context.Context, cluster types.NamespacedName) (reconcile.Result, error) {
	var namespaces corev1.NamespaceList
	if err := r.Client.List(ctx, &namespaces, client.MatchingFields{indexTenant: cluster.String()}); err != nil {
		return reconcile.Result{}, fmt.Errorf("listing the namespaces of %s: %w", cluster, err)
	}
	var result reconcile.Result
	for _, namespace := range namespaces.Items {
		tenant := tenancy.Tenant{UID: types.UID(namespace.Labels[tenancy.LabelTenant]), Namespace: cluster.Namespace, Name: cluster.Name}
		if namespace.Name != tenant.ControlPlaneNamespace() {
			continue
		}
		orphan, err := r.isOrphan(ctx, tenant)
		if err != nil {
			return reconcile.Result{}, err
		}
		if !orphan {
			continue
		}
		left, err := r.takeDown(ctx, tenant)
		if err != nil {
			return reconcile.Result{}, err
		}
		if left != "" {
			log.FromContext(ctx).Info("Removing a control plane without a virtual cluster", "namespace", namespace.Name, "left", left)
			result.RequeueAfter = deletionInterval
		}
	}
	return result, nil
}

// isOrphan tells whether a control plane has no virtual cluster, by what the super
// cluster says now, and has never held data.
func (r *Reconciler) isOrphan(ctx context.Context, tenant tenancy.Tenant) (bool, error) {
	vc := &tenancyv1alpha1.VirtualCluster{}
	err := r.Live.Get(ctx, client.ObjectKey{Namespace: tenant.Namespace, Name: tenant.Name}, vc)
	if client.IgnoreNotFound(err) != nil {
		return false, fmt.Errorf("reading virtual cluster %s: %w", tenant, err)
	}
	if err == nil && vc.UID == tenant.UID {
		return false, nil
	}
	config := &corev1.ConfigMap{}
	key := client.ObjectKey{Namespace: tenant.ControlPlaneNamespace(), Name: controlplane.Etcd}
	err = r.Live.Get(ctx, key, config)
	if apierrors.IsNotFound(err) {
		return true, nil
	}
	if err != nil {
		return false, fmt.Errorf("reading configmap %s: %w", key, err)
	}
	if controlplane.EtcdEstablished(config) {
		log.FromContext(ctx).Error(nil, "A control plane with data has no virtual cluster: delete its namespace by hand if it is not wanted",
			"namespace", key.Namespace, "virtualCluster", tenant.String(), "tenant", tenant.UID)
		return false, nil
	}
	return true, nil
}
