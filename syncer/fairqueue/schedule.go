package fairqueue

import (
	"container/heap"
	"time"
)

// Bounds of CostOfTime. What is too short to be measured well costs something all the
// same, and a single handling that hung is paid off within seconds.
const (
	minCost = 100 * time.Microsecond
	maxCost = time.Second
)

// estimateShare is the part of a new handling in the mean cost of a tenant's.
const estimateShare = 0.25

// CostOfTime shares the workers' time: a handling costs the seconds that it took,
// but not less than a tenth of a millisecond and not more than one second.
func CostOfTime(handled time.Duration) float64 {
	return min(max(handled, minCost), maxCost).Seconds()
}

// CostPerKey shares the number of handlings.
func CostPerKey(time.Duration) float64 { return 1 }

// place makes a tenant's place among those that are ready what it should be.
func (q *Queue[T, K]) place(t *tenant[T, K]) {
	if active := t.head != nil || t.running > 0; active != t.active {
		t.active = active
		if active {
			q.active++
		} else {
			q.active--
		}
	}
	limit := t.settings.Workers
	if limit <= 0 {
		limit = q.options.TenantWorkers
	}
	ready := t.head != nil && !t.settings.Paused && (limit <= 0 || t.running < limit)
	switch {
	case ready && t.slot < 0:
		// No turns are saved up by who could not use them.
		t.time = max(t.time, q.virtual)
		q.order++
		t.order = q.order
		heap.Push(&q.ready, t)
	case ready:
		heap.Fix(&q.ready, t.slot)
	case t.slot >= 0:
		heap.Remove(&q.ready, t.slot)
	}
	if ready {
		q.wake.Signal()
	}
}

// begin charges a handling in advance what the tenant's take in the mean.
func (q *Queue[T, K]) begin(e *entry[T, K]) {
	t := e.tenant
	q.virtual = max(q.virtual, t.time)
	e.charged = t.estimate
	t.time += e.charged / float64(t.settings.Weight)
	q.order++
	t.order = q.order // among equals, who was served goes last
	q.place(t)
}

// charge corrects what was charged to what the handling has taken.
func (q *Queue[T, K]) charge(e *entry[T, K], now time.Time) {
	t := e.tenant
	cost := q.options.Cost(now.Sub(e.started))
	t.time += (cost - e.charged) / float64(t.settings.Weight)
	t.estimate += (cost - t.estimate) * estimateShare
}

// readyHeap has the tenant that is furthest behind first.
type readyHeap[T, K comparable] []*tenant[T, K]

func (h readyHeap[T, K]) Len() int { return len(h) }

func (h readyHeap[T, K]) Less(i, j int) bool {
	if h[i].time != h[j].time {
		return h[i].time < h[j].time
	}
	return h[i].order < h[j].order
}

func (h readyHeap[T, K]) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].slot, h[j].slot = i, j
}

func (h *readyHeap[T, K]) Push(x any) {
	t := x.(*tenant[T, K])
	t.slot = len(*h)
	*h = append(*h, t)
}

func (h *readyHeap[T, K]) Pop() any {
	last := len(*h) - 1
	t := (*h)[last]
	(*h)[last] = nil
	*h = (*h)[:last]
	t.slot = -1
	return t
}
