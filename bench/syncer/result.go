package main

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
)

// result is what is written as JSON.
type result struct {
	Tenants int     `json:"tenants"`
	Pods    int     `json:"pods"`
	Nodes   int     `json:"nodes"`
	Machine machine `json:"machine"`
	// Scheduler is kube-scheduler's limit of requests a second.
	SchedulerQPS int `json:"scheduler_qps"`

	contest
	// Saturated is the same with a scheduler at no limit.
	Saturated contest `json:"saturated"`
	Added     struct {
		P50 float64 `json:"p50"`
		P99 float64 `json:"p99"`
	} `json:"light_load_added_ms"`
	Light  pair   `json:"light_load_ms"`
	Phases phases `json:"phases_ms"`
	Syncer struct {
		RSS         float64 `json:"rss_mb"`
		Anonymous   float64 `json:"rss_anonymous_mb"`
		CPU         float64 `json:"cpu_s"`
		CPUPer10000 float64 `json:"cpu_s_per_10000_pods"`
		IdleCPU     float64 `json:"idle_cpu_s_per_s"`
	} `json:"syncer"`
	Writes     map[string]float64 `json:"syncer_writes_per_pod"`
	Handlings  map[string]float64 `json:"syncer_handlings_per_pod"`
	Patrol     patrolled          `json:"patrol"`
	Restart    float64            `json:"restart_s"`
	RestartCPU float64            `json:"restart_cpu_s"`
	Fairness   fairness           `json:"fairness_ms"`
}

// contest is the same load both ways.
type contest struct {
	Ratio      float64 `json:"throughput_ratio"`
	Throughput struct {
		Baseline float64 `json:"baseline"`
		Tenant   float64 `json:"tenant"`
	} `json:"throughput_per_s"`
	Latency pair `json:"latency_ms"`
	// CPU is processor time in seconds by way and program, of all its processes.
	CPU map[string]map[string]float64 `json:"cpu_s_by_program"`
}

// patrolled is what comparing everything takes: objects in a round of all tenants,
// milliseconds for a round of one tenant, processor time for an object in microseconds.
type patrolled struct {
	Objects   float64 `json:"objects"`
	Round     float64 `json:"round_ms"`
	PerObject float64 `json:"cpu_us_per_object"`
	Repairs   float64 `json:"repairs"`
}

// pair is a distribution of the same through both ways.
type pair struct {
	Baseline quantiles `json:"baseline"`
	Tenant   quantiles `json:"tenant"`
}

// phases of the way of a pod through a tenant, in milliseconds, in the mean: to post it;
// until it was seen in the super cluster, bound there, Ready there, and Ready in the tenant's
// cluster. Wait and Handling are the syncer's own metrics, for each key: a pod's has several.
type phases struct {
	Post     float64 `json:"post"`
	Down     float64 `json:"down"`
	Sched    float64 `json:"super_sched"`
	Run      float64 `json:"super_run"`
	Up       float64 `json:"up"`
	Wait     float64 `json:"queue_wait_per_key"`
	Handling float64 `json:"handling_per_key"`
}

type fairness struct {
	AloneP99   float64 `json:"alone_p99"`
	BesideP99  float64 `json:"beside_greedy_p99"`
	AloneP50   float64 `json:"alone_p50"`
	BesideP50  float64 `json:"beside_greedy_p50"`
	GreedyP50  float64 `json:"greedy_p50"`
	Greedy     int     `json:"greedy_tenants"`
	GreedyPods int     `json:"greedy_pods_each"`
	Regular    int     `json:"regular_tenants"`
	// Left is how many pods of the greedy were not Ready when the regular had ended.
	Left int `json:"greedy_pods_left"`
}

type machine struct {
	Cores  int     `json:"cores"`
	Memory float64 `json:"memory_gb"`
	CPU    string  `json:"cpu"`
	Kernel string  `json:"kernel"`
	Load   string  `json:"load_average_at_start"`
}

func newResult(s size) *result {
	return &result{Tenants: s.tenants, Pods: s.pods / s.tenants * s.tenants, Nodes: s.nodes, SchedulerQPS: s.schedulerQPS, Machine: thisMachine()}
}

// thisMachine describes it; what cannot be read is left out.
func thisMachine() machine {
	m := machine{Cores: runtime.NumCPU(), CPU: field("/proc/cpuinfo", "model name"), Kernel: strings.TrimSpace(content("/proc/sys/kernel/osrelease"))}
	var kilobytes float64
	if _, err := fmt.Sscanf(field("/proc/meminfo", "MemTotal"), "%f kB", &kilobytes); err == nil {
		m.Memory = rounded(kilobytes * 1024 / 1e9)
	}
	m.Load, _, _ = strings.Cut(content("/proc/loadavg"), " ")
	return m
}

func content(path string) string {
	data, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	return string(data)
}

// field is what a file of the kind "name: value" says of a name, first.
func field(path, name string) string {
	for line := range strings.Lines(content(path)) {
		if key, value, found := strings.Cut(line, ":"); found && strings.TrimSpace(key) == name {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

// print writes the table.
func (r *result) print(to io.Writer) {
	line := func(format string, args ...any) { fmt.Fprintf(to, format+"\n", args...) }
	line("\n%d cores (%s), %.0f GB, Linux %s, load average %s at the start", r.Machine.Cores, r.Machine.CPU, r.Machine.Memory, r.Machine.Kernel, r.Machine.Load)
	line("%d tenants, an etcd and a kube-apiserver each, real; %d pods; %d nodes that KWOK plays; kube-scheduler at %d requests/s\n", r.Tenants, r.Pods, r.Nodes, r.SchedulerQPS)
	line("%-44s %12s %12s", "", "baseline", "tenants")
	for _, one := range []struct {
		name string
		contest
	}{{"all at once", r.contest}, {"scheduler unlimited", r.Saturated}} {
		line("%-44s %10.1f/s %10.1f/s   x %.3f", one.name+", pods Ready", one.Throughput.Baseline, one.Throughput.Tenant, one.Ratio)
		printPair(line, one.name, one.Latency)
	}
	printPair(line, "one at a time", r.Light)
	p := r.Phases
	line("\nmeans by phase: post %.0f ms, down %.0f ms, super scheduler %.0f ms, node %.0f ms, up %.0f ms", p.Post, p.Down, p.Sched, p.Run, p.Up)
	line("for each key: %.1f ms in the syncer's queue, %.1f ms handled", p.Wait, p.Handling)
	line("syncer: at most %.0f MB resident (%.0f MB without files), %.1f CPU-s (%.1f per 10,000 pods), idle %.3f CPU-s/s", r.Syncer.RSS, r.Syncer.Anonymous, r.Syncer.CPU, r.Syncer.CPUPer10000, r.Syncer.IdleCPU)
	for _, of := range []struct {
		name string
		from map[string]float64
	}{{"writes", r.Writes}, {"handlings", r.Handlings}} {
		for _, labels := range slices.Sorted(maps.Keys(of.from)) {
			line("  %s per pod %-60s %.2f", of.name, labels, of.from[labels])
		}
	}
	for _, name := range slices.Sorted(maps.Keys(r.CPU["tenant"])) {
		line("  CPU-s of %-33s %8.1f     %8.1f     scheduler unlimited %8.1f %8.1f", name, r.CPU["baseline"][name], r.CPU["tenant"][name], r.Saturated.CPU["baseline"][name], r.Saturated.CPU["tenant"][name])
	}
	line("patrol: %.0f objects in a round of all tenants, %.0f ms for one tenant's, %.0f CPU-µs each, %.0f repairs", r.Patrol.Objects, r.Patrol.Round, r.Patrol.PerObject, r.Patrol.Repairs)
	line("restart: %.2f s until a new pod of every tenant is Ready, %.1f CPU-s", r.Restart, r.RestartCPU)
	f := r.Fairness
	line("fairness: %d regular tenants p99 %.0f ms alone, %.0f ms beside %d greedy (x %.2f); p50 %.0f and %.0f ms; greedy p50 %.0f ms, %d of their pods left",
		f.Regular, f.AloneP99, f.BesideP99, f.Greedy, f.BesideP99/f.AloneP99, f.AloneP50, f.BesideP50, f.GreedyP50, f.Left)
}

func printPair(line func(string, ...any), name string, both pair) {
	for _, row := range []struct {
		name             string
		baseline, tenant float64
	}{{"p50", both.Baseline.P50, both.Tenant.P50}, {"p95", both.Baseline.P95, both.Tenant.P95}, {"p99", both.Baseline.P99, both.Tenant.P99}} {
		line("%-44s %9.0f ms %9.0f ms   %+.0f ms, x %.2f", name+", latency "+row.name, row.baseline, row.tenant, row.tenant-row.baseline, row.tenant/row.baseline)
	}
}

func (r *result) write(out string) error {
	data, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return fmt.Errorf("encoding the figures: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(out), 0o755); err != nil {
		return fmt.Errorf("writing the figures: %w", err)
	}
	if err := os.WriteFile(out, append(data, '\n'), 0o644); err != nil {
		return fmt.Errorf("writing the figures: %w", err)
	}
	return nil
}
