package usage

import (
	"cmp"
	"fmt"
	"io"
	"math"
	"slices"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"k8s.io/apimachinery/pkg/types"

	"github.com/bulkhead-dev/bulkhead/vn-agent/pods"
)

// Metric families of a kubelet's /metrics/resource (KEP-2371's stable set and what
// v1.36 serves besides; pkg/kubelet/metrics/collectors).
const (
	nodeCPU    = "node_cpu_usage_seconds_total"
	nodeMemory = "node_memory_working_set_bytes"
	podCPU     = "pod_cpu_usage_seconds_total"
	podMemory  = "pod_memory_working_set_bytes"
)

// Those that pass with nothing changed but the names of namespace and pod, and
// the labels each series must have, no more and no fewer. container_swap_limit_bytes
// is left out: where a container has no limit it tells how much the node has left.
var perPod = map[string][]string{
	"container_cpu_usage_seconds_total":  {"container", "namespace", "pod"},
	"container_memory_working_set_bytes": {"container", "namespace", "pod"},
	"container_start_time_seconds":       {"container", "namespace", "pod"},
	"container_swap_usage_bytes":         {"container", "namespace", "pod"},
	podCPU:                               {"namespace", "pod"},
	podMemory:                            {"namespace", "pod"},
	"pod_swap_usage_bytes":               {"namespace", "pod"},
}

// Bounds of what is summed: CPU seconds whose nanoseconds fit a counter even when
// a node's pods are added up, and more bytes than any machine has.
const (
	maxSeconds = 1e9
	maxBytes   = 1 << 60
)

// Those that say whether the kubelet could read its figures; without labels.
var asIs = []string{"resource_scrape_error", "scrape_error"}

// ResourceFormat is the format that Resource reads and writes.
const ResourceFormat = "text/plain; version=0.0.4; charset=utf-8"

// Resource writes the tenant's view of a kubelet's /metrics/resource, both in
// Prometheus' text format 0.0.4. node_* families are sums over the tenant's pods.
func Resource(to io.Writer, from io.Reader, tenant Pods, counter *Counter) error {
	families, err := parse(from)
	if err != nil {
		return fmt.Errorf("parsing the kubelet's resource metrics: %w", err)
	}
	var kept []*dto.MetricFamily
	for name, labels := range perPod {
		if family := ownSeries(families[name], labels, tenant); family != nil {
			kept = append(kept, family)
		}
	}
	for _, name := range asIs {
		if family := unlabelled(families[name]); family != nil {
			kept = append(kept, family)
		}
	}
	kept = append(kept, nodeFamilies(families, tenant, counter)...)
	slices.SortFunc(kept, func(a, b *dto.MetricFamily) int { return cmp.Compare(a.GetName(), b.GetName()) })
	for _, family := range kept {
		if _, err := expfmt.MetricFamilyToText(to, family); err != nil {
			return fmt.Errorf("writing metric %s: %w", family.GetName(), err)
		}
	}
	return nil
}

// parse reads the text format. The parser of prometheus/common v0.67.5 panics on
// some malformed input (a series of braces alone after a comment, found by
// FuzzResource), which is an error here like any other.
func parse(from io.Reader) (families map[string]*dto.MetricFamily, err error) {
	defer func() {
		if problem := recover(); problem != nil {
			families, err = nil, fmt.Errorf("malformed text: %v", problem)
		}
	}()
	parser := expfmt.NewTextParser(model.UTF8Validation)
	return parser.TextToMetricFamilies(from)
}

// ownSeries keeps the tenant's series of a family, under the tenant's names.
func ownSeries(family *dto.MetricFamily, labels []string, tenant Pods) *dto.MetricFamily {
	if !simple(family) {
		return nil
	}
	own := &dto.MetricFamily{Name: family.Name, Help: family.Help, Type: family.Type}
	for _, metric := range family.Metric {
		values, ok := labelValues(metric, labels)
		if !ok {
			continue
		}
		pod, ok := tenant.find(values["namespace"], values["pod"])
		if !ok {
			continue
		}
		values["namespace"], values["pod"] = pod.Namespace, pod.Name
		renamed := &dto.Metric{Counter: metric.Counter, Gauge: metric.Gauge, TimestampMs: metric.TimestampMs}
		for _, label := range labels {
			value := values[label]
			renamed.Label = append(renamed.Label, &dto.LabelPair{Name: &label, Value: &value})
		}
		own.Metric = append(own.Metric, renamed)
	}
	if len(own.Metric) == 0 {
		return nil
	}
	return own
}

func unlabelled(family *dto.MetricFamily) *dto.MetricFamily {
	if !simple(family) || len(family.Metric) != 1 || len(family.Metric[0].Label) > 0 {
		return nil
	}
	return family
}

// simple tells whether the family is a counter or gauge, as all those known are.
func simple(family *dto.MetricFamily) bool {
	return family != nil && (family.GetType() == dto.MetricType_COUNTER || family.GetType() == dto.MetricType_GAUGE)
}

// labelValues returns the metric's labels if they are exactly those named.
func labelValues(metric *dto.Metric, names []string) (map[string]string, bool) {
	if len(metric.Label) != len(names) {
		return nil, false
	}
	values := make(map[string]string, len(names))
	for _, label := range metric.Label {
		if !slices.Contains(names, label.GetName()) {
			return nil, false
		}
		values[label.GetName()] = label.GetValue()
	}
	return values, len(values) == len(names)
}

// nodeFamilies are the node's figures: sums over the tenant's pods.
func nodeFamilies(families map[string]*dto.MetricFamily, tenant Pods, counter *Counter) []*dto.MetricFamily {
	var samples []Sample
	eachPod(families[podCPU], maxSeconds, tenant, func(pod pods.Pod, value float64, at time.Time) {
		samples = append(samples, Sample{Pod: pod.SuperUID, CPU: uint64(math.Round(value * 1e9)), Time: at})
	})
	total, cpuTime := counter.Observe(samples, tenant.exists)
	if len(samples) == 0 {
		cpuTime = timeOf(families[nodeCPU])
	}
	var memory float64
	var memoryTime time.Time
	eachPod(families[podMemory], maxBytes, tenant, func(_ pods.Pod, value float64, at time.Time) {
		memory += value
		if at.After(memoryTime) {
			memoryTime = at
		}
	})
	if memoryTime.IsZero() {
		memoryTime = timeOf(families[nodeMemory])
	}
	cpuSeconds := float64(total) / 1e9
	return []*dto.MetricFamily{
		sum(nodeCPU, "Cumulative cpu time consumed by this cluster's pods on the node in core-seconds", dto.MetricType_COUNTER,
			&dto.Metric{Counter: &dto.Counter{Value: &cpuSeconds}}, cpuTime),
		sum(nodeMemory, "Current working set of this cluster's pods on the node in bytes", dto.MetricType_GAUGE,
			&dto.Metric{Gauge: &dto.Gauge{Value: &memory}}, memoryTime),
	}
}

func sum(name, help string, kind dto.MetricType, metric *dto.Metric, at time.Time) *dto.MetricFamily {
	if !at.IsZero() {
		milliseconds := at.UnixMilli()
		metric.TimestampMs = &milliseconds
	}
	return &dto.MetricFamily{Name: &name, Help: &help, Type: &kind, Metric: []*dto.Metric{metric}}
}

// eachPod calls for each of the tenant's pods in a pod_* family, once for each,
// leaving out values that no kubelet means: below zero, not a number, over limit.
func eachPod(family *dto.MetricFamily, limit float64, tenant Pods, call func(pod pods.Pod, value float64, at time.Time)) {
	if !simple(family) {
		return
	}
	seen := map[types.UID]bool{}
	for _, metric := range family.Metric {
		values, ok := labelValues(metric, perPod[podCPU])
		if !ok {
			continue
		}
		pod, ok := tenant.find(values["namespace"], values["pod"])
		value := metric.GetCounter().GetValue() + metric.GetGauge().GetValue() // one of them is set
		if !ok || seen[pod.SuperUID] || !(value >= 0 && value <= limit) {
			continue
		}
		seen[pod.SuperUID] = true
		call(pod, value, time.UnixMilli(metric.GetTimestampMs()))
	}
}

func timeOf(family *dto.MetricFamily) time.Time {
	if !simple(family) || len(family.Metric) != 1 || family.Metric[0].TimestampMs == nil {
		return time.Time{}
	}
	return time.UnixMilli(family.Metric[0].GetTimestampMs())
}
