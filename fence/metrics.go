package main

import (
	"github.com/prometheus/client_golang/prometheus"
)

// agentMetrics have no labels but those from fixed sets.
type agentMetrics struct {
	apply    prometheus.Histogram
	changes  prometheus.Counter
	failures prometheus.Counter
	drifts   prometheus.Counter
	cut      prometheus.Counter
}

func newMetrics() *agentMetrics {
	return &agentMetrics{
		apply: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "bulkhead_fence_apply_seconds", Help: "Time to put a change into the kernel.",
			Buckets: []float64{.001, .003, .01, .03, .1, .3, 1, 3, 10},
		}),
		changes: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "bulkhead_fence_changes_total", Help: "Elements, sets and chains that were changed in the kernel.",
		}),
		failures: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "bulkhead_fence_apply_failures_total", Help: "Times the kernel did not take a change.",
		}),
		drifts: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "bulkhead_fence_repairs_total", Help: "Times the kernel's rules were not what was put there, and were put there again.",
		}),
		cut: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "bulkhead_fence_connections_cut_total", Help: "Open connections that a change of policies ended.",
		}),
	}
}

func (m *agentMetrics) collectors(a *agent) []prometheus.Collector {
	return []prometheus.Collector{
		m.apply, m.changes, m.failures, m.drifts, m.cut,
		a.gauge(prometheus.GaugeOpts{Name: "bulkhead_fence_pods", Help: "Pods of this node that are fenced."}, func() int { return a.model.LocalPods() }),
		a.gauge(prometheus.GaugeOpts{Name: "bulkhead_fence_policies", Help: "NetworkPolicies that select a pod of this node."}, func() int { return a.model.Policies() }),
		&droppedCollector{agent: a, description: prometheus.NewDesc(
			droppedOpts.Name, droppedOpts.Help, []string{"reason"}, nil,
		)},
	}
}

var droppedOpts = prometheus.CounterOpts{
	Name: "bulkhead_fence_dropped_packets_total", Help: "Packets that were dropped, by reason: egress, ingress, spoofed or unknown.",
}

func (a *agent) gauge(o prometheus.GaugeOpts, count func() int) prometheus.Collector {
	return prometheus.NewGaugeFunc(o, func() float64 {
		a.mu.Lock()
		defer a.mu.Unlock()
		return float64(count())
	})
}

// droppedCollector reads the kernel's own counters.
type droppedCollector struct {
	agent       *agent
	description *prometheus.Desc
}

// Describe implements prometheus.Collector.
func (c *droppedCollector) Describe(to chan<- *prometheus.Desc) { to <- c.description }

// Collect implements prometheus.Collector.
func (c *droppedCollector) Collect(to chan<- prometheus.Metric) {
	dropped, err := c.agent.kernel.Dropped()
	if err != nil {
		to <- prometheus.NewInvalidMetric(c.description, err)
		return
	}
	for reason, count := range dropped {
		to <- prometheus.MustNewConstMetric(c.description, prometheus.CounterValue, float64(count), reason)
	}
}
