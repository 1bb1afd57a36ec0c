package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Others read the file by these keys.
func TestFileHasTheKeys(t *testing.T) {
	path := filepath.Join(t.TempDir(), "out", "syncer.json")
	r := newResult(size{tenants: 3, pods: 100, nodes: 7})
	if err := r.write(path); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var got map[string]any
	if err := json.Unmarshal(data, &got); err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{
		"tenants", "pods", "throughput_ratio", "restart_s",
		"latency_ms.baseline.p50", "latency_ms.baseline.p95", "latency_ms.baseline.p99",
		"latency_ms.tenant.p50", "latency_ms.tenant.p95", "latency_ms.tenant.p99",
		"light_load_added_ms.p50", "light_load_added_ms.p99", "syncer.rss_mb", "syncer.cpu_s",
		"fairness_ms.alone_p99", "fairness_ms.beside_greedy_p99",
	} {
		var at any = got
		for part := range strings.SplitSeq(key, ".") {
			inner, ok := at.(map[string]any)
			if !ok {
				t.Fatalf("%s is within no object", key)
			}
			at = inner[part]
		}
		if _, number := at.(float64); !number {
			t.Errorf("%s is %v, and should be a number", key, at)
		}
	}
	if got["pods"] != 99.0 {
		t.Errorf("pods are %v: each tenant creates as many as the others, 33", got["pods"])
	}
}

func TestTableOfNothing(t *testing.T) {
	var out bytes.Buffer
	newResult(size{tenants: 3, pods: 100, nodes: 7}).print(&out)
	if !strings.Contains(out.String(), "3 tenants") {
		t.Errorf("the table says %q", out.String())
	}
}

func TestSizeFrom(t *testing.T) {
	env := func(values map[string]string) func(string) string {
		return func(name string) string { return values[name] }
	}
	got, err := sizeFrom(env(map[string]string{"TENANTS": "100", "PODS": "10000"}))
	if err != nil || got.tenants != 100 || got.pods != 10000 || got.nodes != 100 {
		t.Errorf("got %+v, %v", got, err)
	}
	for name, values := range map[string]map[string]string{
		"no number":      {"TENANTS": "many"},
		"one tenant":     {"TENANTS": "1"},
		"less than pods": {"TENANTS": "100", "PODS": "99"},
	} {
		if _, err := sizeFrom(env(values)); err == nil {
			t.Errorf("%s was taken", name)
		}
	}
}

func TestReadingMetrics(t *testing.T) {
	text := "# HELP a_total help\n# TYPE a_total counter\na_total{kind=\"pods\",side=\"super\"} 3\na_total{kind=\"nodes\",side=\"super\"} 4\nb 1.5e+01\nh_sum{kind=\"pods\"} 6\nh_count{kind=\"pods\"} 4\n"
	got, err := parseSamples(strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		got, want float64
	}{
		{got.sum("a_total"), 7},
		{got.sum("a_total", `kind="pods"`), 3},
		{got.sum("a"), 0},
		{got.sum("b"), 15},
		{got.meanSince(samples{`h_sum{kind="pods"}`: 2, `h_count{kind="pods"}`: 2}, "h"), 2},
		{got.meanSince(got, "h"), 0},
	} {
		if test.got != test.want {
			t.Errorf("got %v, want %v", test.got, test.want)
		}
	}
	if _, err := parseSamples(strings.NewReader("a nothing\n")); err == nil {
		t.Error("a value that is none was taken")
	}
}

func FuzzParseSamples(f *testing.F) {
	f.Add("# c\na{b=\"c\"} 1\n")
	f.Fuzz(func(t *testing.T, text string) {
		if got, err := parseSamples(strings.NewReader(text)); err == nil {
			got.sum("a", "b")
		}
	})
}
