package engine

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-logr/logr"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/bulkhead-dev/bulkhead/syncer/fairqueue"
	"github.com/bulkhead-dev/bulkhead/syncer/translation"
)

const (
	// reconcileTimeout bounds the handling of one key.
	reconcileTimeout = time.Minute
	// cacheTimeout bounds reads of caches where no caller has a deadline.
	cacheTimeout = 5 * time.Second
	// probeInterval is the default of Options.ProbeInterval.
	probeInterval, probeTimeout = 10 * time.Second, 5 * time.Second
)

// State of a link.
type State struct {
	// Synced: the caches are filled and the tenant's apiserver answers.
	Synced bool
	// Reason is one CamelCase word, Message a sentence for people.
	Reason, Message string
}

// The reasons of a State.
const (
	ReasonStarting    = "Starting"
	ReasonSynced      = "Synced"
	ReasonUnreachable = "Unreachable"
)

// Link is one running tenant: what lies between its cluster and the super cluster.
type Link struct {
	engine *Engine
	log    logr.Logger
	tenant atomic.Pointer[translation.Tenant]
	conn   *connection
	super  client.Client

	// ctx ends with the link. Workers are shared and know no link's end.
	ctx    context.Context //nolint:containedctx // it is the life of the link
	cancel context.CancelFunc
	done   chan struct{}

	recent   recentEvents
	unwanted *unwanted

	// filled: the caches of both sides have been, and what they hold has been enqueued.
	filled atomic.Bool
	// probeNow has the tenant's apiserver asked at once whether it is there.
	probeNow chan struct{}
	history  history
	pods     scheduling
	metrics  *tenantMetrics
	mu       sync.Mutex
	state    State
	// since when the state is as it is.
	since time.Time
	// hangs: calls of the tenant's apiserver do. ended links are announced to the
	// queues no more.
	hangs, ended bool

	// rehearsal is nil but for a link that only rehearses; rehearsing makes it.
	rehearsal  *rehearsal
	rehearsing rehearsing
}

func (e *Engine) newLink(tenant translation.Tenant, config *rest.Config) (*Link, error) {
	conn, err := e.connect(config)
	if err != nil {
		return nil, err
	}
	// The super cluster's connection is shared, the rate limit is the tenant's own.
	super, err := e.limitedClient(e.config, e.http.Transport, nil, kindMapper())
	if err != nil {
		return nil, fmt.Errorf("making a client of the super cluster: %w", err)
	}
	l := &Link{
		engine: e, log: e.log.WithValues("tenant", tenant.String()), conn: conn, super: super,
		unwanted: &unwanted{},
		done:     make(chan struct{}),
		probeNow: make(chan struct{}, 1),
		since:    time.Now(),
		metrics:  newTenantMetrics(tenant.String()),
		state:    State{Reason: ReasonStarting, Message: "the caches of the tenant's cluster are being filled"},
	}
	l.tenant.Store(&tenant)
	conn.answers.changed = l.answersChanged
	return l, nil
}

// Tenant is whose link this is.
func (l *Link) Tenant() translation.Tenant { return *l.tenant.Load() }

// Engine is what the link belongs to.
func (l *Link) Engine() *Engine { return l.engine }

// TenantReader reads the tenant's cluster from its cache.
func (l *Link) TenantReader() client.Reader { return l.conn.cache }

// TenantClient reads and writes the tenant's cluster directly.
func (l *Link) TenantClient() client.Client { return l.conn.client }

// SuperReader reads the super cluster from its cache.
func (l *Link) SuperReader() client.Reader { return l.engine.cache }

// SuperClient reads and writes the super cluster directly, at the tenant's own rate.
func (l *Link) SuperClient() client.Client { return l.super }

// State is how the link is.
func (l *Link) State() State {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.state
}

// Filled tells whether the caches of both sides are. Until then everything waits to be
// handled anyway, and reading the tenant's would block.
func (l *Link) Filled() bool { return l.filled.Load() }

func (l *Link) setState(state State) {
	l.mu.Lock()
	changed := l.state != state
	if l.state.Synced != state.Synced || l.state.Reason != state.Reason {
		l.since = time.Now()
	}
	l.state = state
	if changed {
		l.announce()
	}
	l.mu.Unlock()
	if changed {
		l.log.Info("tenant link", "synced", state.Synced, "reason", state.Reason, "message", state.Message)
		l.engine.onState(l.Tenant().Tenant)
	}
}

// announce tells the queues how the link is, and its tenant's weight. A tenant that
// does not answer hands out no keys: its handlings would hang, and keep workers from
// others. One whose calls hang has one worker, to find out when they do no more. The
// caller holds the lock, so that the latest news is told last.
func (l *Link) announce() {
	if l.ended {
		return
	}
	settings := fairqueue.Tenant{Weight: l.Tenant().Weight, Paused: !l.state.Synced}
	if l.hangs {
		settings.Workers = 1
	}
	l.engine.down.Set(l, settings)
	l.engine.up.Set(l, settings)
}

// answersChanged takes note that the calls of the tenant's apiserver hang, or are
// answered again.
func (l *Link) answersChanged() {
	l.mu.Lock()
	defer l.mu.Unlock()
	// Asked under the lock, so that the latest news is told last.
	l.hangs = l.conn.answers.hanging()
	set(l.metrics.hangs, l.hangs)
	l.announce()
	if l.hangs {
		l.log.Info("calls of the tenant's apiserver hang")
		select {
		case l.probeNow <- struct{}{}:
		default:
		}
	}
}

// settle gives the link other settings of its tenant, and tells whether it translates
// differently by them.
func (l *Link) settle(tenant translation.Tenant) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	before := l.tenant.Swap(&tenant)
	if before.Weight != tenant.Weight && l.ctx.Err() == nil {
		l.announce()
	}
	return !before.Equal(tenant)
}

// Enqueue asks for a key to be handled.
func (l *Link) Enqueue(keys ...Key) {
	for _, key := range keys {
		if kind := l.engine.kinds[key.Resource]; kind != nil {
			if l.rehearsal != nil {
				l.rehearsal.enqueue(key)
				continue
			}
			l.queueOf(kind).Add(l, key)
		}
	}
}

// EnqueueAfter asks for a key to be handled at a later time.
func (l *Link) EnqueueAfter(key Key, delay time.Duration) {
	if kind := l.engine.kinds[key.Resource]; kind != nil && l.rehearsal == nil {
		l.queueOf(kind).AddAfter(l, key, delay)
	}
}

func (l *Link) queueOf(kind Kind) *fairqueue.Queue[*Link, Key] {
	if kind.upward() {
		return l.engine.up
	}
	return l.engine.down
}

// Ensure makes the object of a key on the other side if it is missing there. It
// returns a *WaitError if that has to wait.
func (l *Link) Ensure(ctx context.Context, key Key) error {
	return l.engine.kinds[key.Resource].ensure(ctx, l, key)
}

func (l *Link) start(ctx context.Context) {
	l.ctx, l.cancel = context.WithCancel(ctx)
	l.mu.Lock()
	l.announce()
	l.mu.Unlock()
	go func() {
		defer close(l.done)
		l.run(l.ctx)
	}()
}

func (l *Link) stop() {
	l.cancel()
	<-l.done
}

// run lives as long as the link. All goroutines of the link, and all handlings of its
// keys, end before it does.
func (l *Link) run(ctx context.Context) {
	var group sync.WaitGroup
	defer func() {
		group.Wait()
		l.mu.Lock()
		l.ended = true
		down, up := l.engine.down.Remove(l), l.engine.up.Remove(l)
		l.mu.Unlock()
		<-down
		<-up
		l.conn.close()
		l.metrics.remove()
	}()
	filled, err := l.watch(ctx)
	if err != nil {
		l.setState(State{Reason: ReasonUnreachable, Message: err.Error()})
		return
	}
	group.Go(func() {
		if err := l.conn.cache.Start(ctx); err != nil {
			l.log.Error(err, "running the caches of the tenant's cluster")
		}
	})
	group.Go(func() { l.probe(ctx) })
	group.Go(func() {
		// Nothing is derived from caches that are not filled: until then the link's
		// keys are not handed out.
		if l.awaitFilled(ctx, filled) {
			l.seed(ctx)
		}
	})
	<-ctx.Done()
}

// watch registers the link's informers and returns what tells that their caches are filled.
func (l *Link) watch(ctx context.Context) (filled func() bool, err error) {
	var all []func() bool
	for _, kind := range l.engine.kinds {
		synced, err := kind.watchTenant(ctx, l)
		if err != nil {
			return nil, fmt.Errorf("watching %s in the tenant's cluster: %w", kind.Resource(), err)
		}
		all = append(all, synced)
	}
	return func() bool {
		for _, synced := range all {
			if !synced() {
				return false
			}
		}
		return true
	}, nil
}

func (l *Link) awaitFilled(ctx context.Context, filled func() bool) bool {
	if !l.engine.cache.WaitForCacheSync(ctx) {
		return false
	}
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !filled() {
		select {
		case <-ctx.Done():
			return false
		case <-tick.C:
		}
	}
	return true
}

func (l *Link) seed(ctx context.Context) {
	for _, kind := range l.engine.kinds {
		if err := kind.seed(ctx, l); err != nil {
			// The super cluster's cache is filled, so this is a fault of the program.
			l.log.Error(err, "listing what the tenant has in the super cluster", "kind", kind.Resource())
			return
		}
	}
	l.filled.Store(true)
	l.setState(State{Synced: true, Reason: ReasonSynced, Message: "changes are carried both ways"})
}

// requeueAll looks at everything again.
func (l *Link) requeueAll(ctx context.Context) error {
	var problems []error
	for _, kind := range l.engine.kinds {
		problems = append(problems, kind.seed(ctx, l), kind.lookAgain(ctx, l, ""))
	}
	return errors.Join(problems...)
}

// LookAgain looks again at all that a namespace of the tenant holds.
func (l *Link) LookAgain(namespace string) {
	ctx, cancel := context.WithTimeout(context.Background(), cacheTimeout)
	defer cancel()
	for _, kind := range l.engine.kinds {
		// A read of a cache; it fails only while the program ends.
		if err := kind.lookAgain(ctx, l, namespace); err != nil {
			l.log.V(1).Info("listing again", "kind", kind.Resource(), "namespace", namespace, "reason", err.Error())
		}
	}
}

// probe keeps the link's state. A tenant that does not answer keeps its link: the
// caches go on trying, and nothing is derived from their silence.
func (l *Link) probe(ctx context.Context) {
	tick := time.NewTicker(l.engine.probe)
	defer tick.Stop()
	failures := 0
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-l.probeNow:
			failures = max(failures, 1) // a call has hung
		}
		l.metrics.waitingDown.Set(float64(l.engine.down.Backlog(l)))
		l.metrics.waitingUp.Set(float64(l.engine.up.Backlog(l)))
		err := l.conn.alive(ctx)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			// One lost answer is no news.
			if failures++; failures > 1 {
				l.setState(State{Reason: ReasonUnreachable, Message: "the tenant's apiserver does not answer: " + err.Error()})
				l.conn.answers.abandon()
			}
		case l.filled.Load():
			failures = 0
			l.setState(State{Synced: true, Reason: ReasonSynced, Message: "changes are carried both ways"})
		}
		set(l.metrics.synced, l.State().Synced)
	}
}

// handle handles one key, and survives a fault of the code in between: one object
// that a translation cannot bear must not end the service of all tenants.
func (l *Link) handle(key Key) (again time.Duration, err error) {
	if l.ctx.Err() != nil {
		return 0, nil // what is not done is found again from the clusters
	}
	ctx, cancel := context.WithTimeout(l.ctx, reconcileTimeout)
	defer cancel()
	kind := l.engine.kinds[key.Resource]
	ctx, h := withHandling(ctx)
	ctx, span := l.startSpan(ctx, kind, key)
	result := "ok"
	defer func() {
		if fault := recover(); fault != nil {
			l.log.Error(fmt.Errorf("panic: %v", fault), "handling", "key", key, "stack", string(debug.Stack()))
			again, err, result = 0, fmt.Errorf("handling %s: panic: %v", key, fault), "panic"
		}
		reconciles.WithLabelValues(key.Resource, result).Observe(time.Since(h.started).Seconds())
		endSpan(span, result, again, err)
		l.remember(kind, key, h, result, err)
	}()
	again, err = kind.reconcile(ctx, l, key)
	switch {
	case err == nil:
	case isUnreachable(err):
		// The link's state says so once, for all keys.
		result = "unreachable"
		l.log.V(1).Info("trying again", "key", key, "reason", err.Error())
	case isExpected(err):
		result = "wait"
		l.log.V(1).Info("trying again", "key", key, "reason", err.Error())
	default:
		result = "error"
		l.log.Error(err, "handling", "key", key)
	}
	return again, err
}
