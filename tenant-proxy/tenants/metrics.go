package tenants

import (
	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/apimachinery/pkg/types"
)

// Metrics have labels from fixed sets, and the tenant, whose series go when it leaves
// the node; never a namespace or a name of the tenant's.
type Metrics struct {
	compile   prometheus.Histogram
	up        *prometheus.GaugeVec
	services  *prometheus.GaugeVec
	endpoints *prometheus.GaugeVec
	troubled  *prometheus.GaugeVec
	failures  *prometheus.CounterVec
	reports   *prometheus.CounterVec
}

// NewMetrics makes the metrics.
func NewMetrics() *Metrics {
	tenant := []string{"tenant"}
	return &Metrics{
		compile: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "bulkhead_tenant_proxy_compile_seconds", Help: "Time from a change being taken up to the rules being handed on.",
			Buckets: prometheus.ExponentialBuckets(.00005, 3, 9),
		}),
		up: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "bulkhead_tenant_proxy_tenant_up", Help: "Whether a tenant's cluster can be watched, 1 or 0.",
		}, tenant),
		services: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "bulkhead_tenant_proxy_rules", Help: "Rules of a tenant on this node: pairs of address and port.",
		}, tenant),
		endpoints: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "bulkhead_tenant_proxy_endpoints", Help: "Endpoints of all rules of a tenant together.",
		}, tenant),
		troubled: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "bulkhead_tenant_proxy_troubled_services", Help: "Services of a tenant that did not become rules as a whole.",
		}, tenant),
		failures: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "bulkhead_tenant_proxy_failures_total", Help: "Failures with one tenant, by what failed: credentials, a kind that is watched, rules.",
		}, []string{"tenant", "what"}),
		reports: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "bulkhead_tenant_proxy_service_events_total", Help: "Events for tenants' Services, by result.",
		}, []string{"result"}),
	}
}

// Collectors are the metrics, for a registry.
func (t *Tenants) Collectors() []prometheus.Collector {
	m := t.Metrics
	return []prometheus.Collector{
		m.compile, m.up, m.services, m.endpoints, m.troubled, m.failures, m.reports,
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "bulkhead_tenant_proxy_tenants", Help: "Tenants that are watched because they have pods on this node.",
		}, func() float64 { return float64(t.Len()) }),
	}
}

func (m *Metrics) forget(tenant types.UID) {
	labels := prometheus.Labels{"tenant": string(tenant)}
	for _, gauge := range []*prometheus.GaugeVec{m.up, m.services, m.endpoints, m.troubled} {
		gauge.DeletePartialMatch(labels)
	}
	m.failures.DeletePartialMatch(labels)
}
