package engine

import (
	"context"
	"fmt"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/cache"
	ctrlcache "sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/bulkhead-dev/bulkhead/internal/tenancy"
)

// Up is a kind that goes from the super cluster to tenants. What it makes in a
// tenant's cluster is marked as the platform's; objects of the tenant's own are
// never touched.
type Up[T Object] struct {
	// Name of the kind in the API, such as nodes.
	Name string
	// Targets tells which keys of which links a super object concerns.
	Targets func(ctx context.Context, e *Engine, super T, to func(l *Link, key Key)) error
	// Same tells of a changed super object that no tenant sees a difference, so that
	// it concerns nobody; nil where that is not worth a look.
	Same func(before, after T) bool
	// SuperKey is where the object is in the super cluster; nil for its own name, in
	// the tenant's super namespace.
	SuperKey func(l *Link, key Key) types.NamespacedName
	// Translate makes the tenant's object, without name, namespace and mark, and
	// returns nil if the tenant should not have it. present is the one it has, or nil.
	Translate func(ctx context.Context, l *Link, key Key, super, present T) (T, error)
	// Merge writes into tenant, which is a copy, what may change after creation.
	Merge func(tenant, desired T)
	// Status writes into tenant, which is a copy, the status.
	Status func(tenant, desired T)
	// Linger is how long an object stays that the tenant should not have any more,
	// while there still is the super object. It is noted on the object since when.
	Linger time.Duration
	// Uncached kinds are not watched in the tenant's cluster: there may be very many.
	Uncached bool
	// SuperIndexes of the super cluster's cache of this kind.
	SuperIndexes map[string]client.IndexerFunc
}

// Resource implements Kind.
func (u *Up[T]) Resource() string { return u.Name }

func (u *Up[T]) upward() bool { return true }

// Ours tells whether an object in a tenant's cluster was made by the syncer.
func Ours(tenant client.Object) bool {
	return tenant.GetLabels()[tenancy.LabelManagedBy] == tenancy.ManagedBySyncer
}

func (u *Up[T]) watchSuper(ctx context.Context, e *Engine) error {
	for name, indexer := range u.SuperIndexes {
		if err := e.cache.IndexField(ctx, newObject[T](), name, indexer); err != nil {
			return fmt.Errorf("indexing by %s: %w", name, err)
		}
	}
	informer, err := e.cache.GetInformer(ctx, newObject[T](), ctrlcache.BlockUntilSynced(false))
	if err != nil {
		return err
	}
	look := func(event any) {
		super, ok := objectOf[T](event)
		if !ok {
			return
		}
		err := u.Targets(ctx, e, super, func(l *Link, key Key) { l.Enqueue(key) })
		if err != nil && ctx.Err() == nil {
			e.log.Error(err, "finding whom an object concerns", "kind", u.Name, "object", client.ObjectKeyFromObject(super))
		}
	}
	_, err = informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: look, DeleteFunc: look,
		UpdateFunc: func(old, event any) {
			before, ok := objectOf[T](old)
			after, also := objectOf[T](event)
			if u.Same == nil || !ok || !also || !u.Same(before, after) {
				look(event)
			}
		},
	})
	return err
}

func (u *Up[T]) watchTenant(ctx context.Context, l *Link) (func() bool, error) {
	if u.Uncached {
		return func() bool { return true }, nil
	}
	informer, err := l.conn.cache.GetInformer(ctx, newObject[T](), ctrlcache.BlockUntilSynced(false))
	if err != nil {
		return nil, err
	}
	look := func(event any) {
		if tenant, ok := objectOf[T](event); ok {
			l.Enqueue(Key{Resource: u.Name, Namespace: tenant.GetNamespace(), Name: tenant.GetName()})
		}
	}
	registration, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: look, DeleteFunc: look, UpdateFunc: func(_, event any) { look(event) },
	})
	if err != nil {
		return nil, err
	}
	return registration.HasSynced, nil
}

// lookAgain finds what the tenant has and should have no more, such as the nodes of a
// selector that its class has changed.
func (u *Up[T]) lookAgain(ctx context.Context, l *Link, namespace string) error {
	if u.Uncached {
		return nil
	}
	return each(ctx, l.engine, l.conn.cache, func(tenant T) {
		l.Enqueue(Key{Resource: u.Name, Namespace: tenant.GetNamespace(), Name: tenant.GetName()})
	}, client.InNamespace(namespace))
}

func (u *Up[T]) seed(ctx context.Context, l *Link) error {
	var problem error
	err := each(ctx, l.engine, l.engine.cache, func(super T) {
		err := u.Targets(ctx, l.engine, super, func(target *Link, key Key) {
			if target == l {
				l.Enqueue(key)
			}
		})
		if err != nil && problem == nil {
			problem = err
		}
	})
	if err != nil {
		return err
	}
	return problem
}

func (u *Up[T]) superKey(l *Link, key Key) types.NamespacedName {
	if u.SuperKey != nil {
		return u.SuperKey(l, key)
	}
	if key.Namespace == "" {
		return types.NamespacedName{Name: key.Name}
	}
	return types.NamespacedName{Namespace: l.Tenant().SuperNamespace(key.Namespace), Name: key.Name}
}

func (u *Up[T]) reconcile(ctx context.Context, l *Link, key Key) (time.Duration, error) {
	var tenant T
	var err error
	if !u.Uncached {
		if tenant, err = Get[T](ctx, l.conn.cache, key.Namespace, key.Name); err != nil {
			return 0, err
		}
	}
	if present(tenant) && !Ours(tenant) {
		return 0, nil
	}
	at := u.superKey(l, key)
	super, err := Get[T](ctx, l.engine.cache, at.Namespace, at.Name)
	if err != nil {
		return 0, err
	}
	var desired T
	if present(super) {
		if desired, err = u.Translate(ctx, l, key, super, tenant); err != nil {
			return 0, fmt.Errorf("translating %s: %w", key, err)
		}
	}
	switch {
	case !present(desired) && !present(tenant):
		return 0, nil
	case !present(desired):
		return u.remove(ctx, l, key, tenant, present(super))
	case !present(tenant):
		return 0, u.create(ctx, l, key, desired)
	default:
		return 0, u.update(ctx, l, key, tenant, desired)
	}
}

func (u *Up[T]) ensure(ctx context.Context, l *Link, key Key) error {
	tenant, err := Get[T](ctx, l.conn.cache, key.Namespace, key.Name)
	switch {
	case err != nil:
		return err
	case !present(tenant):
		_, err := u.reconcile(ctx, l, key)
		return err
	case !Ours(tenant):
		return &tenancy.ForeignError{Object: key.String(), Owner: "the tenant"}
	}
	return nil
}

func (u *Up[T]) create(ctx context.Context, l *Link, key Key, desired T) error {
	desired.SetNamespace(key.Namespace)
	desired.SetName(key.Name)
	desired.SetLabels(joined(desired.GetLabels(), map[string]string{tenancy.LabelManagedBy: tenancy.ManagedBySyncer}))
	l.countWrite(u.Name, "tenant", "create")
	err := l.TenantClient().Create(ctx, desired.DeepCopyObject().(T))
	if err == nil {
		return nil
	}
	if !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("creating %s in the tenant's cluster: %w", key, err)
	}
	live, err := Get[T](ctx, l.TenantClient(), key.Namespace, key.Name)
	switch {
	case err != nil:
		return err
	case !present(live):
		return Wait("%s to be gone", key)
	case !Ours(live):
		return &tenancy.ForeignError{Object: key.String(), Owner: "the tenant"}
	}
	return u.update(ctx, l, key, live, desired)
}

func (u *Up[T]) update(ctx context.Context, l *Link, key Key, tenant, desired T) error {
	if tenant.GetDeletionTimestamp() != nil {
		return nil
	}
	changed := tenant.DeepCopyObject().(T)
	changed.SetLabels(joined(changed.GetLabels(), desired.GetLabels(), map[string]string{tenancy.LabelManagedBy: tenancy.ManagedBySyncer}))
	annotations := joined(changed.GetAnnotations(), desired.GetAnnotations())
	delete(annotations, tenancy.AnnotationUnusedSince)
	changed.SetAnnotations(annotations)
	u.Merge(changed, desired)
	if !same(tenant, changed) {
		l.countWrite(u.Name, "tenant", "patch")
		if err := l.TenantClient().Patch(ctx, changed, client.MergeFromWithOptions(tenant, client.MergeFromWithOptimisticLock{})); err != nil {
			return fmt.Errorf("changing %s in the tenant's cluster: %w", key, err)
		}
	}
	if u.Status == nil {
		return nil
	}
	status := changed.DeepCopyObject().(T)
	u.Status(status, desired)
	if same(changed, status) {
		return nil
	}
	l.countWrite(u.Name, "tenant", "status")
	if err := l.TenantClient().Status().Patch(ctx, status, client.MergeFrom(changed)); err != nil {
		return fmt.Errorf("writing the status of %s in the tenant's cluster: %w", key, err)
	}
	return nil
}

// remove deletes the tenant's object. A super object that the cache does not show
// is asked for first: a cache may show the past.
func (u *Up[T]) remove(ctx context.Context, l *Link, key Key, tenant T, known bool) (time.Duration, error) {
	if tenant.GetDeletionTimestamp() != nil {
		return 0, nil
	}
	if !known {
		at := u.superKey(l, key)
		live, err := Get[T](ctx, l.SuperClient(), at.Namespace, at.Name)
		if err != nil {
			return 0, err
		}
		if present(live) {
			return 0, Wait("the cache to show %s", key)
		}
	}
	if known && u.Linger > 0 {
		if wait, err := u.linger(ctx, l, key, tenant); wait > 0 || err != nil {
			return wait, err
		}
	}
	l.countWrite(u.Name, "tenant", "delete")
	return 0, deleteObject(ctx, l.TenantClient(), tenant, key, "tenant")
}

// linger returns how long the tenant's object may still stay.
func (u *Up[T]) linger(ctx context.Context, l *Link, key Key, tenant T) (time.Duration, error) {
	now := time.Now()
	if since, err := time.Parse(time.RFC3339, tenant.GetAnnotations()[tenancy.AnnotationUnusedSince]); err == nil {
		return u.Linger - now.Sub(since), nil
	}
	marked := tenant.DeepCopyObject().(T)
	marked.SetAnnotations(joined(marked.GetAnnotations(), map[string]string{tenancy.AnnotationUnusedSince: now.UTC().Format(time.RFC3339)}))
	l.countWrite(u.Name, "tenant", "patch")
	if err := l.TenantClient().Patch(ctx, marked, client.MergeFrom(tenant)); err != nil {
		return 0, fmt.Errorf("noting that %s is unused: %w", key, err)
	}
	return u.Linger, nil
}
