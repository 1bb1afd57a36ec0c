package engine

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/go-logr/logr"
	"go.opentelemetry.io/otel/trace"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/bulkhead-dev/bulkhead/internal/tenancy"
	"github.com/bulkhead-dev/bulkhead/syncer/fairqueue"
	"github.com/bulkhead-dev/bulkhead/syncer/translation"
)

const userAgent = "bulkhead-syncer"

// tenantIndex finds the super objects of a tenant by its UID.
const tenantIndex = "tenant"

// Options make an Engine.
type Options struct {
	Scheme *runtime.Scheme
	// Config and HTTPClient reach the super cluster.
	Config     *rest.Config
	HTTPClient *http.Client
	// Cache of the super cluster, made with CacheOptions.
	Cache cache.Cache
	// Live reads the super cluster directly.
	Live client.Reader
	// Kinds that are carried.
	Kinds []Kind
	// ProbeInterval is how often each tenant's apiserver is asked whether it is
	// there; 10 seconds if 0.
	ProbeInterval time.Duration
	// Workers bounds how many keys are handled at a time.
	Workers Workers
	// OnState is told when the state of a tenant has changed. It must not block.
	OnState func(tenancy.Tenant)
	// Leads returns an error while another replica may lead: then nothing is written.
	// Nil means that there is no other.
	Leads func() error
	// Tracer of what is handled; nil for none.
	Tracer trace.Tracer
	Log    logr.Logger
}

// Workers are how many keys are handled at a time. Zero fields mean the defaults.
type Workers struct {
	// Down and Up are shared by all tenants, for what goes to and comes from the super cluster.
	Down, Up int
	// PerTenant bounds each tenant's part of either.
	PerTenant int
}

// DefaultWorkers wait for apiservers most of their time, so they are many. A tenant
// whose apiserver hangs keeps a few of them busy.
var DefaultWorkers = Workers{Down: 100, Up: 100, PerTenant: 8}

// Engine carries the objects of many tenants.
type Engine struct {
	scheme  *runtime.Scheme
	config  *rest.Config
	http    *http.Client
	cache   cache.Cache
	live    client.Reader
	kinds   map[string]Kind
	probe   time.Duration
	onState func(tenancy.Tenant)
	leads   func() error
	tracer  trace.Tracer
	log     logr.Logger

	// down and up hold the keys of all links.
	down, up   *fairqueue.Queue[*Link, Key]
	endWorkers context.CancelFunc
	workers    sync.WaitGroup

	mu    sync.RWMutex
	links map[types.UID]*Link
}

// New makes an engine and registers its informers with the super cluster's cache,
// which must be started by the caller, before or after. The engine ends with StopAll,
// and takes no new work up once the context has ended.
func New(ctx context.Context, options Options) (*Engine, error) {
	e := &Engine{
		scheme: options.Scheme, config: rest.CopyConfig(options.Config), http: options.HTTPClient,
		cache: options.Cache, live: options.Live, kinds: map[string]Kind{}, onState: options.OnState, log: options.Log,
		links: map[types.UID]*Link{}, probe: options.ProbeInterval, leads: options.Leads, tracer: options.Tracer,
	}
	if e.leads == nil {
		e.leads = func() error { return nil }
	}
	if e.probe == 0 {
		e.probe = probeInterval
	}
	e.config.UserAgent = userAgent
	if e.onState == nil {
		e.onState = func(tenancy.Tenant) {}
	}
	for _, kind := range options.Kinds {
		e.kinds[kind.Resource()] = kind
		if err := kind.watchSuper(ctx, e); err != nil {
			return nil, fmt.Errorf("watching %s in the super cluster: %w", kind.Resource(), err)
		}
	}
	e.startWorkers(ctx, options.Workers)
	return e, nil
}

// startWorkers starts those that all links share.
func (e *Engine) startWorkers(ctx context.Context, workers Workers) {
	workers.Down = cmp.Or(workers.Down, DefaultWorkers.Down)
	workers.Up = cmp.Or(workers.Up, DefaultWorkers.Up)
	workers.PerTenant = cmp.Or(workers.PerTenant, DefaultWorkers.PerTenant)
	ctx, e.endWorkers = context.WithCancel(ctx)
	handle := func(_ context.Context, l *Link, key Key) (time.Duration, error) { return l.handle(key) }
	for _, way := range []struct {
		queue   **fairqueue.Queue[*Link, Key]
		name    string
		workers int
	}{{&e.down, "down", workers.Down}, {&e.up, "up", workers.Up}} {
		waited := waits.WithLabelValues(way.name)
		queue := fairqueue.New[*Link, Key](fairqueue.Options[*Link]{
			TenantWorkers: workers.PerTenant,
			Waited:        func(_ *Link, waiting time.Duration) { waited.Observe(waiting.Seconds()) },
		})
		*way.queue = queue
		e.workers.Go(func() { queue.Run(ctx, way.workers, handle) })
	}
}

// Super reads the super cluster from its cache. The objects it returns are the
// caller's own, except those of a list read with UnsafeDisableDeepCopy.
func (e *Engine) Super() client.Reader { return e.cache }

// Live reads the super cluster directly.
func (e *Engine) Live() client.Reader { return e.live }

// Start starts carrying a tenant's objects. It returns at once: an apiserver that
// does not answer is waited for. Starting a tenant that runs is an error.
func (e *Engine) Start(ctx context.Context, tenant translation.Tenant, config *rest.Config) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.links[tenant.UID] != nil {
		return fmt.Errorf("virtual cluster %s runs already", tenant)
	}
	link, err := e.newLink(tenant, config)
	if err != nil {
		return err
	}
	e.links[tenant.UID] = link
	link.start(ctx)
	return nil
}

// Stop ends a tenant's link and returns when all of it has ended. A tenant that
// does not run is fine.
func (e *Engine) Stop(tenant types.UID) {
	e.mu.Lock()
	link := e.links[tenant]
	delete(e.links, tenant)
	e.mu.Unlock()
	if link != nil {
		link.stop()
	}
}

// Update gives a running tenant other settings. It looks at all its objects again if
// they are translated differently by them.
func (e *Engine) Update(ctx context.Context, tenant translation.Tenant) error {
	link := e.Link(tenant.UID)
	if link == nil || !link.settle(tenant) {
		return nil
	}
	return link.requeueAll(ctx)
}

// Link returns the running link of a tenant, or nil.
func (e *Engine) Link(tenant types.UID) *Link {
	e.mu.RLock()
	defer e.mu.RUnlock()
	return e.links[tenant]
}

// Links returns all running links.
func (e *Engine) Links() []*Link {
	e.mu.RLock()
	defer e.mu.RUnlock()
	links := make([]*Link, 0, len(e.links))
	for _, link := range e.links {
		links = append(links, link)
	}
	return links
}

// StopAll ends all links, and the engine with them.
func (e *Engine) StopAll() {
	for _, link := range e.Links() {
		link.cancel() // all at once, for the waiting below is one after the other
	}
	for _, link := range e.Links() {
		e.Stop(link.Tenant().UID)
	}
	e.endWorkers()
	e.workers.Wait()
}
