package identity

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/util/workqueue"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	tenancyv1alpha1 "github.com/bulkhead-dev/bulkhead/api/tenancy/v1alpha1"
	"github.com/bulkhead-dev/bulkhead/internal/tenancy"
)

const (
	// readTimeout bounds the reads of one reconciliation.
	readTimeout = 10 * time.Second
	// retryMissing is when to look again for a Secret that is not there yet. Every
	// change of the VirtualCluster's status looks at once.
	retryMissing = 15 * time.Second
	// workers is how many tenants are read at a time.
	workers = 4
)

// Reconciler keeps a Registry like the VirtualClusters of the super cluster.
type Reconciler struct {
	// Reader reads VirtualClusters; a cache.
	Reader client.Reader
	// Secrets reads the tenants' Secrets straight from the apiserver: vn-agent may
	// get them by name, not list or watch them.
	Secrets client.Reader
	// Registry is what is kept up to date.
	Registry *Registry
	// Resync is how often credentials are read again although nothing was seen to
	// change; renewed ones are noticed by then at the latest.
	Resync time.Duration
}

// SetupWithManager has the manager run the reconciler.
func (r *Reconciler) SetupWithManager(manager ctrl.Manager) error {
	return ctrl.NewControllerManagedBy(manager).
		Named("identity").
		For(&tenancyv1alpha1.VirtualCluster{}).
		WithOptions(controller.Options{
			MaxConcurrentReconciles: workers,
			RateLimiter:             workqueue.NewTypedItemExponentialFailureRateLimiter[reconcile.Request](time.Second, time.Minute),
		}).
		Complete(r)
}

// Reconcile reads one tenant's credentials into the registry. Credentials that
// cannot be read leave those that were good before in force.
func (r *Reconciler) Reconcile(ctx context.Context, request ctrl.Request) (ctrl.Result, error) {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	log := ctrl.LoggerFrom(ctx)
	var vc tenancyv1alpha1.VirtualCluster
	if err := r.Reader.Get(ctx, request.NamespacedName, &vc); apierrors.IsNotFound(err) {
		r.Registry.Remove(request.NamespacedName)
		log.Info("virtual cluster is gone and served no longer")
		return ctrl.Result{}, nil
	} else if err != nil {
		return ctrl.Result{}, fmt.Errorf("reading virtual cluster %s: %w", request, err)
	}
	tenant := tenancy.Tenant{UID: vc.UID, Namespace: vc.Namespace, Name: vc.Name}
	log = log.WithValues("tenant", tenant.UID)

	key := client.ObjectKey{Namespace: tenant.ControlPlaneNamespace(), Name: tenancy.VNAgentKubeconfigSecret}
	var secret corev1.Secret
	if err := r.Secrets.Get(ctx, key, &secret); apierrors.IsNotFound(err) || apierrors.IsForbidden(err) {
		// The right to read the Secret is granted when it is made, not before.
		log.V(1).Info("credentials are not there yet", "secret", key, "answer", err.Error())
		return ctrl.Result{RequeueAfter: retryMissing}, nil
	} else if err != nil {
		return ctrl.Result{}, fmt.Errorf("reading secret %s: %w", key, err)
	}
	if err := r.renew(tenant, &secret); err != nil {
		return ctrl.Result{}, fmt.Errorf("secret %s of virtual cluster %s: %w", key, tenant, err)
	}
	return ctrl.Result{RequeueAfter: wait.Jitter(r.Resync, 0.2)}, nil
}

func (r *Reconciler) renew(tenant tenancy.Tenant, secret *corev1.Secret) error {
	if err := tenancy.CheckOwned(secret, tenant, tenancy.ManagedByManager, "the secret"); err != nil {
		return err
	}
	cas, err := ParseClientCAs(secret.Data[tenancy.KubeletClientCAKey])
	if err != nil {
		return err
	}
	return r.Registry.Set(tenant, Credentials{ClientCAs: cas, Kubeconfig: secret.Data[tenancy.KubeconfigKey]})
}
