package controller

import (
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/apimachinery/pkg/types"
)

// metrics measures how long virtual clusters take to come up. It has no label per
// tenant: those are without bound.
type metrics struct {
	phase *prometheus.HistogramVec

	mu     sync.Mutex
	starts map[types.UID]time.Time
}

func newMetrics(registry prometheus.Registerer) (*metrics, error) {
	m := &metrics{
		phase: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "bulkhead_virtual_cluster_phase_seconds",
			Help:    "Time from when a new virtual cluster was first seen until the condition first came true.",
			Buckets: []float64{0.1, 0.25, 0.5, 1, 2, 3, 4, 5, 6, 8, 10, 15, 20, 30, 60, 120, 300, 600},
		}, []string{"condition"}),
		starts: map[types.UID]time.Time{},
	}
	for _, condition := range ours {
		m.phase.WithLabelValues(condition)
	}
	return m, registry.Register(m.phase)
}

// created starts the clock of a virtual cluster. One that this process did not see
// from the beginning is not measured.
func (m *metrics) created(uid types.UID) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.starts[uid] = time.Now()
}

// reached records that a condition came true; after Ready nothing more is recorded.
func (m *metrics) reached(uid types.UID, condition string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	start, ok := m.starts[uid]
	if !ok {
		return
	}
	m.phase.WithLabelValues(condition).Observe(time.Since(start).Seconds())
	if condition == ours[len(ours)-1] {
		delete(m.starts, uid)
	}
}

func (m *metrics) forget(uid types.UID) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.starts, uid)
}
