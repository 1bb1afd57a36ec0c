// Package sandbox keeps each of the node's sandboxes at its tenant's rules, and lets
// no container start before they are in.
//
// A sandbox belongs to the tenant that the feeder's record of its pod says, and
// never to another. It has a worker of its own, which alone talks to it: what one
// sandbox does, or fails to do, another does not feel.
package sandbox

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/go-logr/logr"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"k8s.io/apimachinery/pkg/types"

	"github.com/bulkhead-dev/bulkhead/cri-ext/channel"
	"github.com/bulkhead-dev/bulkhead/cri-ext/cri"
	"github.com/bulkhead-dev/bulkhead/internal/feed"
	"github.com/bulkhead-dev/bulkhead/internal/ruleset"
	"github.com/bulkhead-dev/bulkhead/internal/tenancy"
)

// Options are what a Registry needs.
type Options struct {
	Runtime *cri.Runtime
	// Open makes the channel into a sandbox. It does not connect yet.
	Open func(recipient ruleset.Recipient, status cri.Status) (channel.Channel, error)
	// Report tells something about a pod.
	Report func(feed.Report)
	// Gate tells whether containers wait for the rules.
	Gate bool
	// GateTimeout is how long they do.
	GateTimeout time.Duration
	// RepairInterval is how often what a sandbox holds is compared with what it should.
	RepairInterval time.Duration
	// PatrolInterval is how often the runtime is asked which sandboxes there are.
	PatrolInterval time.Duration
	Log            logr.Logger
}

// containersKept is how many containers' sandboxes are remembered. The runtime is
// asked for others.
const containersKept = 8192

// closeTimeout is for a channel to close before its sandbox is stopped.
const closeTimeout = 2 * time.Second

// Registry knows the node's sandboxes.
type Registry struct {
	options Options
	metrics *Metrics
	records *records

	mu        sync.RWMutex
	closed    bool
	sandboxes map[string]*sandbox
	// removed are sandboxes that have gone since the last patrol began, and when.
	removed map[string]time.Time
	// others are sandboxes that are no tenant's.
	others map[string]bool
	// containers are sandboxes by container, and in the order in which they came.
	containers map[string]string
	order      []string
}

// New makes a registry. Run has to run for it to do anything.
func New(options Options) *Registry {
	for interval, usual := range map[*time.Duration]time.Duration{
		&options.GateTimeout: 30 * time.Second, &options.RepairInterval: time.Minute, &options.PatrolInterval: time.Minute,
	} {
		if *interval <= 0 {
			*interval = usual
		}
	}
	r := &Registry{
		options: options, records: newRecords(),
		sandboxes: map[string]*sandbox{}, removed: map[string]time.Time{}, others: map[string]bool{}, containers: map[string]string{},
	}
	r.metrics = newMetrics(r)
	r.records.changedPod = func(uid types.UID) { r.poke(func(s *sandbox) bool { return s.UID == uid }) }
	r.records.changedTenant = func(uid types.UID) { r.poke(func(s *sandbox) bool { return s.tenant() == uid }) }
	r.records.inUse = r.inUse
	return r
}

// Receiver takes what the feeder says.
func (r *Registry) Receiver() feed.Receiver { return r.records }

// Metrics are the registry's.
func (r *Registry) Metrics() *Metrics { return r.metrics }

// Run finds out which sandboxes there are, now and again, until ctx ends. Then the
// channels are closed; the rules stay.
func (r *Registry) Run(ctx context.Context) error {
	defer r.close()
	wait := time.Duration(0)
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait):
		}
		wait = r.options.PatrolInterval
		if err := r.patrol(ctx); err != nil && ctx.Err() == nil {
			r.options.Log.Error(err, "Comparing sandboxes with the runtime's")
			wait = min(wait, 2*time.Second)
		}
	}
}

func (r *Registry) close() {
	r.mu.Lock()
	r.closed = true
	r.mu.Unlock()
	for _, s := range r.all() {
		s.end()
	}
	for _, s := range r.all() {
		<-s.done
	}
}

// patrol takes in sandboxes that came, and drops those that went, without a call that
// we saw: before a restart of ours, or by hand.
func (r *Registry) patrol(ctx context.Context) error {
	before := time.Now()
	present, err := r.options.Runtime.Sandboxes(ctx)
	if err != nil {
		return err
	}
	containers, err := r.options.Runtime.Containers(ctx)
	if err != nil {
		return err
	}
	r.mu.Lock()
	for id, at := range r.removed {
		if at.After(before) {
			delete(present, id) // it may have been listed before it went
		} else {
			delete(r.removed, id)
		}
	}
	r.mu.Unlock()
	for _, s := range present {
		r.Add(s)
	}
	for container, sandbox := range containers {
		r.AddContainer(container, sandbox)
	}
	r.mu.Lock()
	for id := range r.others {
		if _, there := present[id]; !there {
			delete(r.others, id)
		}
	}
	r.mu.Unlock()
	for _, s := range r.all() {
		if _, there := present[s.ID]; !there && s.seen.Before(before) {
			r.options.Log.Info("A sandbox has ended", "sandbox", s.ID, "pod", s.Pod())
			r.Remove(s.ID)
		}
	}
	return nil
}

// Add takes a sandbox in, and begins to bring its tenant's rules into it. It does not
// wait.
func (r *Registry) Add(s cri.Sandbox) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !tenancy.MaybeTenantNamespace(s.Namespace) {
		r.others[s.ID] = true
		return
	}
	if known := r.sandboxes[s.ID]; known != nil {
		if known.UID != s.UID || known.Pod() != s.Pod() {
			r.metrics.mismatches.Inc()
			known.refuse("the runtime has given its ID to another pod")
		}
		return
	}
	if r.closed {
		return
	}
	ctx, end := context.WithCancel(context.Background())
	added := newSandbox(s, end)
	r.sandboxes[s.ID] = added
	w := &worker{sandbox: added, registry: r, log: r.options.Log.WithValues("sandbox", s.ID, "pod", s.Pod())}
	go w.run(ctx)
}

// AddContainer remembers which sandbox a container is in.
func (r *Registry) AddContainer(container, sandbox string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, known := r.containers[container]; known {
		return
	}
	if len(r.order) == containersKept {
		delete(r.containers, r.order[0])
		r.order = r.order[1:]
	}
	r.containers[container] = sandbox
	r.order = append(r.order, container)
}

// Remove lets go of a sandbox that ends: its channel is closed, and what is known of it
// forgotten. If it does not end after all, the next patrol takes it in again.
func (r *Registry) Remove(id string) {
	r.mu.Lock()
	s := r.sandboxes[id]
	delete(r.sandboxes, id)
	delete(r.others, id)
	if s != nil {
		r.removed[id] = time.Now()
	}
	r.mu.Unlock()
	if s == nil {
		return
	}
	s.end()
	select {
	case <-s.done:
	case <-time.After(closeTimeout): // it ends by itself; the pod's end need not wait
	}
	s.set(Stopped, "the sandbox has been stopped")
	if tenant := s.tenant(); tenant != "" && !r.inUse(tenant) {
		r.records.unused(tenant)
	}
}

// find returns a tenant's sandbox, or nil for one that is no tenant's. One that is not
// known is asked for, and is a NotFound status if the runtime does not know it either.
func (r *Registry) find(ctx context.Context, id string) (*sandbox, error) {
	for range 2 {
		r.mu.RLock()
		s, other := r.sandboxes[id], r.others[id]
		r.mu.RUnlock()
		if s != nil || other {
			return s, nil
		}
		found, err := r.options.Runtime.Status(ctx, id)
		if err != nil {
			return nil, err
		}
		if !found.Ready {
			return nil, status.Errorf(codes.FailedPrecondition, "sandbox %s has ended", id)
		}
		r.Add(found.Sandbox)
	}
	return nil, status.Errorf(codes.Unavailable, "sandbox %s comes and goes", id)
}

// sandboxOf returns the sandbox of a container, like find.
func (r *Registry) sandboxOf(ctx context.Context, container string) (*sandbox, error) {
	r.mu.RLock()
	id, known := r.containers[container]
	r.mu.RUnlock()
	if !known {
		var err error
		if id, err = r.options.Runtime.SandboxOf(ctx, container); err != nil {
			return nil, err
		}
	}
	return r.find(ctx, id)
}

func (r *Registry) all() []*sandbox {
	r.mu.RLock()
	defer r.mu.RUnlock()
	all := make([]*sandbox, 0, len(r.sandboxes))
	for _, s := range r.sandboxes {
		all = append(all, s)
	}
	return all
}

func (r *Registry) poke(which func(*sandbox) bool) {
	for _, s := range r.all() {
		if which(s) {
			s.poke()
		}
	}
}

func (r *Registry) inUse(tenant types.UID) bool {
	for _, s := range r.all() {
		if s.tenant() == tenant {
			return true
		}
	}
	return false
}

// errEnded is what a worker answers once its sandbox has ended.
var errEnded = errors.New("the sandbox has ended")
