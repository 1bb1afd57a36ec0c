package fairqueue

import (
	"sync"
	"time"
)

// Options make a Queue. The zero value is usable.
type Options[T comparable] struct {
	// TenantWorkers is how many keys of one tenant are handled at a time at most,
	// unless its own settings say otherwise; 0 means no limit.
	TenantWorkers int
	// Retry says when keys that failed are handled again.
	Retry Retry
	// Cost of a handling that took that long, in any unit, above 0; CostOfTime if nil.
	Cost func(handled time.Duration) float64
	// Waited, if set, is told how long a key waited for a worker, not counting what it
	// was delayed on purpose. It is called without locks, by the worker.
	Waited func(tenant T, waited time.Duration)
}

// Tenant holds the settings of a tenant.
type Tenant struct {
	// Weight is the tenant's share relative to the others'; 1 if 0 or less.
	Weight int
	// Workers is how many of its keys are handled at a time at most; 0 means
	// Options.TenantWorkers.
	Workers int
	// Paused tenants take keys and hand none out.
	Paused bool
}

// Queue holds keys of type K of tenants of type T. All methods may be called by
// several goroutines at once.
type Queue[T, K comparable] struct {
	options Options[T]

	mu   sync.Mutex
	wake *sync.Cond
	// tenants are those announced, and those removed whose last handling goes on.
	tenants map[T]*tenant[T, K]
	// ready are the tenants with keys to hand out, by virtual time.
	ready readyHeap[T, K]
	// virtual is the time of the tenant that was served last; order breaks ties.
	virtual float64
	order   uint64
	// delayed keys, by when they are due, and the timer for the first.
	delayed delayedHeap[T, K]
	timer   *time.Timer

	waiting, running, active int
	draining, stopped        bool
	// idle is closed when a drained queue holds nothing more.
	idle chan struct{}
}

// entry is a key that waits, is delayed, is handled, or has failed.
type entry[T, K comparable] struct {
	tenant *tenant[T, K]
	key    K

	// queued: it is in the tenant's backlog, before next, since then.
	queued bool
	next   *entry[T, K]
	since  time.Time

	// running: it is handled, for the turnth time, since then, at a cost that was
	// charged in advance. again: it was added meanwhile. endings wait for its end.
	running, again bool
	turn           uint64
	started        time.Time
	charged        float64
	endings        []*ending

	// failures in a row.
	failures int

	// slot in the delayed heap, or -1, until due; retry: for no other reason than that it failed.
	slot  int
	due   time.Time
	retry bool
}

// Item is a key that has been handed out.
type Item[T, K comparable] struct {
	Tenant T
	Key    K

	entry *entry[T, K]
	turn  uint64
}

// New makes a queue.
func New[T, K comparable](options Options[T]) *Queue[T, K] {
	if options.Cost == nil {
		options.Cost = CostOfTime
	}
	options.Retry = options.Retry.withDefaults()
	q := &Queue[T, K]{options: options, tenants: map[T]*tenant[T, K]{}, idle: make(chan struct{})}
	q.wake = sync.NewCond(&q.mu)
	return q
}

// Add asks for a key to be handled. It reports whether it will be: not if the tenant
// is unknown or the queue is shut down.
func (q *Queue[T, K]) Add(tenant T, key K) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	e := q.entryOf(tenant, key)
	if e == nil {
		return false
	}
	q.enqueue(e, time.Now())
	return true
}

// AddAfter asks for a key to be handled after a delay, at once if that is not above 0.
// It reports whether it will be, as Add does.
func (q *Queue[T, K]) AddAfter(tenant T, key K, delay time.Duration) bool {
	if delay <= 0 {
		return q.Add(tenant, key)
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	e := q.entryOf(tenant, key)
	if e == nil {
		return false
	}
	q.delay(e, time.Now().Add(delay), false)
	return true
}

// Retry asks for a key to be handled again after a failure: later with each failure
// in a row, and within the tenant's rate of retries. It reports whether it will be.
func (q *Queue[T, K]) Retry(tenant T, key K) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	e := q.entryOf(tenant, key)
	if e == nil {
		return false
	}
	q.retry(e, time.Now())
	return true
}

// Forget ends a row of failures of a key. It does not take the key away.
func (q *Queue[T, K]) Forget(tenant T, key K) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if t := q.tenants[tenant]; t != nil {
		if e := t.entries[key]; e != nil {
			e.failures = 0
			t.release(e)
		}
	}
}

// Get waits for the next key and hands it out. It reports false once the queue is shut
// down. Every item that is handed out must be given back with Done.
func (q *Queue[T, K]) Get() (Item[T, K], bool) {
	q.mu.Lock()
	for len(q.ready) == 0 && !q.stopped {
		q.wake.Wait()
	}
	if q.stopped {
		q.mu.Unlock()
		return Item[T, K]{}, false
	}
	now := time.Now()
	e := q.dispatch(now)
	item := Item[T, K]{Tenant: e.tenant.id, Key: e.key, entry: e, turn: e.turn}
	waited := now.Sub(e.since)
	q.mu.Unlock()
	if q.options.Waited != nil {
		q.options.Waited(item.Tenant, waited)
	}
	return item, true
}

// Done gives back an item that was handed out. To give it back twice does nothing.
func (q *Queue[T, K]) Done(item Item[T, K]) {
	q.finish(item, func(*entry[T, K], time.Time) {})
}

// finish ends a handling. What follows from it is not for the entry of a tenant that was
// removed in between.
func (q *Queue[T, K]) finish(item Item[T, K], follow func(*entry[T, K], time.Time)) {
	q.mu.Lock()
	defer q.mu.Unlock()
	e := item.entry
	if e == nil || !e.running || e.turn != item.turn {
		return
	}
	now, t := time.Now(), e.tenant
	q.charge(e, now)
	e.running = false
	t.running--
	q.running--
	switch {
	case len(e.endings) > 0:
		for _, end := range e.endings {
			end.one()
		}
		e.endings = nil
	case !q.draining && !q.stopped:
		follow(e, now)
	}
	if e.again {
		e.again, e.since = false, now
		if !e.queued {
			q.push(e)
		}
	}
	t.release(e)
	q.place(t)
	if t.removed && t.running == 0 {
		delete(q.tenants, t.id)
	}
	q.settled()
}

// entryOf finds or makes the entry of a key, and returns nil if it is not to be held.
func (q *Queue[T, K]) entryOf(id T, key K) *entry[T, K] {
	t := q.tenants[id]
	if t == nil || t.removed || q.draining || q.stopped {
		return nil
	}
	e := t.entries[key]
	if e == nil {
		e = &entry[T, K]{tenant: t, key: key, slot: -1}
		t.entries[key] = e
	}
	return e
}

// enqueue has an entry handled as soon as its tenant's turn comes.
func (q *Queue[T, K]) enqueue(e *entry[T, K], now time.Time) {
	switch {
	case e.queued || e.again:
	case e.running:
		e.again = true
	default:
		e.since = now
		q.push(e)
		q.place(e.tenant)
	}
}

// push puts an entry at the end of its tenant's backlog.
func (q *Queue[T, K]) push(e *entry[T, K]) {
	t := e.tenant
	e.queued = true
	if t.tail == nil {
		t.head = e
	} else {
		t.tail.next = e
	}
	t.tail = e
	t.waiting++
	q.waiting++
}
