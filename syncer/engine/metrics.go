package engine

import (
	"github.com/prometheus/client_golang/prometheus"
	"sigs.k8s.io/controller-runtime/pkg/metrics"
)

// Metrics of the engine. Labels are kinds, directions and results, never anything that a
// tenant can make many of; those of single tenants are in tenantmetrics.go.
var (
	reconciles = prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name:    "bulkhead_syncer_reconcile_seconds",
		Help:    "Time to handle one key, by kind and result (ok, wait, unreachable, error, panic).",
		Buckets: prometheus.ExponentialBuckets(0.0005, 4, 9),
	}, []string{"kind", "result"})

	writes = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "bulkhead_syncer_writes_total",
		Help: "Writes, by kind, side (super, tenant) and verb.",
	}, []string{"kind", "side", "verb"})

	findings = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "bulkhead_syncer_findings_total",
		Help: "Times a tenant's object was refused, or went down without something it asked for.",
	}, []string{"kind", "outcome"})

	waits = prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name:    "bulkhead_syncer_wait_seconds",
		Help:    "Time that keys waited for a worker, by direction, without what they were delayed on purpose.",
		Buckets: prometheus.ExponentialBuckets(0.0001, 4, 10),
	}, []string{"direction"})
)

// countWrite counts a write that is about to be made.
func (l *Link) countWrite(kind, side, verb string) {
	if l.rehearsal == nil {
		writes.WithLabelValues(kind, side, verb).Inc()
	}
}

func init() {
	metrics.Registry.MustRegister(reconciles, writes, findings, waits, phases, backlog, tenantState, tenantHangs, tenantHandled, tenantFailed)
}
