package engine

import (
	"fmt"
	"net/http"
	"net/url"
	"testing"
	"time"

	"sigs.k8s.io/controller-runtime/pkg/metrics"
)

// seriesOf counts the series of the program that name a tenant, and those that do not.
func seriesOf(t *testing.T) (tenants map[string]int, others int) {
	t.Helper()
	families, err := metrics.Registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	tenants = map[string]int{}
	for _, family := range families {
		for _, metric := range family.GetMetric() {
			tenant := ""
			for _, label := range metric.GetLabel() {
				if label.GetName() == "tenant" {
					tenant = label.GetValue()
				}
			}
			if tenant == "" {
				others++
			} else {
				tenants[tenant]++
			}
		}
	}
	return tenants, others
}

// A thousand tenants have eight series each, whatever they do, and leave none.
func TestSeriesOfTenantsAreBounded(t *testing.T) {
	const tenants, each = 1000, 8
	before, others := seriesOf(t)
	all := make([]*tenantMetrics, tenants)
	for i := range all {
		m := newTenantMetrics(fmt.Sprintf("customers/tenant-%d", i))
		for j := range 20 {
			m.count(j%2 == 0, j%3 == 0)
		}
		set(m.hangs, true)
		set(m.synced, i%2 == 0)
		m.waitingDown.Set(float64(i))
		all[i] = m
	}
	got, now := seriesOf(t)
	if now != others {
		t.Errorf("%d series of no tenant have come", now-others)
	}
	if len(got) != len(before)+tenants {
		t.Errorf("series of %d tenants", len(got)-len(before))
	}
	for tenant, n := range got {
		if _, known := before[tenant]; !known && n != each {
			t.Fatalf("%s has %d series, not %d", tenant, n, each)
		}
	}
	for _, m := range all {
		m.remove()
		m.count(true, true) // a handling that ends late brings none back
	}
	if left, _ := seriesOf(t); len(left) != len(before) {
		t.Errorf("%d tenants have left series behind", len(left)-len(before))
	}
}

func TestPhases(t *testing.T) {
	count := func(phase string) uint64 {
		families, err := metrics.Registry.Gather()
		if err != nil {
			t.Fatal(err)
		}
		for _, family := range families {
			for _, metric := range family.GetMetric() {
				if labels := metric.GetLabel(); family.GetName() == "bulkhead_syncer_pod_phase_seconds" && labels[0].GetValue() == phase {
					return metric.GetHistogram().GetSampleCount()
				}
			}
		}
		return 0
	}
	s := &scheduling{}
	key := Key{Resource: "pods", Namespace: "shop", Name: "web"}
	handle := func(tenants bool, method, path string) {
		h := &handling{started: time.Now()}
		h.did(&http.Request{Method: method, URL: &url.URL{Path: path}}, tenants)
		s.measure(key, h, time.Millisecond)
	}
	for _, step := range []struct {
		tenants      bool
		method, path string
		phases       []string
	}{
		{false, http.MethodPost, "/api/v1/namespaces/x/secrets", nil},
		{false, http.MethodPost, "/api/v1/namespaces/x/pods", []string{phaseDownQueue, phaseDownProcess}},
		{true, http.MethodPost, "/api/v1/namespaces/shop/events", nil},
		{true, http.MethodPost, "/api/v1/namespaces/shop/pods/web/binding", []string{phaseUpQueue, phaseUpProcess, phaseScheduling}},
		{true, http.MethodPatch, "/api/v1/namespaces/shop/pods/web/status", []string{phaseUpQueue, phaseUpProcess}},
		// The syncer was started after the pod was made.
		{true, http.MethodPost, "/api/v1/namespaces/shop/pods/web/binding", []string{phaseUpQueue, phaseUpProcess}},
	} {
		want := map[string]uint64{}
		for _, phase := range []string{phaseDownQueue, phaseDownProcess, phaseScheduling, phaseUpQueue, phaseUpProcess} {
			want[phase] = count(phase)
		}
		for _, phase := range step.phases {
			want[phase]++
		}
		handle(step.tenants, step.method, step.path)
		for phase, n := range want {
			if got := count(phase); got != n {
				t.Errorf("after %s %s: %d of %s, not %d", step.method, step.path, got, phase, n)
			}
		}
	}
	for i := range 3 * maxScheduling {
		s.begin(Key{Name: fmt.Sprint(i)}, time.Now())
	}
	if len(s.created) > maxScheduling {
		t.Errorf("%d pods are remembered", len(s.created))
	}
}
