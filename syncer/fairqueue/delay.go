package fairqueue

import (
	"container/heap"
	"time"
)

// delay has an entry handled when it is due, or earlier if it is delayed already.
// retry is whether that is for no other reason than that it failed: then a handling before makes
// it needless.
func (q *Queue[T, K]) delay(e *entry[T, K], due time.Time, retry bool) {
	switch {
	case e.slot < 0:
		e.due, e.retry = due, retry
		heap.Push(&q.delayed, e)
	default:
		e.retry = e.retry && retry
		if due.Before(e.due) {
			e.due = due
			heap.Fix(&q.delayed, e.slot)
		}
	}
	if e.slot == 0 {
		q.setTimer(time.Now())
	}
}

// undelay takes an entry's delay away, if it has one.
func (q *Queue[T, K]) undelay(e *entry[T, K]) {
	if e.slot >= 0 {
		heap.Remove(&q.delayed, e.slot)
	}
	e.retry = false
}

// setTimer has the timer go off when the first delayed entry is due.
func (q *Queue[T, K]) setTimer(now time.Time) {
	if len(q.delayed) == 0 {
		return
	}
	wait := max(q.delayed[0].due.Sub(now), 0)
	if q.timer == nil {
		q.timer = time.AfterFunc(wait, q.fire)
		return
	}
	q.timer.Reset(wait)
}

// fire enqueues what is due.
func (q *Queue[T, K]) fire() {
	q.mu.Lock()
	defer q.mu.Unlock()
	now := time.Now()
	for len(q.delayed) > 0 && !q.delayed[0].due.After(now) {
		e := q.delayed[0]
		q.undelay(e)
		q.enqueue(e, now)
	}
	q.setTimer(now)
}

// delayedHeap has the entry that is due first first.
type delayedHeap[T, K comparable] []*entry[T, K]

func (h delayedHeap[T, K]) Len() int { return len(h) }

func (h delayedHeap[T, K]) Less(i, j int) bool { return h[i].due.Before(h[j].due) }

func (h delayedHeap[T, K]) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].slot, h[j].slot = i, j
}

func (h *delayedHeap[T, K]) Push(x any) {
	e := x.(*entry[T, K])
	e.slot = len(*h)
	*h = append(*h, e)
}

func (h *delayedHeap[T, K]) Pop() any {
	last := len(*h) - 1
	e := (*h)[last]
	(*h)[last] = nil
	*h = (*h)[:last]
	e.slot = -1
	return e
}
