package tenantcluster

import (
	"context"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/bulkhead-dev/bulkhead/vc-manager/bootstrap"
)

// Deadlines of what an attendant does with its tenant's apiserver.
const (
	lookTimeout      = 5 * time.Second
	bootstrapTimeout = 30 * time.Second
	// doubtful is for how long an apiserver that answered before may fail to, while it
	// is looked at in quick succession, before that is reported: a connection that
	// breaks is no outage.
	doubtful = 2 * time.Second
	// bootstrapInterval is how often what the tenant may have changed is set back.
	bootstrapInterval = 10 * time.Minute
)

// attendant watches one tenant.
type attendant struct {
	target Target
	server *server
	wake   chan struct{}
	stop   context.CancelFunc

	bootstrapped time.Time // when bootstrap last succeeded
	worked       bool      // the controller-manager was seen to have worked

	mu   sync.Mutex
	seen *Observation
}

func newAttendant(dialer Dialer, target Target) (*attendant, error) {
	server, err := newServer(dialer, target)
	if err != nil {
		return nil, err
	}
	return &attendant{target: target, server: server, wake: make(chan struct{}, 1)}, nil
}

// run looks at the apiserver again and again until ctx ends, and calls changed
// after a look that saw something new.
func (a *attendant) run(ctx context.Context, changed func()) {
	defer a.server.close()
	waitingSince := time.Now()
	answers := false
	var silentSince time.Time
	for {
		seen := a.look(ctx)
		if ctx.Err() != nil {
			return
		}
		switch {
		case seen.Read == nil:
			answers, silentSince = true, time.Time{}
		case silentSince.IsZero():
			silentSince = time.Now()
		}
		inDoubt := seen.Read != nil && answers && time.Since(silentSince) < doubtful
		if !inDoubt && a.store(seen) {
			changed()
		}
		interval := urgentInterval
		switch {
		case seen.healthy():
			waitingSince = time.Now()
			interval = healthyInterval + rand.N(healthyInterval/4) // spreads tenants out
		case time.Since(waitingSince) > patience:
			interval = unhurriedInterval
		}
		timer := time.NewTimer(interval)
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-a.wake:
			timer.Stop()
			waitingSince = time.Now()
		case <-timer.C:
		}
	}
}

func (a *attendant) look(ctx context.Context) Observation {
	seen := Observation{Read: errNotLooked, External: errNotLooked, Bootstrapped: errNotLooked, Controllers: errNotLooked}
	reading, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	seen.Version, seen.Read = a.server.read(reading)
	if seen.Read != nil {
		return seen
	}
	seen.External = a.server.validFor(a.target.External)
	if !a.worked {
		seen.Controllers = a.server.defaultServiceAccount(reading)
		a.worked = seen.Controllers == nil
	} else {
		seen.Controllers = nil
	}
	seen.Bootstrapped = a.bootstrap(ctx)
	return seen
}

func (a *attendant) bootstrap(ctx context.Context) error {
	if !a.bootstrapped.IsZero() && time.Since(a.bootstrapped) < bootstrapInterval {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, bootstrapTimeout)
	defer cancel()
	if err := bootstrap.Apply(ctx, a.server.client, a.target.Bootstrap); err != nil {
		return err
	}
	a.bootstrapped = time.Now()
	return nil
}

func (a *attendant) poke() {
	select {
	case a.wake <- struct{}{}:
	default: // it has been told already
	}
}

// store keeps an observation and reports whether it differs from the one before.
func (a *attendant) store(seen Observation) (changed bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	changed = a.seen == nil || !a.seen.same(seen)
	a.seen = &seen
	return changed
}

func (a *attendant) observation() (Observation, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.seen == nil {
		return Observation{}, false
	}
	return *a.seen, true
}
