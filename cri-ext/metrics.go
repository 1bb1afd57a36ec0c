package main

import (
	"bytes"
	"fmt"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/common/expfmt"
	"google.golang.org/grpc/codes"

	"github.com/bulkhead-dev/bulkhead/internal/feed"
)

// processPrefix keeps this process's figures apart from those of tenant-proxy, which
// serves them beside its own.
const processPrefix = "bulkhead_cri_ext_"

// otherMethod is the label of methods that are not in the API we know.
const otherMethod = "other"

// proxyMetrics are about calls. Methods are labels, of those in the API we know.
type proxyMetrics struct {
	calls  *prometheus.HistogramVec
	errors *prometheus.CounterVec
	// names are methods by their full names.
	names map[string]string
	// observers are what calls has for each name.
	observers map[string]prometheus.Observer
}

func newProxyMetrics(known ...map[string]bool) *proxyMetrics {
	m := &proxyMetrics{
		calls: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "bulkhead_cri_ext_proxy_rpc_seconds", Help: "Time of calls that passed, the runtime's share included, by method.",
			Buckets: []float64{.0005, .001, .005, .025, .1, .5, 1, 5, 30, 120},
		}, []string{"method"}),
		errors: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "bulkhead_cri_ext_upstream_errors_total", Help: "Calls that the runtime did not answer well, by method and gRPC status.",
		}, []string{"method", "code"}),
		names: map[string]string{}, observers: map[string]prometheus.Observer{},
	}
	m.observers[otherMethod] = m.calls.WithLabelValues(otherMethod)
	for _, methods := range known {
		for full := range methods {
			name := full[strings.LastIndexByte(full, '/')+1:]
			m.names[full], m.observers[name] = name, m.calls.WithLabelValues(name)
		}
	}
	return m
}

func (m *proxyMetrics) observe(method string, code codes.Code, refused bool, took time.Duration) {
	name, known := m.names[method]
	if !known {
		name = otherMethod
	}
	m.observers[name].Observe(took.Seconds())
	if code != codes.OK && !refused {
		m.errors.WithLabelValues(name, code.String()).Inc()
	}
}

// newMetricsRegistry puts all metrics of the process together.
func newMetricsRegistry(server *feed.Server, all ...prometheus.Collector) (*prometheus.Registry, error) {
	registry := prometheus.NewRegistry()
	all = append(all, prometheus.NewCounterFunc(prometheus.CounterOpts{
		Name: "bulkhead_cri_ext_reports_dropped_total", Help: "Reports for Events that no tenant-proxy came to hear.",
	}, func() float64 { return float64(server.Dropped()) }))
	for _, collector := range all {
		if err := registry.Register(collector); err != nil {
			return nil, fmt.Errorf("registering metrics: %w", err)
		}
	}
	process := prometheus.WrapRegistererWithPrefix(processPrefix, registry)
	for _, collector := range []prometheus.Collector{
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), collectors.NewGoCollector(),
	} {
		if err := process.Register(collector); err != nil {
			return nil, fmt.Errorf("registering metrics: %w", err)
		}
	}
	return registry, nil
}

// text are a registry's metrics in Prometheus' text format.
func text(registry *prometheus.Registry) ([]byte, error) {
	families, err := registry.Gather()
	if err != nil {
		return nil, fmt.Errorf("collecting metrics: %w", err)
	}
	var buffer bytes.Buffer
	for _, family := range families {
		if _, err := expfmt.MetricFamilyToText(&buffer, family); err != nil {
			return nil, fmt.Errorf("writing metrics: %w", err)
		}
	}
	return buffer.Bytes(), nil
}
