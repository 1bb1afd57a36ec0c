package engine

import (
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// The phases of a pod's way: until a worker takes it and makes the super pod, until the super
// cluster has scheduled that, until a worker takes it again and tells the tenant.
const (
	phaseDownQueue   = "down_queue"
	phaseDownProcess = "down_process"
	phaseScheduling  = "super_scheduling"
	phaseUpQueue     = "up_queue"
	phaseUpProcess   = "up_process"
)

var phases = prometheus.NewHistogramVec(prometheus.HistogramOpts{
	Name:    "bulkhead_syncer_pod_phase_seconds",
	Help:    "Time of pods in each phase of their way: down_queue, down_process, super_scheduling, up_queue, up_process.",
	Buckets: prometheus.ExponentialBuckets(0.0005, 2, 18),
}, []string{"phase"})

// resourcePods is the kind whose phases are measured.
const resourcePods = "pods"

// did takes a note of a write that has been made.
func (h *handling) did(request *http.Request, tenants bool) {
	path := request.URL.Path
	switch {
	case tenants && request.Method == http.MethodPost && strings.HasSuffix(path, "/binding"):
		h.bound, h.up = true, true
	case tenants && strings.Contains(path, "/pods/"):
		h.up = true
	case !tenants && request.Method == http.MethodPost && strings.HasSuffix(path, "/pods"):
		h.created = time.Now()
	}
}

// maxScheduling bounds how many super pods of a tenant are waited for to be scheduled. If
// there are more, none is measured for a while.
const maxScheduling = 4096

// scheduling remembers when super pods were made that no node is known of.
type scheduling struct {
	mu      sync.Mutex
	created map[Key]time.Time
}

func (s *scheduling) begin(key Key, at time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.created == nil || len(s.created) >= maxScheduling {
		s.created = map[Key]time.Time{}
	}
	s.created[key] = at
}

func (s *scheduling) end(key Key) (began time.Time, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	began, ok = s.created[key]
	delete(s.created, key)
	return began, ok
}

// measure observes the phases that a handling of a pod has ended. waited is how long
// the pod waited for the worker.
func (s *scheduling) measure(key Key, h *handling, waited time.Duration) {
	took := time.Since(h.started)
	switch {
	case !h.created.IsZero():
		phases.WithLabelValues(phaseDownQueue).Observe(waited.Seconds())
		phases.WithLabelValues(phaseDownProcess).Observe(took.Seconds())
		s.begin(key, h.created)
	case h.up:
		phases.WithLabelValues(phaseUpQueue).Observe(waited.Seconds())
		phases.WithLabelValues(phaseUpProcess).Observe(took.Seconds())
	}
	if h.bound {
		// It was queued when the cache showed the node.
		if began, ok := s.end(key); ok {
			phases.WithLabelValues(phaseScheduling).Observe(max(h.started.Add(-waited).Sub(began), 0).Seconds())
		}
	}
}
