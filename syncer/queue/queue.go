// Package queue holds the work of one tenant in one direction. A tenant has queues
// of its own, with a rate limit and a backlog of their own, so that no tenant waits
// for another's retries.
//
// This is the place of the fair queue: what shares workers among tenants by weight
// goes behind Queue's methods, and nothing outside the package changes.
package queue

import (
	"context"
	"sync"
	"time"

	"golang.org/x/time/rate"
	"k8s.io/client-go/util/workqueue"
)

// Limits of the retries in one queue. First attempts are not limited.
const (
	retryBase  = 50 * time.Millisecond
	retryMax   = time.Minute
	retryRate  = 50 // retries a second over all keys
	retryBurst = 200
)

// Queue holds keys to be handled. A key that is added again while it waits is kept
// once; one that is added while it is handled is handled again afterwards, never
// twice at a time.
type Queue[K comparable] struct {
	work workqueue.TypedRateLimitingInterface[K]
}

// New makes a queue. Run ends it.
func New[K comparable]() *Queue[K] {
	limiter := workqueue.NewTypedMaxOfRateLimiter(
		workqueue.NewTypedItemExponentialFailureRateLimiter[K](retryBase, retryMax),
		&workqueue.TypedBucketRateLimiter[K]{Limiter: rate.NewLimiter(retryRate, retryBurst)},
	)
	return &Queue[K]{work: workqueue.NewTypedRateLimitingQueue(limiter)}
}

// Add asks for a key to be handled.
func (q *Queue[K]) Add(key K) { q.work.Add(key) }

// AddAfter asks for a key to be handled at a later time.
func (q *Queue[K]) AddAfter(key K, delay time.Duration) { q.work.AddAfter(key, delay) }

// Len is the number of keys that wait.
func (q *Queue[K]) Len() int { return q.work.Len() }

// Handler does what a key asks for. After an error the key is handled again, later
// each time. Otherwise it is handled again after the returned time, if that is not 0.
type Handler[K comparable] func(ctx context.Context, key K) (again time.Duration, err error)

// Run handles keys with a number of workers until the context ends, and returns
// when all of them have. A queue runs once.
func (q *Queue[K]) Run(ctx context.Context, workers int, handle Handler[K]) {
	var group sync.WaitGroup
	for range workers {
		group.Go(func() {
			for q.next(ctx, handle) {
			}
		})
	}
	<-ctx.Done()
	q.work.ShutDown()
	group.Wait()
}

// Stop ends a queue that never ran.
func (q *Queue[K]) Stop() { q.work.ShutDown() }

func (q *Queue[K]) next(ctx context.Context, handle Handler[K]) bool {
	key, ended := q.work.Get()
	if ended {
		return false
	}
	defer q.work.Done(key)
	if ctx.Err() != nil {
		return true // drains the queue; what it held is found again from the clusters
	}
	again, err := handle(ctx, key)
	switch {
	case err != nil:
		q.work.AddRateLimited(key)
	case again > 0:
		q.work.Forget(key)
		q.work.AddAfter(key, again)
	default:
		q.work.Forget(key)
	}
	return true
}
