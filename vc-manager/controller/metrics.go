package controller

import (
	"context"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	tenancyv1alpha1 "github.com/bulkhead-dev/bulkhead/api/tenancy/v1alpha1"
)

// metrics measures how long virtual clusters take to come up. It has no label per
// tenant: those are without bound.
type metrics struct {
	phase *prometheus.HistogramVec

	mu     sync.Mutex
	starts map[types.UID]time.Time
}

// censusTimeout bounds the wait for a cache that is still being filled.
const censusTimeout = 2 * time.Second

// newMetrics registers the metrics; clusters reads from a cache.
func newMetrics(registry prometheus.Registerer, clusters client.Reader) (*metrics, error) {
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
	if err := registry.Register(m.phase); err != nil {
		return nil, err
	}
	return m, registry.Register(&census{clusters: clusters})
}

// census counts the virtual clusters there are, when it is asked.
type census struct{ clusters client.Reader }

var censusDesc = prometheus.NewDesc("bulkhead_virtual_clusters", "Virtual clusters, by the status of their Ready condition.", []string{"ready"}, nil)

func (c *census) Describe(descriptions chan<- *prometheus.Desc) { descriptions <- censusDesc }

func (c *census) Collect(metrics chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), censusTimeout)
	defer cancel()
	var list tenancyv1alpha1.VirtualClusterList
	if err := c.clusters.List(ctx, &list); err != nil {
		metrics <- prometheus.NewInvalidMetric(censusDesc, err)
		return
	}
	counts := map[metav1.ConditionStatus]int{metav1.ConditionTrue: 0, metav1.ConditionFalse: 0, metav1.ConditionUnknown: 0}
	for _, vc := range list.Items {
		status := metav1.ConditionUnknown
		if ready := meta.FindStatusCondition(vc.Status.Conditions, tenancyv1alpha1.ConditionReady); ready != nil {
			status = ready.Status
		}
		counts[status]++
	}
	for status, count := range counts {
		metrics <- prometheus.MustNewConstMetric(censusDesc, prometheus.GaugeValue, float64(count), string(status))
	}
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
