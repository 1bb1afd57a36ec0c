package kinds

import (
	"context"

	"k8s.io/apimachinery/pkg/api/equality"

	"github.com/bulkhead-dev/bulkhead/syncer/engine"
	"github.com/bulkhead-dev/bulkhead/syncer/translation"
)

// offer is how one of the super cluster's classes is shown to tenants.
type offer[T engine.Object] struct {
	// Offered tells whether a tenant sees it.
	Offered func(t translation.Tenant, super T) bool
	// Translate leaves out what is the platform's own matter.
	Translate func(super T) T
	// Merge writes into tenant, which is a copy, what may change after creation. Where
	// more has changed, the tenant's is made anew.
	Merge func(tenant, desired T)
	// Fixed is what may not change, for comparison.
	Fixed func(T) any
}

// offered is a kind of classes, which come up where the tenant's own class offers them.
func offered[T engine.Object](resource string, how offer[T]) engine.Kind {
	var none T
	return &engine.Up[T]{
		Name: resource,
		Targets: func(_ context.Context, e *engine.Engine, super T, to func(*engine.Link, engine.Key)) error {
			for _, link := range e.Links() {
				to(link, engine.Key{Resource: resource, Name: super.GetName()})
			}
			return nil
		},
		Translate: func(_ context.Context, l *engine.Link, _ engine.Key, super, present T) (T, error) {
			if !how.Offered(l.Tenant(), super) {
				return none, nil
			}
			desired := how.Translate(super)
			if present != none && !equality.Semantic.DeepEqual(how.Fixed(present), how.Fixed(desired)) {
				return none, nil // its deletion comes as an event, and it is made anew
			}
			return desired, nil
		},
		Merge: how.Merge,
	}
}
