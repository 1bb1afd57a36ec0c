package usage

import (
	"bytes"
	"encoding/json"
	"flag"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"k8s.io/apimachinery/pkg/types"
	statsv1alpha1 "k8s.io/kubelet/pkg/apis/stats/v1alpha1"

	"github.com/bulkhead-dev/bulkhead/vn-agent/pods"
)

var update = flag.Bool("update", false, "write the golden files anew")

// The tenant's pods in testdata. All figures there that are somebody else's, or
// the whole node's, are made of sevens.
var (
	front = pods.Pod{Namespace: "web", Name: "front", UID: "tenant-front", SuperUID: "super-front",
		Super: types.NamespacedName{Namespace: "vc-demo-web-aaaaaaaaaaaa", Name: "front"}}
	batch = pods.Pod{Namespace: "jobs", Name: "batch", UID: "tenant-batch", SuperUID: "super-batch",
		Super: types.NamespacedName{Namespace: "vc-demo-jobs-cccccccccccc", Name: "batch"}}
)

func TestResource(t *testing.T) {
	var counter Counter
	got := resource(t, read(t, "resource.txt"), NewPods([]pods.Pod{front, batch}), &counter)
	golden(t, "resource.golden.txt", got)
	if bytes.Contains(got, []byte("777")) || bytes.Contains(got, []byte("vc-")) || bytes.Contains(got, []byte("kube-system")) {
		t.Errorf("something that is not the tenant's passed:\n%s", got)
	}
}

func TestSummary(t *testing.T) {
	var kubelet statsv1alpha1.Summary
	if err := json.Unmarshal(read(t, "summary.json"), &kubelet); err != nil {
		t.Fatal(err)
	}
	var counter Counter
	got, err := json.MarshalIndent(Summary(&kubelet, NewPods([]pods.Pod{front, batch}), &counter), "", " ")
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "summary.golden.json", append(got, '\n'))
	if bytes.Contains(got, []byte("777")) || bytes.Contains(got, []byte("vc-")) {
		t.Errorf("something that is not the tenant's passed:\n%s", got)
	}
}

// metrics-server takes a node with all figures at zero for one that failed, and
// leaves it out; what it must never get is a figure of somebody else's.
func TestATenantWithoutPodsSeesAnEmptyNode(t *testing.T) {
	var counter Counter
	got := string(resource(t, read(t, "resource.txt"), NewPods(nil), &counter))
	want := `# HELP node_cpu_usage_seconds_total Cumulative cpu time consumed by this cluster's pods on the node in core-seconds
# TYPE node_cpu_usage_seconds_total counter
node_cpu_usage_seconds_total 0 1700000002000
# HELP node_memory_working_set_bytes Current working set of this cluster's pods on the node in bytes
# TYPE node_memory_working_set_bytes gauge
node_memory_working_set_bytes 0 1700000002000
# HELP resource_scrape_error [STABLE] 1 if there was an error while getting container metrics, 0 otherwise
# TYPE resource_scrape_error gauge
resource_scrape_error 0
# HELP scrape_error [ALPHA] (Deprecated since 1.29.0) 1 if there was an error while getting container metrics, 0 otherwise
# TYPE scrape_error gauge
scrape_error 0
`
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestResourceRefusesWhatIsNoMetrics(t *testing.T) {
	var counter Counter
	if err := Resource(&bytes.Buffer{}, strings.NewReader("<html>"), NewPods(nil), &counter); err == nil {
		t.Error("no error")
	}
}

// Both endpoints read one counter, so that a tool that looks at both sees one figure.
func TestBothEndpointsShareTheCounter(t *testing.T) {
	var counter Counter
	own := NewPods([]pods.Pod{front, batch})
	resource(t, read(t, "resource.txt"), own, &counter)
	var kubelet statsv1alpha1.Summary
	if err := json.Unmarshal(read(t, "summary.json"), &kubelet); err != nil {
		t.Fatal(err)
	}
	if total := *Summary(&kubelet, own, &counter).Node.CPU.UsageCoreNanoSeconds; total != 42750000000 {
		t.Errorf("total %d", total)
	}
}

func TestCounter(t *testing.T) {
	at := func(second int64) time.Time { return time.Unix(1700000000+second, 0) }
	all := func(types.UID) bool { return true }
	without := func(gone types.UID) func(types.UID) bool { return func(uid types.UID) bool { return uid != gone } }
	var counter Counter
	for _, step := range []struct {
		name    string
		samples []Sample
		exists  func(types.UID) bool
		total   uint64
		at      int64
	}{
		{"starts with the sum", []Sample{{"a", 100, at(1)}, {"b", 50, at(1)}}, all, 150, 1},
		{"adds increments", []Sample{{"a", 110, at(2)}, {"b", 55, at(2)}}, all, 165, 2},
		{"keeps what a pod that went has used", []Sample{{"a", 120, at(3)}}, without("b"), 175, 3},
		{"counts a new pod whole", []Sample{{"a", 120, at(4)}, {"c", 7, at(4)}}, all, 182, 4},
		{"takes a lower value for a new start", []Sample{{"a", 5, at(5)}, {"c", 7, at(5)}}, all, 187, 5},
		{"ignores an answer that was overtaken", []Sample{{"a", 4, at(4)}}, all, 187, 5},
		{"waits for a pod that was not sampled", []Sample{{"c", 8, at(6)}}, all, 188, 6},
		{"and goes on from where it was", []Sample{{"a", 6, at(7)}, {"c", 8, at(7)}}, all, 189, 7},
		{"says the same to one who asks twice", []Sample{{"a", 6, at(7)}, {"c", 8, at(7)}}, all, 189, 7},
		{"stays when all are gone", nil, func(types.UID) bool { return false }, 189, 7},
	} {
		total, when := counter.Observe(step.samples, step.exists)
		if total != step.total || !when.Equal(at(step.at)) {
			t.Errorf("%s: %d at %s, not %d at %s", step.name, total, when, step.total, at(step.at))
		}
	}
	if len(counter.last) != 0 {
		t.Errorf("%d pods are still remembered", len(counter.last))
	}
}

// Whatever comes and goes, the counter never goes back, and never ahead of what
// all pods together have used.
func TestCounterProperties(t *testing.T) {
	random := rand.New(rand.NewPCG(3, 4))
	var counter Counter
	used := map[types.UID]uint64{}
	var truth, previous uint64
	next := 0
	for step := range 5000 {
		if random.IntN(4) == 0 {
			used[types.UID(strconv.Itoa(next))] = 0
			next++
		}
		var samples []Sample
		for uid := range used {
			if random.IntN(20) == 0 {
				delete(used, uid)
				continue
			}
			more := random.Uint64N(1000)
			used[uid] += more
			truth += more
			if random.IntN(5) > 0 {
				samples = append(samples, Sample{uid, used[uid], time.Unix(int64(step), 0)})
			}
		}
		total, _ := counter.Observe(samples, func(uid types.UID) bool { _, ok := used[uid]; return ok })
		if total < previous || total > truth {
			t.Fatalf("step %d: %d after %d, and %d were used", step, total, previous, truth)
		}
		previous = total
	}
}

func FuzzResource(f *testing.F) {
	f.Add(read(f, "resource.txt"))
	f.Add([]byte("pod_cpu_usage_seconds_total{namespace=\"vc-demo-web-aaaaaaaaaaaa\",pod=\"front\"} NaN 1\n"))
	f.Add([]byte("pod_cpu_usage_seconds_total{namespace=\"vc-demo-web-aaaaaaaaaaaa\",pod=\"front\"} 1e300 9223372036854775807\n"))
	f.Add([]byte("# TYPE node_cpu_usage_seconds_total histogram\nnode_cpu_usage_seconds_total_bucket{le=\"1\"} 1\n"))
	f.Fuzz(func(t *testing.T, metrics []byte) {
		var counter Counter
		var got bytes.Buffer
		if err := Resource(&got, bytes.NewReader(metrics), NewPods([]pods.Pod{front}), &counter); err != nil {
			return
		}
		parser := expfmt.NewTextParser(model.UTF8Validation)
		families, err := parser.TextToMetricFamilies(&got)
		if err != nil {
			t.Fatalf("what was written cannot be read: %v", err)
		}
		for name, family := range families {
			if _, known := perPod[name]; !known {
				continue
			}
			for _, metric := range family.Metric {
				values, ok := labelValues(metric, perPod[name])
				if !ok || values["namespace"] != "web" || values["pod"] != "front" {
					t.Fatalf("%s has a series %v", name, metric)
				}
			}
		}
	})
}

func FuzzSummary(f *testing.F) {
	f.Add(read(f, "summary.json"))
	f.Add([]byte(`{"pods":[{"podRef":{"name":"front","namespace":"vc-demo-web-aaaaaaaaaaaa","uid":"super-front"},"volume":[{}],"containers":[{}]}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		var kubelet statsv1alpha1.Summary
		if json.Unmarshal(data, &kubelet) != nil {
			return
		}
		var counter Counter
		for _, pod := range Summary(&kubelet, NewPods([]pods.Pod{front}), &counter).Pods {
			if want := (statsv1alpha1.PodReference{Namespace: "web", Name: "front", UID: "tenant-front"}); pod.PodRef != want {
				t.Fatalf("pod %+v", pod.PodRef)
			}
			for _, volume := range pod.VolumeStats {
				if volume.PVCRef != nil && volume.PVCRef.Namespace != "web" {
					t.Fatalf("volume %+v", volume.PVCRef)
				}
			}
		}
	})
}

func resource(t *testing.T, metrics []byte, own Pods, counter *Counter) []byte {
	t.Helper()
	var got bytes.Buffer
	if err := Resource(&got, bytes.NewReader(metrics), own, counter); err != nil {
		t.Fatal(err)
	}
	return got.Bytes()
}

func read(t testing.TB, name string) []byte {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	if *update {
		if err := os.WriteFile(filepath.Join("testdata", name), got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff(string(read(t, name)), string(got)); diff != "" {
		t.Errorf("%s (run with -update if this is meant):\n%s", name, diff)
	}
}
