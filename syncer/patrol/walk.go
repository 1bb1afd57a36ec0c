package patrol

import (
	"sync"
	"time"

	"github.com/bulkhead-dev/bulkhead/syncer/engine"
)

// maxSuspects bounds what is kept in mind of one tenant: if more differs than that, the
// rest is found in later rounds.
const maxSuspects = 1000

// maxLooks is how often an object is looked at in a round that changes all the time.
const maxLooks = 3

// walk is a patrol's way through the objects of one tenant.
type walk[L Link] struct {
	link L
	// due is when the next round begins; started when this one has, or zero.
	due, started time.Time
	// resources are still to be listed, keys of the last one to be compared.
	resources []string
	keys      []engine.Key
	// suspects differed, and are looked at once more; queue has them by time.
	suspects map[engine.Key]*suspect
	queue    []engine.Key

	mu   sync.Mutex
	told Round
}

// Round is where a patrol is with a link.
type Round struct {
	// Began is when the round began that goes on, or zero. LastEnded and LastResult
	// (complete, aborted) are of the round before.
	Began, LastEnded time.Time
	LastResult       string
	// Next is when the next round is due.
	Next time.Time
}

func (w *walk[L]) round() Round {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.told
}

// tell lets others know that a round has begun, or ended with a result.
func (w *walk[L]) tell(result string, now time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.told.Began, w.told.Next = w.started, w.due
	if result != "" {
		w.told.LastEnded, w.told.LastResult = now, result
	}
}

type suspect struct {
	since    time.Time
	versions string
	looks    int
}

func (w *walk[L]) begun() bool { return !w.started.IsZero() }

func (w *walk[L]) begin(now time.Time, resources []string) {
	w.started, w.resources = now, resources
	w.tell("", now)
}

// end ends a round that is complete.
func (w *walk[L]) end(now time.Time, interval time.Duration) {
	if !w.begun() {
		return
	}
	rounds.WithLabelValues("complete").Inc()
	roundSeconds.Observe(now.Sub(w.started).Seconds())
	w.due, w.started = w.started.Add(interval), time.Time{}
	if w.due.Before(now) {
		w.due = now
	}
	w.tell("complete", now)
}

// abort ends a round in the middle, or puts off one that is due, and forgets what it
// has seen.
func (w *walk[L]) abort(now time.Time, interval time.Duration) {
	result := ""
	if w.begun() {
		result = "aborted"
		rounds.WithLabelValues(result).Inc()
	}
	if w.begun() || !now.Before(w.due) {
		w.due = now.Add(interval)
	}
	w.started, w.resources, w.keys, w.suspects, w.queue = time.Time{}, nil, nil, nil, nil
	w.tell(result, now)
}

// remember keeps a key that differs in mind.
func (w *walk[L]) remember(key engine.Key, difference *engine.Difference, now time.Time) {
	if len(w.suspects) >= maxSuspects {
		return
	}
	if w.suspects == nil {
		w.suspects = map[engine.Key]*suspect{}
	}
	if w.suspects[key] == nil {
		w.queue = append(w.queue, key)
	}
	w.suspects[key] = &suspect{since: now, versions: difference.Versions, looks: 1}
}

// suspect takes a key out of the queue that has differed for long enough.
func (w *walk[L]) suspect(now time.Time, settle time.Duration) (engine.Key, bool) {
	if len(w.queue) == 0 {
		return engine.Key{}, false
	}
	key := w.queue[0]
	if now.Before(w.suspects[key].since.Add(settle)) {
		return key, false
	}
	w.queue = w.queue[1:]
	return key, true
}

// next is when there is something to do.
func (w *walk[L]) next(settle time.Duration) time.Time {
	switch {
	case len(w.queue) > 0:
		return w.suspects[w.queue[0]].since.Add(settle)
	case w.begun():
		return time.Time{}
	}
	return w.due
}
