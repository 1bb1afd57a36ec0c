package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	statsv1alpha1 "k8s.io/kubelet/pkg/apis/stats/v1alpha1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/bulkhead-dev/bulkhead/internal/pki"
)

// usage is what the recording kubelet says of three pods: one of each tenant's and
// one of the platform's. Tenant A's figures begin with 1, all others with 7.
func (e *environment) usage(endpoint string) string {
	superA, superB := e.a.SuperNamespace("web"), e.b.SuperNamespace("web")
	if endpoint == "summary" {
		entry := func(namespace, uid string, value int) string {
			return fmt.Sprintf(`{"podRef":{"namespace":%q,"name":"front","uid":%q},"startTime":"2023-11-01T00:00:00Z","containers":[],
				"cpu":{"time":"2023-11-14T22:13:20Z","usageCoreNanoSeconds":%d000000000},"memory":{"time":"2023-11-14T22:13:20Z","workingSetBytes":%d}}`, namespace, uid, value, value)
		}
		return `{"node":{"nodeName":"node-1","startTime":"2023-11-01T00:00:00Z","cpu":{"time":"2023-11-14T22:13:20Z","usageCoreNanoSeconds":777}},"pods":[` +
			entry(superA, e.superUID(superA), 111) + "," + entry(superB, e.superUID(superB), 777) + "," + entry("kube-system", "x", 777) + "]}"
	}
	return strings.NewReplacer("A", superA, "B", superB).Replace(`# TYPE pod_cpu_usage_seconds_total counter
pod_cpu_usage_seconds_total{namespace="A",pod="front"} 111 1700000000000
pod_cpu_usage_seconds_total{namespace="B",pod="front"} 777 1700000000000
pod_cpu_usage_seconds_total{namespace="kube-system",pod="front"} 777 1700000000000
# TYPE pod_memory_working_set_bytes gauge
pod_memory_working_set_bytes{namespace="A",pod="front"} 111 1700000000000
pod_memory_working_set_bytes{namespace="B",pod="front"} 777 1700000000000
# TYPE node_cpu_usage_seconds_total counter
node_cpu_usage_seconds_total 777777 1700000000000
`)
}

func (e *environment) superUID(namespace string) string {
	var super corev1.Pod
	if err := e.super.Client.Get(contextOfTests, client.ObjectKey{Namespace: namespace, Name: "front"}, &super); err != nil {
		return err.Error()
	}
	return string(super.UID)
}

// metricsServer is what a tenant's metrics-server shows; an apiserver's proxy to
// nodes cannot be tried here, because it refuses nodes on loopback.
func metricsServer(t *testing.T, tenant *tenantCluster) pki.Pair {
	t.Helper()
	pair, err := tenant.ca.Issue(pki.Leaf{CommonName: "bulkhead:metrics-server", Usage: pki.Client})
	if err != nil {
		t.Fatal(err)
	}
	return pair
}

func TestResourceMetrics(t *testing.T) {
	status, got := ask(t, metricsServer(t, env.a), http.MethodGet, "/metrics/resource", nil)
	if status != http.StatusOK {
		t.Fatalf("%d: %s", status, got)
	}
	want := `# HELP node_cpu_usage_seconds_total Cumulative cpu time consumed by this cluster's pods on the node in core-seconds
# TYPE node_cpu_usage_seconds_total counter
node_cpu_usage_seconds_total 111 1700000000000
# HELP node_memory_working_set_bytes Current working set of this cluster's pods on the node in bytes
# TYPE node_memory_working_set_bytes gauge
node_memory_working_set_bytes 111 1700000000000
# TYPE pod_cpu_usage_seconds_total counter
pod_cpu_usage_seconds_total{namespace="web",pod="front"} 111 1700000000000
# TYPE pod_memory_working_set_bytes gauge
pod_memory_working_set_bytes{namespace="web",pod="front"} 111 1700000000000
`
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestSummary(t *testing.T) {
	status, got := ask(t, env.a.client, http.MethodGet, "/stats/summary?only_cpu_and_memory=true", nil)
	if status != http.StatusOK {
		t.Fatalf("%d: %s", status, got)
	}
	var summary statsv1alpha1.Summary
	if err := json.Unmarshal([]byte(got), &summary); err != nil {
		t.Fatal(err)
	}
	if len(summary.Pods) != 1 || summary.Pods[0].PodRef != (statsv1alpha1.PodReference{Namespace: "web", Name: "front", UID: string(env.a.pod.UID)}) {
		t.Errorf("pods %+v", summary.Pods)
	}
	if strings.Contains(got, "777") || *summary.Node.Memory.WorkingSetBytes != 111 || *summary.Node.CPU.UsageCoreNanoSeconds != 111e9 {
		t.Errorf("somebody else's figures: %s", got)
	}
}

func (k *recordingKubelet) serveUsage(w http.ResponseWriter, segments []string) {
	_, _ = fmt.Fprint(w, k.usage(segments[1]))
}
