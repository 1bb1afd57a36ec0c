package engine

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"slices"
	"sync"

	"github.com/go-logr/logr"
	"k8s.io/apimachinery/pkg/types"
)

// Reason says in which way two sides differ.
type Reason string

const (
	// Missing objects should be on the other side, and are not.
	Missing Reason = "missing"
	// Drift says that both objects are there, and not as they should be.
	Drift Reason = "drift"
	// Orphan objects should not be there.
	Orphan Reason = "orphan"
)

// Difference is what handling a key would change.
type Difference struct {
	Reason Reason
	// Versions of the objects on both sides as the caches show them. As long as they
	// stay, no event has come that would tell of the difference.
	Versions string
}

// ErrNotComparable says that a link has ended, that its caches are not filled, or that
// its tenant's apiserver does not answer: nothing may be derived from what the caches hold.
var ErrNotComparable = errors.New("the link is not synced")

// rehearsing holds a link's rehearsals, one at a time.
type rehearsing struct {
	mu   sync.Mutex
	link *Link
}

// rehearsal makes a link one that writes nothing. Handling a key with it reads the
// caches as the link itself does, and ends at the first write, which is noted. So what
// is compared is what handling does, for every kind, and is written down once.
type rehearsal struct {
	// first write that was about to be made, or empty.
	first Reason
	// collect takes the keys that are enqueued; nil drops them.
	collect func(Key)
}

func (r *rehearsal) enqueue(key Key) {
	if r.collect != nil {
		r.collect(key)
	}
}

// errRehearsed stands for the answer to a write in a rehearsal.
var errRehearsed = errors.New("a rehearsal writes nothing")

func (r *rehearsal) note(reason Reason) error {
	if r.first == "" {
		r.first = reason
	}
	return errRehearsed
}

// rehearse runs a function with a link that writes nothing.
func (l *Link) rehearse(f func(*Link, *rehearsal) error) (err error) {
	if l.ctx.Err() != nil || !l.filled.Load() || !l.State().Synced {
		return ErrNotComparable
	}
	l.rehearsing.mu.Lock()
	defer l.rehearsing.mu.Unlock()
	if l.rehearsing.link == nil {
		l.rehearsing.link = l.understudy()
	}
	link := l.rehearsing.link
	link.tenant.Store(l.tenant.Load())
	link.rehearsal.first, link.rehearsal.collect = "", nil
	defer func() {
		if fault := recover(); fault != nil {
			err = fmt.Errorf("panic: %v\n%s", fault, debug.Stack())
		}
	}()
	return f(link, link.rehearsal)
}

// understudy makes a link for rehearsals, in an engine that knows no other. It has the
// caches in common with its original, and since when objects have been unwanted.
func (l *Link) understudy() *Link {
	e := l.engine
	engine := &Engine{
		scheme: e.scheme, config: e.config, http: e.http, cache: e.cache, live: e.live, kinds: e.kinds, probe: e.probe,
		onState: e.onState, log: logr.Discard(), links: map[types.UID]*Link{},
	}
	r := &rehearsal{}
	link := &Link{
		engine: engine, log: logr.Discard(), super: noting{l.super, r},
		conn: &connection{client: noting{l.conn.client, r}, cache: l.conn.cache, http: l.conn.http, probe: l.conn.probe},
		ctx:  l.ctx, unwanted: l.unwanted, rehearsal: r,
	}
	link.tenant.Store(l.tenant.Load())
	engine.links[l.Tenant().UID] = link
	return link
}

// Compare tells what handling a key would change, or nil if it would change nothing or
// has to wait. It writes nothing and asks no apiserver. The error is ErrNotComparable or
// a fault of the program.
func (l *Link) Compare(ctx context.Context, key Key) (*Difference, error) {
	kind := l.engine.kinds[key.Resource]
	if kind == nil || !kind.compared() {
		return nil, nil
	}
	var difference *Difference
	err := l.rehearse(func(link *Link, r *rehearsal) error {
		_, err := kind.reconcile(ctx, link, key)
		if r.first == "" {
			if err != nil && !isExpected(err) && foreignError(err) == nil {
				return err
			}
			return nil
		}
		versions, err := kind.versions(ctx, link, key)
		difference = &Difference{Reason: r.first, Versions: versions}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("comparing %s: %w", key, err)
	}
	return difference, nil
}

// Inventory lists the keys of a kind that the tenant has on either side. Kinds that
// are not watched on both have none.
func (l *Link) Inventory(ctx context.Context, resource string) ([]Key, error) {
	kind := l.engine.kinds[resource]
	if kind == nil || !kind.compared() {
		return nil, nil
	}
	var keys []Key
	err := l.rehearse(func(link *Link, r *rehearsal) error {
		seen := map[Key]bool{}
		r.collect = func(key Key) {
			if key.Resource == resource && !seen[key] {
				seen[key] = true
				keys = append(keys, key)
			}
		}
		return errors.Join(kind.seed(ctx, link), kind.lookAgain(ctx, link, ""))
	})
	if err != nil {
		return nil, fmt.Errorf("listing %s of both sides: %w", resource, err)
	}
	return keys, nil
}

// Busy tells whether a key waits to be handled, is, or has failed and is tried again.
func (l *Link) Busy(key Key) bool {
	kind := l.engine.kinds[key.Resource]
	return kind != nil && l.queueOf(kind).Busy(l, key)
}

// Resources are the names of the kinds that are carried, sorted.
func (e *Engine) Resources() []string {
	names := make([]string, 0, len(e.kinds))
	for name := range e.kinds {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

func (d *Down[T]) compared() bool { return true }

func (u *Up[T]) compared() bool { return !u.Uncached }

func (d *Down[T]) versions(ctx context.Context, l *Link, key Key) (string, error) {
	return versionsOf[T](ctx, l, key, d.superKey(l, key))
}

func (u *Up[T]) versions(ctx context.Context, l *Link, key Key) (string, error) {
	return versionsOf[T](ctx, l, key, u.superKey(l, key))
}

func versionsOf[T Object](ctx context.Context, l *Link, key Key, at types.NamespacedName) (string, error) {
	tenant, err := Get[T](ctx, l.conn.cache, key.Namespace, key.Name)
	if err != nil {
		return "", err
	}
	super, err := Get[T](ctx, l.engine.cache, at.Namespace, at.Name)
	if err != nil {
		return "", err
	}
	return versionOf(tenant) + " " + versionOf(super), nil
}

func versionOf[T Object](object T) string {
	if !present(object) {
		return "-"
	}
	return string(object.GetUID()) + "@" + object.GetResourceVersion()
}
