package engine

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	abmv1alpha1 "github.com/bulkhead-dev/bulkhead/api/abm/v1alpha1"
)

// metrics are what operators see of all instances.
type metrics struct {
	durations *prometheus.HistogramVec
	failures  *prometheus.CounterVec
}

func newMetrics(registry prometheus.Registerer) (*metrics, error) {
	m := &metrics{
		durations: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "bulkhead_abm_step_duration_seconds", Help: "Time from the begin of a step to its end.",
			Buckets: []float64{.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1800},
		}, []string{"service", "step", "direction"}),
		failures: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "bulkhead_abm_step_failures_total", Help: "Steps that came to fail.",
		}, []string{"service", "step"}),
	}
	for _, collector := range []prometheus.Collector{m.durations, m.failures} {
		if err := registry.Register(collector); err != nil {
			return nil, err
		}
	}
	return m, nil
}

func (m *metrics) observe(service string, record *abmv1alpha1.StepRecord, now time.Time, direction string) {
	if record.StartedAt != nil {
		m.durations.WithLabelValues(service, record.Step, direction).Observe(now.Sub(record.StartedAt.Time).Seconds())
	}
}

func (m *metrics) failed(service, step string) {
	m.failures.WithLabelValues(service, step).Inc()
}
