package engine

import (
	"context"
	"fmt"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/cache"
	ctrlcache "sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/bulkhead-dev/bulkhead/internal/tenancy"
	"github.com/bulkhead-dev/bulkhead/syncer/translation"
)

// Down is a kind that goes from tenants to the super cluster. Its zero fields mean
// the usual: every object goes down, under its own name, with its labels.
//
// Functions get objects that they may keep but not change, except where said.
type Down[T Object] struct {
	// Name of the kind in the API, such as configmaps.
	Name string
	// OnDemand objects go down only when something else Ensures them.
	OnDemand bool
	// Cached tells of a tenant's object whether the cache of its cluster holds it, where
	// that is not filled with all; nil for always.
	Cached func(tenant T) bool
	// Wanted tells whether a tenant's object should be in the super cluster.
	Wanted func(ctx context.Context, l *Link, tenant T) (bool, error)
	// Linger is how long a super object stays after it is wanted no more and its
	// tenant's object is still there, so that it is not made and deleted in turn.
	Linger time.Duration
	// SuperKey is where the object is in the super cluster.
	SuperKey func(t translation.Tenant, namespace, name string) types.NamespacedName
	// Metadata gives the labels and annotations that come from the tenant's object.
	Metadata func(tenant T) (labels, annotations map[string]string, findings []translation.Finding)
	// Translate makes the super object, without name, namespace, marks and metadata.
	Translate func(ctx context.Context, l *Link, tenant T) (T, []translation.Finding, error)
	// Merge writes into super, which is a copy, what may change after creation.
	Merge func(super, desired T)
	// Replace tells whether a change can only be carried by a new super object.
	Replace func(super, desired T) bool
	// Update does instead of Translate and Merge where comparing costs too much.
	Update func(l *Link, tenant, super T) []translation.Finding
	// Status writes into tenant, which is a copy, the status that comes up.
	Status func(l *Link, super, tenant T)
	// Needs are keys to look at again when the tenant's object comes, changes its
	// specification or goes, because their Wanted depends on it.
	Needs func(tenant T) []Key
	// Related is called when Needs is, in order to add keys that it takes a look at
	// the tenant's other objects to find.
	Related func(ctx context.Context, l *Link, tenant T) error
	// Indexes of the tenant's cache of this kind.
	Indexes map[string]client.IndexerFunc
	// SuperIndexes of the super cluster's cache of this kind.
	SuperIndexes map[string]client.IndexerFunc
	// SuperChanged is called when a super object of the tenant has changed or gone,
	// in order to add other keys than its own. before is nil unless it has changed.
	SuperChanged func(l *Link, before, super T, gone bool)
	// Lifecycle comes before the generic steps and may do all instead of them.
	Lifecycle func(ctx context.Context, s *Sync[T]) (Verdict, error)
	// Prepare comes before a super object is created, and makes what it needs there.
	Prepare func(ctx context.Context, s *Sync[T]) error
	// Finish comes after both objects exist and are alike. It returns when to look
	// at them again, or 0.
	Finish func(ctx context.Context, s *Sync[T]) (again time.Duration, err error)
}

// refusedAgain is how long a refused object is left alone: what it was refused for,
// such as a StorageClass that is not offered, may have changed.
const refusedAgain = 5 * time.Minute

// Verdict is what a Lifecycle has decided.
type Verdict int

const (
	// Continue with the generic steps.
	Continue Verdict = iota
	// Handled all there was to do.
	Handled
)

// Resource implements Kind.
func (d *Down[T]) Resource() string { return d.Name }

func (d *Down[T]) upward() bool { return false }

func (d *Down[T]) superKey(l *Link, key Key) types.NamespacedName {
	tenant := l.Tenant()
	if d.SuperKey != nil {
		return d.SuperKey(tenant, key.Namespace, key.Name)
	}
	return types.NamespacedName{Namespace: tenant.SuperNamespace(key.Namespace), Name: key.Name}
}

func (d *Down[T]) keyOf(object client.Object) Key {
	return Key{Resource: d.Name, Namespace: object.GetNamespace(), Name: object.GetName()}
}

func (d *Down[T]) watchSuper(ctx context.Context, e *Engine) error {
	for name, indexer := range d.SuperIndexes {
		if err := e.cache.IndexField(ctx, newObject[T](), name, indexer); err != nil {
			return fmt.Errorf("indexing by %s: %w", name, err)
		}
	}
	byTenant := func(object client.Object) []string { return []string{object.GetLabels()[tenancy.LabelTenant]} }
	if err := e.cache.IndexField(ctx, newObject[T](), tenantIndex, byTenant); err != nil {
		return fmt.Errorf("indexing by tenant: %w", err)
	}
	informer, err := e.cache.GetInformer(ctx, newObject[T](), ctrlcache.BlockUntilSynced(false))
	if err != nil {
		return err
	}
	_, err = informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(event any) { d.superEvent(e, nil, event, false) },
		UpdateFunc: func(old, event any) { d.superEvent(e, old, event, false) },
		DeleteFunc: func(event any) { d.superEvent(e, nil, event, true) },
	})
	return err
}

func (d *Down[T]) superEvent(e *Engine, old, event any, gone bool) {
	super, ok := objectOf[T](event)
	if !ok {
		return
	}
	link := e.Link(types.UID(super.GetLabels()[tenancy.LabelTenant]))
	if link == nil {
		return
	}
	if key, ok := d.tenantKey(super); ok {
		link.Enqueue(key)
	}
	if d.SuperChanged != nil {
		before, _ := objectOf[T](old)
		d.SuperChanged(link, before, super, gone)
	}
}

// tenantKey is the key that a super object's marks lead to.
func (d *Down[T]) tenantKey(super T) (Key, bool) {
	origin, ok := tenancy.OriginOf(super)
	key := Key{Resource: d.Name, Namespace: origin.Namespace, Name: origin.Name}
	if resource := super.GetAnnotations()[tenancy.AnnotationFor]; resource != "" {
		key.Resource = resource
	}
	return key, ok
}

func (d *Down[T]) watchTenant(ctx context.Context, l *Link) (func() bool, error) {
	for name, indexer := range d.Indexes {
		if err := l.conn.cache.IndexField(ctx, newObject[T](), name, indexer); err != nil {
			return nil, fmt.Errorf("indexing by %s: %w", name, err)
		}
	}
	informer, err := l.conn.cache.GetInformer(ctx, newObject[T](), ctrlcache.BlockUntilSynced(false))
	if err != nil {
		return nil, err
	}
	look := func(event any, needs bool) {
		tenant, ok := objectOf[T](event)
		if !ok {
			return
		}
		l.Enqueue(d.keyOf(tenant))
		if needs && d.Needs != nil {
			l.Enqueue(d.Needs(tenant)...)
		}
		if needs && d.Related != nil {
			// A read of a cache; it fails only while the link ends.
			if err := d.Related(ctx, l, tenant); err != nil && ctx.Err() == nil {
				l.log.Error(err, "finding what an object concerns", "key", d.keyOf(tenant))
			}
		}
	}
	registration, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: func(event any) { look(event, true) },
		UpdateFunc: func(old, event any) {
			before, ok := objectOf[T](old)
			after, also := objectOf[T](event)
			// A kind that counts its generations says by them when its specification changes.
			same := ok && also && before.GetUID() == after.GetUID() && before.GetGeneration() == after.GetGeneration() && after.GetGeneration() != 0
			look(event, !same)
		},
		DeleteFunc: func(event any) { look(event, true) },
	})
	if err != nil {
		return nil, err
	}
	return registration.HasSynced, nil
}

func (d *Down[T]) seed(ctx context.Context, l *Link) error {
	return each(ctx, l.engine, l.engine.cache, func(super T) {
		if key, ok := d.tenantKey(super); ok {
			l.Enqueue(key)
		}
	}, client.MatchingFields{tenantIndex: string(l.Tenant().UID)})
}

func (d *Down[T]) lookAgain(ctx context.Context, l *Link, namespace string) error {
	return each(ctx, l.engine, l.conn.cache, func(tenant T) { l.Enqueue(d.keyOf(tenant)) }, client.InNamespace(namespace))
}

func (d *Down[T]) sync(ctx context.Context, l *Link, key Key) (*Sync[T], error) {
	tenant, err := Get[T](ctx, l.conn.cache, key.Namespace, key.Name)
	if err != nil {
		return nil, err
	}
	at := d.superKey(l, key)
	super, err := Get[T](ctx, l.engine.cache, at.Namespace, at.Name)
	if err != nil {
		return nil, err
	}
	return &Sync[T]{Link: l, Key: key, Tenant: tenant, Super: super, kind: d}, nil
}

func (d *Down[T]) reconcile(ctx context.Context, l *Link, key Key) (time.Duration, error) {
	s, err := d.sync(ctx, l, key)
	if err != nil {
		return 0, err
	}
	again, err := d.step(ctx, s)
	if foreign := foreignError(err); foreign != nil && present(s.Tenant) {
		l.Warn(ctx, s.Tenant, ReasonNameTaken, foreign.Error())
	}
	return again, err
}

// step brings the super object a step closer to the tenant's. What it causes comes
// back as an event and another step.
func (d *Down[T]) step(ctx context.Context, s *Sync[T]) (time.Duration, error) {
	if d.Lifecycle != nil {
		if verdict, err := d.Lifecycle(ctx, s); verdict == Handled || err != nil {
			return 0, err
		}
	}
	wanted, err := d.wanted(ctx, s)
	if wanted || !present(s.Super) {
		s.unwanted.forget(s.Key)
	}
	switch {
	case err != nil:
		return 0, err
	case !wanted && !s.ours():
		return 0, nil
	case !wanted && present(s.Tenant) && d.Linger > 0 && s.standsFor():
		if left := s.unwanted.left(s.Key, d.Linger, time.Now()); left > 0 {
			return left, nil
		}
		return 0, s.DeleteSuper(ctx)
	case present(s.Super) && (!wanted || (s.ours() && !s.standsFor())):
		return 0, s.DeleteSuper(ctx)
	case !present(s.Super) && d.OnDemand:
		return 0, nil
	case !present(s.Super):
		if created, err := s.CreateSuper(ctx); !created || err != nil {
			return refusedAgain, err
		}
		if s.early {
			// What is carried on of it now would be news to the next handling, which may
			// see an older one: the cache has yet to show it, which is an event.
			return 0, nil
		}
	default:
		if err := s.UpdateSuper(ctx); err != nil {
			return 0, err
		}
	}
	if d.Finish != nil {
		return d.Finish(ctx, s)
	}
	return 0, s.PushStatus(ctx)
}

func (d *Down[T]) wanted(ctx context.Context, s *Sync[T]) (bool, error) {
	if !present(s.Tenant) {
		return false, nil
	}
	if d.Wanted == nil {
		return true, nil
	}
	return d.Wanted(ctx, s.Link, s.Tenant)
}

func (d *Down[T]) ensure(ctx context.Context, l *Link, key Key) error {
	s, err := d.sync(ctx, l, key)
	switch {
	case err != nil:
		return err
	case !present(s.Tenant) && s.ours():
		l.Enqueue(key)
		return &WaitError{For: key.String() + " to go, which the tenant has deleted", Earlier: true}
	case !present(s.Tenant):
		return Wait("%s to be there", key)
	case !present(s.Super):
		created, err := s.CreateSuper(ctx)
		if foreign := foreignError(err); foreign != nil {
			l.Warn(ctx, s.Tenant, ReasonNameTaken, foreign.Error())
		}
		if err == nil && !created {
			return Wait("%s, which is refused", key)
		}
		return err
	}
	if err := s.checkOwned(s.Super); err != nil {
		return err
	}
	if !s.standsFor() || s.Super.GetDeletionTimestamp() != nil {
		l.Enqueue(key)
		return &WaitError{For: key.String() + " of the same name to go", Earlier: true}
	}
	return nil
}
