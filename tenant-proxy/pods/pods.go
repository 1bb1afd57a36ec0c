// Package pods knows which pods on this node belong to which tenant, from the marks
// of the super namespaces they are in (decision D11), tells cri-ext, and has tenants
// watched while they have pods here.
package pods

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/selection"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/workqueue"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/bulkhead-dev/bulkhead/internal/feed"
	"github.com/bulkhead-dev/bulkhead/internal/tenancy"
)

const (
	// workers is how many namespaces are asked for at a time.
	workers = 4
	// readTimeout bounds the reads for one pod.
	readTimeout = 10 * time.Second
	// retryFirst is when a pod of the first list that could not be read is tried again.
	retryFirst = time.Second
)

// Feed takes the pods; see feed.Client.
type Feed interface {
	PutPod(feed.Pod)
	RemovePod(types.UID)
	PodsComplete()
}

// Tenants are told how many pods need a tenant's rules; see tenants.Tenants.
type Tenants interface {
	Hold(tenancy.Tenant)
	Release(tenant types.UID)
}

// Pods follows the pods of this node.
type Pods struct {
	cache   cache.Cache
	owners  owners
	feed    Feed
	tenants Tenants

	// complete says that all of the first list were told.
	complete atomic.Bool

	mu sync.Mutex
	// byName are the pods that were told, byUID the same.
	byName map[types.NamespacedName]feed.Pod
	byUID  map[types.UID]feed.Pod
	// inNamespace counts them.
	inNamespace map[string]int
}

// CacheObject is what a cache has to watch: pods' metadata only, so that no tenant's
// pod spec is held here.
func CacheObject() client.Object {
	pod := &metav1.PartialObjectMetadata{}
	pod.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("Pod"))
	return pod
}

// CacheOptions narrow the watch to what is marked as a tenant's and has not ended on
// the node, and each pod to its marks.
func CacheOptions(nodeName string) (cache.ByObject, error) {
	marked, err := labels.NewRequirement(tenancy.LabelTenant, selection.Exists, nil)
	if err != nil {
		return cache.ByObject{}, fmt.Errorf("selecting tenants' pods: %w", err)
	}
	return cache.ByObject{
		Field: fields.AndSelectors(
			fields.OneTermEqualSelector("spec.nodeName", nodeName),
			fields.OneTermNotEqualSelector("status.phase", string(corev1.PodSucceeded)),
			fields.OneTermNotEqualSelector("status.phase", string(corev1.PodFailed)),
		),
		Label: labels.NewSelector().Add(*marked),
		Transform: func(object any) (any, error) {
			if pod, ok := object.(*metav1.PartialObjectMetadata); ok {
				pod.ManagedFields, pod.OwnerReferences, pod.Finalizers, pod.Annotations = nil, nil, nil, nil
				pod.Labels = map[string]string{tenancy.LabelTenant: pod.Labels[tenancy.LabelTenant]}
			}
			return object, nil
		},
	}, nil
}

// New makes Pods over a cache that was given CacheOptions for CacheObject.
// namespaces reads namespaces straight from the apiserver.
func New(pods cache.Cache, namespaces client.Reader, to Feed, tenants Tenants) *Pods {
	return &Pods{
		cache: pods, owners: owners{reader: namespaces, known: map[string]owner{}}, feed: to, tenants: tenants,
		byName: map[types.NamespacedName]feed.Pod{}, byUID: map[types.UID]feed.Pod{}, inNamespace: map[string]int{},
	}
}

// SetupWithManager has the manager run it.
func (p *Pods) SetupWithManager(manager ctrl.Manager) error {
	err := ctrl.NewControllerManagedBy(manager).
		Named("pods").
		For(CacheObject(), builder.OnlyMetadata).
		WithOptions(controller.Options{
			MaxConcurrentReconciles: workers,
			// A pod waits for this; nothing else is behind it in the queue.
			RateLimiter: workqueue.NewTypedItemExponentialFailureRateLimiter[reconcile.Request](100*time.Millisecond, 15*time.Second),
		}).
		Complete(p)
	if err != nil {
		return err
	}
	return manager.Add(p)
}

// Start tells of all pods of the first list and then that they were all. The manager
// calls it once caches are filled.
func (p *Pods) Start(ctx context.Context) error {
	list := &metav1.PartialObjectMetadataList{}
	list.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("PodList"))
	if err := p.cache.List(ctx, list); err != nil {
		return fmt.Errorf("listing the pods of this node: %w", err)
	}
	for i := range list.Items {
		request := ctrl.Request{NamespacedName: client.ObjectKeyFromObject(&list.Items[i])}
		for {
			_, err := p.Reconcile(ctx, request)
			if err == nil {
				break
			}
			ctrl.LoggerFrom(ctx).Error(err, "Cannot tell whose a pod is", "pod", request.String())
			select {
			case <-ctx.Done():
				return nil
			case <-time.After(retryFirst):
			}
		}
	}
	p.feed.PodsComplete()
	p.complete.Store(true)
	<-ctx.Done()
	return nil
}

// Complete tells whether all pods of the first list were told.
func (p *Pods) Complete() bool { return p.complete.Load() }

// Reconcile tells of one pod.
func (p *Pods) Reconcile(ctx context.Context, request ctrl.Request) (ctrl.Result, error) {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	owner, owned, err := p.owners.of(ctx, request.Namespace)
	if err != nil {
		return ctrl.Result{}, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	// Looked at under the lock, so that what is told last is what was seen last.
	pod := &metav1.PartialObjectMetadata{}
	pod.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("Pod"))
	err = p.cache.Get(ctx, request.NamespacedName, pod)
	switch {
	case apierrors.IsNotFound(err):
		p.remove(request.NamespacedName)
		return ctrl.Result{}, nil
	case err != nil:
		return ctrl.Result{}, fmt.Errorf("reading pod %s: %w", request.NamespacedName, err)
	case !owned || pod.Labels[tenancy.LabelTenant] != string(owner.UID):
		// A mark on a pod alone says nothing; one that contradicts its namespace's
		// leaves open whose it is. Neither gets any rules.
		ctrl.LoggerFrom(ctx).Info("A pod bears a tenant's mark that its namespace does not", "pod", request.String(), "mark", pod.Labels[tenancy.LabelTenant])
		p.remove(request.NamespacedName)
		return ctrl.Result{}, nil
	}
	p.put(owner, feed.Pod{
		UID: pod.UID, Namespace: pod.Namespace, Name: pod.Name, Tenant: owner.UID, ControlPlane: owner.controlPlane,
	})
	return ctrl.Result{}, nil
}

func (p *Pods) put(owner owner, pod feed.Pod) {
	name := types.NamespacedName{Namespace: pod.Namespace, Name: pod.Name}
	known, was := p.byName[name]
	if was && known == pod {
		return
	}
	// Before the old one goes, so that its tenant is not let go in between.
	if !pod.ControlPlane {
		p.tenants.Hold(owner.Tenant)
	}
	if was {
		p.remove(name)
	}
	p.byName[name], p.byUID[pod.UID] = pod, pod
	p.inNamespace[name.Namespace]++
	p.feed.PutPod(pod)
}

func (p *Pods) remove(name types.NamespacedName) {
	pod, known := p.byName[name]
	if !known {
		return
	}
	delete(p.byName, name)
	delete(p.byUID, pod.UID)
	p.feed.RemovePod(pod.UID)
	if !pod.ControlPlane {
		p.tenants.Release(pod.Tenant)
	}
	if p.inNamespace[name.Namespace]--; p.inNamespace[name.Namespace] == 0 {
		delete(p.inNamespace, name.Namespace)
		p.owners.forget(name.Namespace)
	}
}

// Known tells whether a pod is on this node as cri-ext says.
func (p *Pods) Known(pod feed.Pod) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.byUID[pod.UID] == pod
}

// Len is the number of tenants' pods on this node.
func (p *Pods) Len() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.byUID)
}
