package engine

import (
	"context"
	"time"
)

// Kind is a kind that is carried. Its implementations are Down and Up.
type Kind interface {
	// Resource is the kind's name in the API, such as pods.
	Resource() string

	// upward tells in which queue its keys are.
	upward() bool
	// watchSuper has the shared informers add keys to the links they concern.
	watchSuper(ctx context.Context, e *Engine) error
	// watchTenant has the informers of a link add keys to it.
	watchTenant(ctx context.Context, l *Link) (synced func() bool, err error)
	// seed adds the keys of what a tenant has on the other side, so that what was
	// deleted while nobody watched is found.
	seed(ctx context.Context, l *Link) error
	// lookAgain adds the keys of all that comes from the tenant's cluster, or from
	// one of its namespaces.
	lookAgain(ctx context.Context, l *Link, namespace string) error
	// reconcile handles a key.
	reconcile(ctx context.Context, l *Link, key Key) (again time.Duration, err error)
	// ensure makes the object on the other side if it is missing there, and returns
	// nil once it is.
	ensure(ctx context.Context, l *Link, key Key) error
	// compared tells whether both sides are watched, and can be compared.
	compared() bool
	// versions tells the objects of a key on both sides from what they were before.
	versions(ctx context.Context, l *Link, key Key) (string, error)
}
