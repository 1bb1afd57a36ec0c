// Package patrol looks for what events did not tell of: it compares all that tenants
// have on both sides, kind by kind, and has repaired what differs (decision D10).
//
// It changes nothing itself. What handling a key would change is asked of the engine,
// which rehearses it on the caches, and a key that differs is given to the engine like
// one of an event. So there is one place that says what is right, and none that
// deletes in haste.
//
// Two clusters that are in use always differ somewhere: an event is on its way. What
// counts as found differs twice, some time apart, while the objects on both sides
// have stayed the same and the engine does not have the key in its hands. What is
// found so was lost by somebody; the count of it should stay 0.
package patrol

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/go-logr/logr"
	"golang.org/x/time/rate"

	"github.com/bulkhead-dev/bulkhead/syncer/engine"
)

// Options of a patrol.
type Options struct {
	// Interval is the time from the begin of one round through a tenant's objects to the
	// begin of the next, or more if the rate does not allow it. The first round of a tenant begins
	// at a random time within it.
	Interval time.Duration
	// Rate is how many objects a second are compared, over all tenants.
	Rate float64
	// Settle is how long a difference must stand before it is repaired.
	Settle time.Duration
	Log    logr.Logger
}

// Link is what the patrol needs of an engine.Link.
type Link interface {
	comparable
	State() engine.State
	Inventory(ctx context.Context, resource string) ([]engine.Key, error)
	Compare(ctx context.Context, key engine.Key) (*engine.Difference, error)
	Busy(key engine.Key) bool
	Enqueue(keys ...engine.Key)
}

// Patrol walks over all links. Run runs it.
type Patrol[L Link] struct {
	links     func() []L
	resources []string
	options   Options
	limiter   *rate.Limiter
	walks     []*walk[L]
	// told has the walk of each link, for those who ask from elsewhere.
	told sync.Map
}

// burst is how many objects are compared without a pause.
const burst = 10

// nap bounds how long the patrol sleeps when there is nothing to do: links come and go
// without telling it.
const nap = time.Second

// New makes a patrol of links, which are asked for again and again, over kinds of
// these resources.
func New[L Link](links func() []L, resources []string, options Options) *Patrol[L] {
	return &Patrol[L]{
		links: links, resources: resources, options: options,
		limiter: rate.NewLimiter(rate.Limit(options.Rate), burst),
	}
}

// Round tells where the patrol is with a link, and reports whether it knows it.
func (p *Patrol[L]) Round(link L) (Round, bool) {
	w, ok := p.told.Load(link)
	if !ok {
		return Round{}, false
	}
	return w.(*walk[L]).round(), true
}

// Run patrols until the context ends.
func (p *Patrol[L]) Run(ctx context.Context) error {
	for ctx.Err() == nil {
		p.follow(time.Now())
		worked := false
		// One object of each tenant in turn: one with many does not hold up the others.
		for _, w := range p.walks {
			if p.step(ctx, w, time.Now()) {
				worked = true
				if err := p.limiter.Wait(ctx); err != nil {
					return nil //nolint:nilerr // the context has ended
				}
			}
		}
		if !worked {
			p.sleep(ctx)
		}
	}
	return nil
}

// follow makes the walks those of the links that there are.
func (p *Patrol[L]) follow(now time.Time) {
	links := p.links()
	running := make(map[L]bool, len(links))
	for _, link := range links {
		running[link] = true
	}
	kept := p.walks[:0]
	for _, w := range p.walks {
		if running[w.link] {
			kept = append(kept, w)
			delete(running, w.link)
		} else {
			p.told.Delete(w.link)
		}
	}
	clear(p.walks[len(kept):])
	for _, link := range links {
		if running[link] {
			// A link that has just started compares all by itself, and after a restart
			// all of them do: the patrol comes later, and not to all at once.
			w := &walk[L]{link: link, due: now.Add(rand.N(p.options.Interval))}
			w.tell("", now)
			p.told.Store(link, w)
			kept = append(kept, w)
		}
	}
	p.walks = kept
}

// sleep waits until a walk is due.
func (p *Patrol[L]) sleep(ctx context.Context) {
	until := time.Now().Add(nap)
	for _, w := range p.walks {
		if next := w.next(p.options.Settle); next.Before(until) {
			until = next
		}
	}
	timer := time.NewTimer(max(time.Until(until), time.Millisecond))
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}

// step compares one object of a tenant, or lists a kind. It reports whether it did.
func (p *Patrol[L]) step(ctx context.Context, w *walk[L], now time.Time) bool {
	if !w.link.State().Synced {
		w.abort(now, p.options.Interval)
		return false
	}
	if key, ok := w.suspect(now, p.options.Settle); ok {
		p.lookTwice(ctx, w, key, now)
		return true
	}
	if !w.begun() {
		if now.Before(w.due) {
			return false
		}
		w.begin(now, p.resources)
	}
	if len(w.keys) > 0 {
		key := w.keys[0]
		w.keys = w.keys[1:]
		p.look(ctx, w, key, now)
		return true
	}
	if len(w.resources) > 0 {
		resource := w.resources[0]
		w.resources = w.resources[1:]
		keys, err := w.link.Inventory(ctx, resource)
		if err != nil {
			p.failed(ctx, w, err, now)
		}
		w.keys = keys
		return true
	}
	if len(w.suspects) == 0 {
		w.end(now, p.options.Interval)
	}
	return false
}

// look compares an object, and keeps it in mind if it differs.
func (p *Patrol[L]) look(ctx context.Context, w *walk[L], key engine.Key, now time.Time) {
	difference, err := p.compare(ctx, w, key, now)
	if err == nil && difference != nil && !w.link.Busy(key) {
		w.remember(key, difference, now)
	}
}

// lookTwice has an object repaired that differs as it did before.
func (p *Patrol[L]) lookTwice(ctx context.Context, w *walk[L], key engine.Key, now time.Time) {
	before := w.suspects[key]
	delete(w.suspects, key)
	difference, err := p.compare(ctx, w, key, now)
	switch {
	case err != nil || difference == nil || w.link.Busy(key):
	case difference.Versions != before.versions:
		// It has changed in between, so an event may be on its way.
		if before.looks < maxLooks {
			w.remember(key, difference, now)
			w.suspects[key].looks += before.looks
		}
	default:
		repairs.WithLabelValues(key.Resource, string(difference.Reason)).Inc()
		p.options.Log.Info("repairing what no event told of", "key", key, "reason", difference.Reason)
		w.link.Enqueue(key)
	}
}

func (p *Patrol[L]) compare(ctx context.Context, w *walk[L], key engine.Key, now time.Time) (*engine.Difference, error) {
	compared.WithLabelValues(key.Resource).Inc()
	difference, err := w.link.Compare(ctx, key)
	if err != nil {
		p.failed(ctx, w, err, now)
	}
	return difference, err
}

// failed ends a round in which nothing may be derived, and tells of faults.
func (p *Patrol[L]) failed(ctx context.Context, w *walk[L], err error, now time.Time) {
	switch {
	case ctx.Err() != nil:
	case errors.Is(err, engine.ErrNotComparable):
		w.abort(now, p.options.Interval)
	default:
		p.options.Log.Error(err, "patrolling")
	}
}
