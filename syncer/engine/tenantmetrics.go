package engine

import "github.com/prometheus/client_golang/prometheus"

// Metrics of single tenants. Each tenant has eight series of them, whatever it does,
// which go with it; all else that is measured is of all tenants together.
var (
	backlog = prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "bulkhead_syncer_backlog",
		Help: "Keys that wait, by tenant and direction.",
	}, []string{"tenant", "direction"})

	tenantState = prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "bulkhead_syncer_tenant_synced",
		Help: "1 while the tenant's caches are filled and its apiserver answers, else 0.",
	}, []string{"tenant"})

	tenantHangs = prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "bulkhead_syncer_tenant_hangs",
		Help: "1 while calls of the tenant's apiserver hang, so that the tenant has one worker, else 0.",
	}, []string{"tenant"})

	tenantHandled = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "bulkhead_syncer_tenant_handled_total",
		Help: "Keys that have been handled, by tenant and direction.",
	}, []string{"tenant", "direction"})

	tenantFailed = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "bulkhead_syncer_tenant_failed_total",
		Help: "Keys whose handling failed and is tried again, by tenant and direction.",
	}, []string{"tenant", "direction"})
)

// tenantMetrics are the series of one tenant.
type tenantMetrics struct {
	tenant                                string
	synced, hangs, waitingDown, waitingUp prometheus.Gauge
	handled, failed                       map[bool]prometheus.Counter // by whether they go up
}

func newTenantMetrics(tenant string) *tenantMetrics {
	return &tenantMetrics{
		tenant: tenant,
		synced: tenantState.WithLabelValues(tenant), hangs: tenantHangs.WithLabelValues(tenant),
		waitingDown: backlog.WithLabelValues(tenant, "down"), waitingUp: backlog.WithLabelValues(tenant, "up"),
		handled: map[bool]prometheus.Counter{false: tenantHandled.WithLabelValues(tenant, "down"), true: tenantHandled.WithLabelValues(tenant, "up")},
		failed:  map[bool]prometheus.Counter{false: tenantFailed.WithLabelValues(tenant, "down"), true: tenantFailed.WithLabelValues(tenant, "up")},
	}
}

// count counts a handling.
func (m *tenantMetrics) count(upward, failed bool) {
	m.handled[upward].Inc()
	if failed {
		m.failed[upward].Inc()
	}
}

// remove takes the tenant's series away.
func (m *tenantMetrics) remove() {
	of := prometheus.Labels{"tenant": m.tenant}
	for _, vector := range []interface {
		DeletePartialMatch(prometheus.Labels) int
	}{backlog, tenantState, tenantHangs, tenantHandled, tenantFailed} {
		vector.DeletePartialMatch(of)
	}
}

func set(gauge prometheus.Gauge, holds bool) {
	value := 0.0
	if holds {
		value = 1
	}
	gauge.Set(value)
}
