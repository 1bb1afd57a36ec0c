package fairqueue

import "time"

// Place is where a key is.
type Place struct {
	// Queued is since when it waits for a worker, Running since when it has one, and
	// Due when it waits for no more than its time; all zero if they do not hold.
	Queued, Running, Due time.Time
	// Again: it was added while it is handled, and waits again after that.
	Again bool
	// Failures in a row.
	Failures int
	// Waited is how long it waited for the worker that it has.
	Waited time.Duration
}

// Look tells where a key is, and reports whether the queue holds it.
func (q *Queue[T, K]) Look(id T, key K) (Place, bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	t := q.tenants[id]
	if t == nil || t.entries[key] == nil {
		return Place{}, false
	}
	e := t.entries[key]
	place := Place{Again: e.again, Failures: e.failures}
	if e.queued {
		place.Queued = e.since
	}
	if e.running {
		place.Running, place.Waited = e.started, e.started.Sub(e.since)
	}
	if e.slot >= 0 {
		place.Due = e.due
	}
	return place, true
}

// Load is what a tenant has in a queue.
type Load struct {
	// Keys that wait for a worker, that are handled, that wait for their time, and of
	// all these those whose last handling failed.
	Waiting, Running, Delayed, Failing int
	// Settings are the tenant's, with the defaults filled in.
	Settings Tenant
}

// Load counts what a tenant has. It costs the more the more keys that are.
func (q *Queue[T, K]) Load(id T) Load {
	q.mu.Lock()
	defer q.mu.Unlock()
	t := q.tenants[id]
	if t == nil {
		return Load{}
	}
	load := Load{Waiting: t.waiting, Running: t.running, Settings: t.settings}
	if load.Settings.Workers <= 0 {
		load.Settings.Workers = q.options.TenantWorkers
	}
	for _, e := range t.entries {
		if e.slot >= 0 {
			load.Delayed++
		}
		if e.failures > 0 {
			load.Failing++
		}
	}
	return load
}
