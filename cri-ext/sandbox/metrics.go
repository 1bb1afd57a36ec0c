package sandbox

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/apimachinery/pkg/types"

	"github.com/bulkhead-dev/bulkhead/cri-ext/channel"
)

// Metrics are a registry's, for a Prometheus registry. Their labels have few values:
// no sandbox is one, and of tenants only the largest are named.
type Metrics struct {
	registry    *Registry
	waits       *prometheus.HistogramVec
	inject      *prometheus.HistogramVec
	program     *prometheus.HistogramVec
	programming prometheus.Histogram
	reconnects  prometheus.Counter
	repairs     prometheus.Counter
	mismatches  prometheus.Counter
}

// tenantsNamed is how many tenants have series of their own; the others share one.
const tenantsNamed = 100

// Buckets of times in seconds: of what a kernel does, and of what a person waits for.
var (
	short = []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 10}
	long  = []float64{.001, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60}
)

func newMetrics(r *Registry) *Metrics {
	return &Metrics{
		registry: r,
		waits: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "bulkhead_cri_ext_gate_wait_seconds", Help: "Time that StartContainer waited for rules, by result: passed, timeout, refused, canceled, error.", Buckets: long,
		}, []string{"result"}),
		inject: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "bulkhead_cri_ext_inject_seconds", Help: "Time to bring rules into a sandbox, by phase: dial, snapshot, delta, and total from the sandbox's birth to its first acknowledgement.", Buckets: short,
		}, []string{"phase"}),
		program: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "bulkhead_cri_ext_program_seconds", Help: "Time that a sandbox's kernel took for rules, by its own clock, by backend (IPv4's) and op: full or delta.", Buckets: short,
		}, []string{"backend", "op"}),
		programming: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "bulkhead_cri_ext_network_programming_seconds", Help: "Time from a change in a tenant's cluster to its acknowledgement by one sandbox.", Buckets: long,
		}),
		reconnects: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "bulkhead_cri_ext_guest_reconnects_total", Help: "How often a sandbox had to be greeted again.",
		}),
		repairs: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "bulkhead_cri_ext_drift_repairs_total", Help: "Services that a sandbox's kernel did not hold as it should.",
		}),
		mismatches: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "bulkhead_cri_ext_tenant_mismatch_total", Help: "Sandboxes about whose tenant records contradicted each other. Anything but 0 is a defect.",
		}),
	}
}

func (m *Metrics) own() []prometheus.Collector {
	return []prometheus.Collector{m.waits, m.inject, m.program, m.programming, m.reconnects, m.repairs, m.mismatches}
}

// What is read when it is asked for.
var (
	sandboxesDesc = describe(prometheus.Opts{Name: "bulkhead_cri_ext_sandboxes", Help: "Tenants' sandboxes by state."}, "state")
	lagDesc       = describe(prometheus.Opts{Name: "bulkhead_cri_ext_sandbox_generation_lag", Help: "Generations that the sandbox which is most behind is behind."})
	backendDesc   = describe(prometheus.Opts{Name: "bulkhead_cri_ext_backend_info", Help: "Sandboxes by IP family and what carries their rules."}, "family", "backend")
	rulesDesc     = describe(prometheus.Opts{Name: "bulkhead_cri_ext_rules", Help: "Rules of a tenant on this node, by kind: services, endpoints. Tenants beyond the 100 with the most rules share the name other."}, "tenant", "kind")
	feedDesc      = describe(prometheus.Opts{Name: "bulkhead_cri_ext_feed_connected", Help: "Whether tenant-proxy is connected."})
)

// Describe implements prometheus.Collector.
func (m *Metrics) Describe(to chan<- *prometheus.Desc) {
	for _, collector := range m.own() {
		collector.Describe(to)
	}
	for _, desc := range []*prometheus.Desc{sandboxesDesc, lagDesc, backendDesc, rulesDesc, feedDesc} {
		to <- desc
	}
}

// Collect implements prometheus.Collector.
func (m *Metrics) Collect(to chan<- prometheus.Metric) {
	for _, collector := range m.own() {
		collector.Collect(to)
	}
	states, lag := map[State]int{}, uint64(0)
	for _, state := range []State{Unbound, Waiting, Injecting, Current, Failing, Exempt, Refused, Stopped} {
		states[state] = 0
	}
	backends := map[channel.Backend]int{}
	for _, view := range m.registry.List() {
		states[view.State]++
		if view.State != Exempt && view.Wanted > view.Generation {
			lag = max(lag, view.Wanted-view.Generation)
		}
		for _, backend := range view.Backends {
			backends[channel.Backend{Family: family(backend.Family), Engine: name(backend.Engine)}]++
		}
	}
	gauge := func(desc *prometheus.Desc, value float64, labels ...string) {
		to <- prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, value, labels...)
	}
	for state, n := range states {
		gauge(sandboxesDesc, float64(n), string(state))
	}
	for backend, n := range backends {
		gauge(backendDesc, float64(n), backend.Family, backend.Engine)
	}
	gauge(lagDesc, float64(lag))
	connected, _, _, tenants := m.registry.records.state()
	gauge(feedDesc, map[bool]float64{true: 1}[connected])
	type size struct {
		tenant              types.UID
		services, endpoints int
	}
	var sizes []size
	for tenant, set := range tenants {
		if set != nil {
			sizes = append(sizes, size{tenant, len(set.Services()), set.Backends()})
		}
	}
	slices.SortFunc(sizes, func(a, b size) int {
		return cmp.Or(cmp.Compare(b.services, a.services), cmp.Compare(a.tenant, b.tenant))
	})
	var other size
	for i, s := range sizes {
		if i < tenantsNamed {
			gauge(rulesDesc, float64(s.services), string(s.tenant), "services")
			gauge(rulesDesc, float64(s.endpoints), string(s.tenant), "endpoints")
			continue
		}
		other.services += s.services
		other.endpoints += s.endpoints
	}
	if len(sizes) > tenantsNamed {
		gauge(rulesDesc, float64(other.services), "other", "services")
		gauge(rulesDesc, float64(other.endpoints), "other", "endpoints")
	}
}

func (m *Metrics) gate(result string, waited time.Duration) {
	m.waits.WithLabelValues(result).Observe(waited.Seconds())
}

func (m *Metrics) sent(ack channel.Ack, backends []channel.Backend, took time.Duration) {
	phase, op := "snapshot", "full"
	if ack.Delta {
		phase, op = "delta", "delta"
	}
	engine := "none"
	if len(backends) > 0 {
		engine = name(backends[0].Engine)
	}
	m.inject.WithLabelValues(phase).Observe(took.Seconds())
	// A guest's clock may say anything.
	m.program.WithLabelValues(engine, op).Observe(min(max(ack.Programming, 0), took).Seconds())
}

// name is an engine's name, one of those we know: a guest may say anything.
func name(engine string) string {
	switch engine {
	case "ipvs", "nftables", "iptables":
		return engine
	case "":
		return "none"
	}
	return "other"
}

func family(said string) string {
	if said == "IPv4" || said == "IPv6" {
		return said
	}
	return "other"
}

// engines say what carries which family.
func engines(backends []channel.Backend) string {
	var all []string
	for _, backend := range backends {
		all = append(all, name(backend.Engine)+" ("+family(backend.Family)+")")
	}
	if len(all) == 0 {
		return "nothing that it tells of"
	}
	return strings.Join(all, ", ")
}

func describe(o prometheus.Opts, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc(o.Name, o.Help, labels, nil)
}
