// Package engine carries services out: it does the steps of each ServiceInstance in
// their order, keeps in StepRecords what it is about to do and what it did, and takes
// that back in reverse. It derives what to do from what is stored, at any moment, and
// keeps nothing that it could lose.
package engine

import (
	"context"
	"fmt"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/events"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"

	"github.com/bulkhead-dev/bulkhead/abm/cluster"
	"github.com/bulkhead-dev/bulkhead/abm/service"
	"github.com/bulkhead-dev/bulkhead/abm/step"
	abmv1alpha1 "github.com/bulkhead-dev/bulkhead/api/abm/v1alpha1"
)

// Intervals at which instances are looked at.
const (
	// pollInterval is for what is under way.
	pollInterval = time.Second
	// blockedInterval is for what cannot begin.
	blockedInterval = 3 * time.Second
	// resyncInterval is for what is ready: what somebody changed is set back.
	resyncInterval = 2 * time.Minute
	// passTimeout bounds one look at an instance.
	passTimeout = 2 * time.Minute
)

// Reconciler carries out ServiceInstances.
type Reconciler struct {
	// Client writes instances, records and rights in the super cluster.
	Client client.Client
	// Live reads the super cluster without a cache: what was written a moment ago has
	// to be seen.
	Live     client.Reader
	Clusters *cluster.Clusters
	HTTP     step.HTTP
	Recorder events.EventRecorder
	Now      func() time.Time

	metrics *metrics

	mu sync.Mutex
	// compiled are services by the UID of their revision, which never changes.
	compiled map[types.UID]*service.Service
}

// Reconcile looks at an instance once.
func (r *Reconciler) Reconcile(ctx context.Context, request ctrl.Request) (ctrl.Result, error) {
	ctx, cancel := context.WithTimeout(ctx, passTimeout)
	defer cancel()
	instance := &abmv1alpha1.ServiceInstance{}
	if err := r.Live.Get(ctx, request.NamespacedName, instance); err != nil {
		if apierrors.IsNotFound(err) {
			return ctrl.Result{}, nil
		}
		return ctrl.Result{}, fmt.Errorf("reading instance %s: %w", request.NamespacedName, err)
	}
	p := &pass{Reconciler: r, instance: instance, before: instance.DeepCopy(), now: r.Now(), settled: map[string]bool{}}
	var err error
	if p.records, err = r.listRecords(ctx, instance); err != nil {
		return ctrl.Result{}, err
	}
	if !instance.DeletionTimestamp.IsZero() {
		return p.finish(ctx, p.release(ctx))
	}
	if !controllerutil.ContainsFinalizer(instance, abmv1alpha1.Finalizer) {
		// Nothing is done for an instance that could go without it being undone.
		patch := client.MergeFromWithOptions(instance.DeepCopy(), client.MergeFromWithOptimisticLock{})
		controllerutil.AddFinalizer(instance, abmv1alpha1.Finalizer)
		if err := r.Client.Patch(ctx, instance, patch); err != nil {
			return ctrl.Result{}, fmt.Errorf("adding the finalizer of instance %s: %w", request.NamespacedName, err)
		}
		p.before = instance.DeepCopy()
	}
	return p.finish(ctx, p.forward(ctx))
}

// pass is one look at an instance.
type pass struct {
	*Reconciler
	instance *abmv1alpha1.ServiceInstance
	// before is the instance as it is stored.
	before  *abmv1alpha1.ServiceInstance
	now     time.Time
	records map[string]*abmv1alpha1.StepRecord
	service *service.Service
	// settled are the steps that others need not wait for.
	settled map[string]bool
	// steps are what people are shown, in order.
	steps []abmv1alpha1.StepStatus
	// stalled says why the instance does not get on.
	stalled []string
	// conditions are what steps make of the instance's own ones: whether all of a
	// condition's steps are done, and what is waited for.
	conditions []stepCondition
	requeue    time.Duration
}

// again has the instance looked at in a while.
func (p *pass) again(after time.Duration) {
	if p.requeue == 0 || after < p.requeue {
		p.requeue = max(after, 10*time.Millisecond)
	}
}

func (p *pass) owner() step.Owner {
	return step.Owner{Namespace: p.instance.Namespace, Name: p.instance.Name, UID: p.instance.UID, Service: p.instance.Spec.ServiceName}
}

// run is the surroundings of a step; a cluster that cannot be opened is the error.
func (p *pass) run(ctx context.Context, record *abmv1alpha1.StepRecord) (*step.Run, error) {
	super, err := p.Clusters.Super(p.instance.Namespace, p.instance.UID)
	if err != nil {
		return nil, err
	}
	target := super
	if record.Target != nil {
		if target, err = p.Clusters.Tenant(ctx, p.instance.Namespace, *record.Target); err != nil {
			return nil, err
		}
	}
	return &step.Run{Owner: p.owner(), Record: record, Cluster: target, Super: super, HTTP: p.HTTP}, nil
}

// load finds the revision of the instance and compiles it.
func (r *Reconciler) load(ctx context.Context, name string) (*service.Service, error) {
	revision := &abmv1alpha1.ServiceRevision{}
	if err := r.Live.Get(ctx, client.ObjectKey{Name: name}, revision); err != nil {
		return nil, fmt.Errorf("reading ServiceRevision %s: %w", name, err)
	}
	r.mu.Lock()
	known := r.compiled[revision.UID]
	r.mu.Unlock()
	if known != nil {
		return known, nil
	}
	compiled, err := service.Decode(ctx, revision)
	if err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.compiled == nil || len(r.compiled) > maxCompiled {
		r.compiled = map[types.UID]*service.Service{}
	}
	r.compiled[revision.UID] = compiled
	return compiled, nil
}

// maxCompiled is how many revisions are kept compiled.
const maxCompiled = 200
