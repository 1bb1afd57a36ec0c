package patrol

import (
	"github.com/prometheus/client_golang/prometheus"
	"sigs.k8s.io/controller-runtime/pkg/metrics"
)

var (
	repairs = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "bulkhead_syncer_patrol_repairs_total",
		Help: "Objects that the patrol found to differ although no event had told of it, by kind and reason (missing, drift, orphan). Should stay 0.",
	}, []string{"kind", "reason"})

	compared = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "bulkhead_syncer_patrol_compared_total",
		Help: "Objects that the patrol has compared, by kind.",
	}, []string{"kind"})

	rounds = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "bulkhead_syncer_patrol_rounds_total",
		Help: "Rounds of the patrol through one tenant's objects, by result (complete, aborted).",
	}, []string{"result"})

	roundSeconds = prometheus.NewHistogram(prometheus.HistogramOpts{
		Name:    "bulkhead_syncer_patrol_round_seconds",
		Help:    "Time of a complete round through one tenant's objects, most of it waited for the patrol's rate.",
		Buckets: prometheus.ExponentialBuckets(0.01, 4, 9),
	})
)

func init() {
	metrics.Registry.MustRegister(repairs, compared, rounds, roundSeconds)
}
