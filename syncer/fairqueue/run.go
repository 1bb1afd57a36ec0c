package fairqueue

import (
	"context"
	"sync"
	"time"
)

// Handler does what a key asks for. After an error the key is handled again, later
// with each one in a row. Otherwise it is handled again after the returned time, if
// that is above 0.
type Handler[T, K comparable] func(ctx context.Context, tenant T, key K) (again time.Duration, err error)

// Run handles keys with a number of workers. It returns when all of them have ended,
// which they do after the key they are at once the context ends or the queue is shut
// down. The context's end shuts the queue down.
func (q *Queue[T, K]) Run(ctx context.Context, workers int, handle Handler[T, K]) {
	defer context.AfterFunc(ctx, q.ShutDown)()
	var group sync.WaitGroup
	for range workers {
		group.Go(func() {
			for q.next(ctx, handle) {
			}
		})
	}
	group.Wait()
}

func (q *Queue[T, K]) next(ctx context.Context, handle Handler[T, K]) bool {
	item, ok := q.Get()
	if !ok {
		return false
	}
	defer q.Done(item) // a handler that panics does not keep its key
	again, err := handle(ctx, item.Tenant, item.Key)
	q.finish(item, func(e *entry[T, K], now time.Time) {
		if err != nil {
			q.retry(e, now)
			return
		}
		e.failures = 0
		if again > 0 {
			q.delay(e, now.Add(again), false)
		}
	})
	return true
}

// ShutDown drops what waits and ends the workers after the key they are at.
func (q *Queue[T, K]) ShutDown() {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.stopped {
		return
	}
	for _, t := range q.tenants {
		q.drop(t)
	}
	q.stopped = true
	if q.timer != nil {
		q.timer.Stop()
	}
	q.settled()
	q.wake.Broadcast()
}

// Drain takes nothing new, has what waits handled, and then shuts the queue down.
// What is delayed or fails is dropped, and what paused tenants have, for nobody would
// handle it. If the context ends first, all that still waits is dropped and the
// context's error returned. Handlings may go on then.
func (q *Queue[T, K]) Drain(ctx context.Context) error {
	q.mu.Lock()
	if !q.draining {
		q.draining = true
		for _, t := range q.tenants {
			if t.settings.Paused {
				q.drop(t)
			}
			for _, e := range t.entries {
				e.failures = 0
				q.undelay(e)
				t.release(e)
			}
		}
		q.settled()
	}
	q.mu.Unlock()
	defer q.ShutDown()
	select {
	case <-q.idle:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// settled closes idle when a queue that takes nothing new holds nothing more.
func (q *Queue[T, K]) settled() {
	if (q.draining || q.stopped) && q.waiting == 0 && q.running == 0 {
		select {
		case <-q.idle:
		default:
			close(q.idle)
		}
	}
}
