package fairqueue

import "time"

// tenant is what a Queue knows of one tenant.
type tenant[T, K comparable] struct {
	id       T
	settings Tenant
	removed  bool

	// entries are all of the tenant, by key; from head to tail those that wait.
	entries    map[K]*entry[T, K]
	head, tail *entry[T, K]
	waiting    int
	running    int
	active     bool

	// time is the tenant's virtual time, estimate the mean cost of its handlings.
	time, estimate float64
	// slot in the ready heap, or -1; order is when it came in.
	slot  int
	order uint64

	retries bucket
}

// ending waits for the handlings that go on when a tenant is removed.
type ending struct {
	left int
	done chan struct{}
}

// one of them has ended.
func (e *ending) one() {
	if e.left--; e.left == 0 {
		close(e.done)
	}
}

// Set announces a tenant, or changes the settings of one that is known.
func (q *Queue[T, K]) Set(id T, settings Tenant) {
	if settings.Weight <= 0 {
		settings.Weight = 1
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.stopped {
		return
	}
	t := q.tenants[id]
	if t == nil {
		t = &tenant[T, K]{id: id, entries: map[K]*entry[T, K]{}, slot: -1, estimate: q.options.Cost(0), time: q.virtual}
		q.tenants[id] = t
	}
	t.removed, t.settings = false, settings
	if q.draining && settings.Paused {
		q.drop(t)
	}
	q.place(t)
	q.settled()
	q.wake.Broadcast()
}

// Settings are those that a tenant has been announced with, and whether it is known.
func (q *Queue[T, K]) Settings(id T) (Tenant, bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if t := q.tenants[id]; t != nil && !t.removed {
		return t.settings, true
	}
	return Tenant{}, false
}

// Remove takes a tenant away, with all its keys. The channel is closed when its last
// handling has ended. A tenant that is not known is fine.
func (q *Queue[T, K]) Remove(id T) <-chan struct{} {
	q.mu.Lock()
	defer q.mu.Unlock()
	end := &ending{done: make(chan struct{})}
	t := q.tenants[id]
	if t != nil {
		t.removed = true
		q.drop(t)
		for _, e := range t.entries {
			if e.running {
				e.endings = append(e.endings, end)
				end.left++
			}
		}
		if t.running == 0 {
			delete(q.tenants, id)
		}
	}
	if end.left == 0 {
		close(end.done)
	}
	q.settled()
	return end.done
}

// drop takes away all that a tenant has waiting.
func (q *Queue[T, K]) drop(t *tenant[T, K]) {
	q.waiting -= t.waiting
	t.head, t.tail, t.waiting = nil, nil, 0
	for key, e := range t.entries {
		e.queued, e.next, e.again, e.failures = false, nil, false, 0
		q.undelay(e)
		if !e.running {
			delete(t.entries, key)
		}
	}
	q.place(t)
}

// release forgets an entry that nothing is to be known of.
func (t *tenant[T, K]) release(e *entry[T, K]) {
	if !e.queued && !e.running && e.slot < 0 && e.failures == 0 {
		delete(t.entries, e.key)
	}
}

// Stats are numbers of a queue at one moment.
type Stats struct {
	// Tenants that are known, and those that have keys waiting or handled.
	Tenants, Active int
	// Keys that wait for a worker, for a time, and that are handled.
	Waiting, Delayed, Running int
}

// Stats counts. It costs the same whatever the queue holds.
func (q *Queue[T, K]) Stats() Stats {
	q.mu.Lock()
	defer q.mu.Unlock()
	return Stats{Tenants: len(q.tenants), Active: q.active, Waiting: q.waiting, Delayed: len(q.delayed), Running: q.running}
}

// Backlog is how many keys of a tenant wait for a worker.
func (q *Queue[T, K]) Backlog(id T) int {
	q.mu.Lock()
	defer q.mu.Unlock()
	if t := q.tenants[id]; t != nil {
		return t.waiting
	}
	return 0
}

// Busy tells whether a key waits for a worker, is handled, or has failed and will be
// tried again. One that only waits for its time is not busy.
func (q *Queue[T, K]) Busy(id T, key K) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	t := q.tenants[id]
	if t == nil {
		return false
	}
	e := t.entries[key]
	return e != nil && (e.queued || e.running || e.failures > 0)
}

// dispatch takes the next entry. There must be a ready tenant.
func (q *Queue[T, K]) dispatch(now time.Time) *entry[T, K] {
	t := q.ready[0]
	e := t.head
	t.head = e.next
	if t.head == nil {
		t.tail = nil
	}
	t.waiting--
	q.waiting--
	e.queued, e.next = false, nil
	if e.retry {
		q.undelay(e)
	}
	e.running, e.started = true, now
	e.turn++
	t.running++
	q.running++
	q.begin(e)
	return e
}
