package fairqueue

import "time"

// Retry says when keys that failed are handled again. Zero fields mean the defaults.
type Retry struct {
	// Base is the delay after the first failure, which doubles with each further one
	// up to Max; 50 milliseconds and one minute.
	Base, Max time.Duration
	// PerSecond and Burst bound the retries of one tenant; 50 a second and 200 at once.
	PerSecond float64
	Burst     int
}

func (r Retry) withDefaults() Retry {
	if r.Base <= 0 {
		r.Base = 50 * time.Millisecond
	}
	if r.Max <= 0 {
		r.Max = time.Minute
	}
	if r.PerSecond <= 0 {
		r.PerSecond = 50
	}
	if r.Burst <= 0 {
		r.Burst = 200
	}
	return r
}

// backoff is the delay after a number of failures in a row.
func (r Retry) backoff(failures int) time.Duration {
	delay := r.Base
	for range failures - 1 {
		if delay >= r.Max/2 {
			return r.Max
		}
		delay *= 2
	}
	return min(delay, r.Max)
}

// retry delays an entry after a failure.
func (q *Queue[T, K]) retry(e *entry[T, K], now time.Time) {
	e.failures++
	due := now.Add(q.options.Retry.backoff(e.failures))
	if allowed := e.tenant.retries.take(q.options.Retry, now); allowed.After(due) {
		due = allowed
	}
	q.delay(e, due, true)
}

// bucket limits the rate of one tenant's retries. It holds when an endless row of
// retries, one after the other at that rate, would have come to its end.
type bucket struct {
	end time.Time
}

// take takes one retry out and returns when it may be.
func (b *bucket) take(r Retry, now time.Time) time.Time {
	interval := time.Duration(float64(time.Second) / r.PerSecond)
	if b.end.Before(now) {
		b.end = now
	}
	at := b.end.Add(-time.Duration(r.Burst-1) * interval)
	b.end = b.end.Add(interval)
	return at
}
