package usage

import (
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	statsv1alpha1 "k8s.io/kubelet/pkg/apis/stats/v1alpha1"

	"github.com/bulkhead-dev/bulkhead/vn-agent/pods"
)

// Summary is the tenant's view of a kubelet's /stats/summary.
//
// The node carries its name, start time, CPU and memory; the latter two are sums
// over the tenant's pods. It has no file system, network, process or pressure
// figures: those of the real node tell of others, and there are no others.
func Summary(kubelet *statsv1alpha1.Summary, tenant Pods, counter *Counter) *statsv1alpha1.Summary {
	summary := &statsv1alpha1.Summary{
		Node: statsv1alpha1.NodeStats{NodeName: kubelet.Node.NodeName, StartTime: kubelet.Node.StartTime},
		Pods: []statsv1alpha1.PodStats{},
	}
	for i := range kubelet.Pods {
		of := &kubelet.Pods[i]
		// By UID too: of two pods of one name, one after the other, the kubelet may
		// still tell about the first.
		pod, ok := tenant.find(of.PodRef.Namespace, of.PodRef.Name)
		if ok && of.PodRef.UID == string(pod.SuperUID) {
			summary.Pods = append(summary.Pods, podStats(of, pod))
		}
	}
	sumNode(&summary.Node, kubelet, summary.Pods, tenant, counter)
	return summary
}

func podStats(of *statsv1alpha1.PodStats, pod pods.Pod) statsv1alpha1.PodStats {
	stats := statsv1alpha1.PodStats{
		PodRef:       statsv1alpha1.PodReference{Namespace: pod.Namespace, Name: pod.Name, UID: string(pod.UID)},
		StartTime:    of.StartTime,
		Containers:   []statsv1alpha1.ContainerStats{},
		CPU:          of.CPU,
		Memory:       of.Memory,
		IO:           of.IO,
		Network:      of.Network,
		ProcessStats: of.ProcessStats,
		Swap:         swapUsage(of.Swap),
		// Sizes of the node's disk are everybody's; what the pod takes of it is its own.
		EphemeralStorage: diskUsage(of.EphemeralStorage),
	}
	for _, container := range of.Containers {
		stats.Containers = append(stats.Containers, statsv1alpha1.ContainerStats{
			Name:      container.Name,
			StartTime: container.StartTime,
			CPU:       container.CPU,
			Memory:    container.Memory,
			IO:        container.IO,
			Rootfs:    diskUsage(container.Rootfs),
			Logs:      diskUsage(container.Logs),
			Swap:      swapUsage(container.Swap),
		})
	}
	for _, volume := range of.VolumeStats {
		stats.VolumeStats = append(stats.VolumeStats, volumeStats(volume, pod))
	}
	return stats
}

// volumeStats keeps all figures of a claim's volume, which is the tenant's own;
// any other volume lies on the node's disk.
func volumeStats(of statsv1alpha1.VolumeStats, pod pods.Pod) statsv1alpha1.VolumeStats {
	if of.PVCRef == nil || of.PVCRef.Namespace != pod.Super.Namespace {
		return statsv1alpha1.VolumeStats{Name: of.Name, FsStats: *diskUsage(&of.FsStats)}
	}
	return statsv1alpha1.VolumeStats{
		Name:              of.Name,
		FsStats:           of.FsStats,
		PVCRef:            &statsv1alpha1.PVCReference{Namespace: pod.Namespace, Name: of.PVCRef.Name},
		VolumeHealthStats: of.VolumeHealthStats,
	}
}

func diskUsage(of *statsv1alpha1.FsStats) *statsv1alpha1.FsStats {
	if of == nil {
		return nil
	}
	return &statsv1alpha1.FsStats{Time: of.Time, UsedBytes: of.UsedBytes, InodesUsed: of.InodesUsed}
}

func swapUsage(of *statsv1alpha1.SwapStats) *statsv1alpha1.SwapStats {
	if of == nil {
		return nil
	}
	return &statsv1alpha1.SwapStats{Time: of.Time, SwapUsageBytes: of.SwapUsageBytes}
}

// sumNode fills the node's figures in with the sums over the tenant's pods.
func sumNode(node *statsv1alpha1.NodeStats, kubelet *statsv1alpha1.Summary, own []statsv1alpha1.PodStats, tenant Pods, counter *Counter) {
	cpu := statsv1alpha1.CPUStats{UsageNanoCores: new(uint64)}
	memory := statsv1alpha1.MemoryStats{UsageBytes: new(uint64), WorkingSetBytes: new(uint64), RSSBytes: new(uint64)}
	if kubelet.Node.CPU != nil {
		cpu.Time = kubelet.Node.CPU.Time
	}
	if kubelet.Node.Memory != nil {
		memory.Time = kubelet.Node.Memory.Time
	}
	var samples []Sample
	for _, pod := range kubelet.Pods {
		of, ok := tenant.find(pod.PodRef.Namespace, pod.PodRef.Name)
		if ok && pod.PodRef.UID == string(of.SuperUID) && pod.CPU != nil && pod.CPU.UsageCoreNanoSeconds != nil {
			samples = append(samples, Sample{Pod: of.SuperUID, CPU: *pod.CPU.UsageCoreNanoSeconds, Time: pod.CPU.Time.Time})
		}
	}
	for _, pod := range own {
		if pod.CPU != nil {
			add(cpu.UsageNanoCores, pod.CPU.UsageNanoCores)
		}
		if pod.Memory != nil {
			add(memory.UsageBytes, pod.Memory.UsageBytes)
			add(memory.WorkingSetBytes, pod.Memory.WorkingSetBytes)
			add(memory.RSSBytes, pod.Memory.RSSBytes)
		}
	}
	total, at := counter.Observe(samples, tenant.exists)
	cpu.UsageCoreNanoSeconds = &total
	cpu.Time = later(cpu.Time, at, len(samples) > 0)
	node.CPU, node.Memory = &cpu, &memory
}

// later is the time of a sum: that of its newest sample, or the node's own where
// there was none to sum.
func later(nodeTime metav1.Time, newest time.Time, sampled bool) metav1.Time {
	if sampled {
		return metav1.NewTime(newest)
	}
	return nodeTime
}

func add(sum, value *uint64) {
	if value != nil {
		*sum += *value
	}
}
