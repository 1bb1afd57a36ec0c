package usage

import (
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"
)

// Sample is one reading of a pod's CPU counter.
type Sample struct {
	// Pod is the super pod's UID.
	Pod types.UID
	// CPU is what the pod has used since it started, in nanoseconds of one core.
	CPU uint64
	// Time is when the kubelet read it.
	Time time.Time
}

// Counter is the CPU time that all of one tenant's pods together have used on this
// node: what the tenant sees as its node's counter.
//
// The plain sum of the pods' counters would drop whenever a pod goes, which a
// counter must not do: metrics-server discards such a sample, and rate() takes it
// for a restart. So the counter adds up increments, and what a pod used stays
// counted after it is gone. It starts with the sum of the pods that are there, and
// so begins anew when vn-agent restarts, as any process's counters do. State is
// one entry for each present pod.
type Counter struct {
	mu    sync.Mutex
	total uint64
	at    time.Time
	last  map[types.UID]Sample
}

// Observe takes the samples in and returns the counter with the time it is for.
// exists says which pods are still there: one that is, but was not sampled this
// time, goes on later from where it was.
func (c *Counter) Observe(samples []Sample, exists func(types.UID) bool) (total uint64, at time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.last == nil {
		c.last = map[types.UID]Sample{}
	}
	for _, sample := range samples {
		last, known := c.last[sample.Pod]
		switch {
		case !known:
			c.total += sample.CPU
		case sample.Time.Before(last.Time):
			continue // an answer that a later one has overtaken
		case sample.CPU >= last.CPU:
			c.total += sample.CPU - last.CPU
		case sample.Time.Equal(last.Time):
			continue
		default:
			// The pod's own counter began anew.
			c.total += sample.CPU
		}
		c.last[sample.Pod] = sample
		if sample.Time.After(c.at) {
			c.at = sample.Time
		}
	}
	for pod := range c.last {
		if !exists(pod) {
			delete(c.last, pod)
		}
	}
	return c.total, c.at
}
