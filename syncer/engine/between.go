package engine

import (
	"context"
	"fmt"
	"time"

	"github.com/go-logr/logr"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	toolscache "k8s.io/client-go/tools/cache"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/bulkhead-dev/bulkhead/internal/tenancy"
	"github.com/bulkhead-dev/bulkhead/syncer/fairqueue"
	"github.com/bulkhead-dev/bulkhead/syncer/translation"
)

// Store is a cluster that is read and written without an apiserver, such as one in memory.
type Store interface {
	client.Client
	client.FieldIndexer
}

// Pair is a link between two stores that nothing drives: whoever has it says what is
// handled. It handles as any link does, so that kinds can be tried on objects of all
// sorts, very many of them, for which no apiserver is fast enough.
type Pair struct {
	*Link
}

// Between makes a pair of a tenant's cluster and the super cluster.
func Between(ctx context.Context, scheme *runtime.Scheme, kinds []Kind, tenant translation.Tenant, super, cluster Store) (Pair, error) {
	e := &Engine{
		scheme: scheme, cache: direct{store: super}, live: super, kinds: map[string]Kind{}, onState: func(tenancy.Tenant) {},
		leads: func() error { return nil }, log: logr.Discard(), links: map[types.UID]*Link{},
		down: fairqueue.New[*Link, Key](fairqueue.Options[*Link]{}), up: fairqueue.New[*Link, Key](fairqueue.Options[*Link]{}),
	}
	l := &Link{
		engine: e, log: logr.Discard(), super: super, conn: &connection{client: cluster, cache: direct{store: cluster}, answers: &answers{}},
		ctx: ctx, unwanted: &unwanted{}, state: State{Synced: true, Reason: ReasonSynced},
	}
	l.tenant.Store(&tenant)
	l.filled.Store(true)
	e.links[tenant.UID] = l
	for _, kind := range kinds {
		e.kinds[kind.Resource()] = kind
		if err := kind.watchSuper(ctx, e); err != nil {
			return Pair{}, fmt.Errorf("indexing %s of the super cluster: %w", kind.Resource(), err)
		}
		if _, err := kind.watchTenant(ctx, l); err != nil {
			return Pair{}, fmt.Errorf("indexing %s of the tenant's cluster: %w", kind.Resource(), err)
		}
	}
	return Pair{l}, nil
}

// Handle handles a key once. What a link survives, a panic, is the caller's.
func (p Pair) Handle(key Key) (again time.Duration, err error) {
	ctx, _ := withHandling(p.ctx)
	return p.engine.kinds[key.Resource].reconcile(ctx, p.Link, key)
}

// direct takes a store for a cache that is always current and tells of nothing.
type direct struct {
	cache.Cache
	store Store
}

func (d direct) Get(ctx context.Context, key client.ObjectKey, object client.Object, options ...client.GetOption) error {
	return d.store.Get(ctx, key, object, options...)
}

func (d direct) List(ctx context.Context, list client.ObjectList, options ...client.ListOption) error {
	return d.store.List(ctx, list, options...)
}

func (d direct) IndexField(ctx context.Context, object client.Object, field string, indexer client.IndexerFunc) error {
	return d.store.IndexField(ctx, object, field, indexer)
}

func (direct) GetInformer(context.Context, client.Object, ...cache.InformerGetOption) (cache.Informer, error) {
	return silent{}, nil
}

// silent is an informer without events.
type silent struct{ cache.Informer }

func (silent) AddEventHandler(toolscache.ResourceEventHandler) (toolscache.ResourceEventHandlerRegistration, error) {
	return registered{}, nil
}

type registered struct {
	toolscache.ResourceEventHandlerRegistration
}

func (registered) HasSynced() bool { return true }
