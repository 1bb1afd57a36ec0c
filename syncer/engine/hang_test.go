package engine_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"sync/atomic"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"github.com/bulkhead-dev/bulkhead/internal/testenv"
	"github.com/bulkhead-dev/bulkhead/syncer/engine"
	"github.com/bulkhead-dev/bulkhead/syncer/report"
)

// A tenant's apiserver that takes writes and does not answer, though it reads and is
// ready, keeps one worker and no more, and has all again once it answers.
func testHanging(t *testing.T, super, tenant *testenv.Cluster) {
	target, err := url.Parse(tenant.Config.Host)
	must(t, err)
	transport, err := rest.TransportFor(tenant.Config)
	must(t, err)
	proxy := &httputil.ReverseProxy{Transport: transport, FlushInterval: -1, Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(target) }}
	proxy.ErrorHandler = func(http.ResponseWriter, *http.Request, error) {} // calls that were ended
	var hangs atomic.Bool
	answer := make(chan struct{})
	front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet && hangs.Load() {
			select {
			case <-answer:
			case <-r.Context().Done():
				return
			}
		}
		proxy.ServeHTTP(w, r)
	}))
	t.Cleanup(front.Close) // after the engine has let go of its watches

	w := start(t, super, tenant, &rest.Config{Host: front.URL})
	ctx := t.Context()
	must(t, w.tenant.Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "hang"}}))
	there(t, w.tenant, "hang", "default", &corev1.ServiceAccount{}, nil)
	state := func(what string, holds func(report.Tenant) bool) {
		t.Helper()
		eventually(t, what, func(context.Context) error {
			if now := w.link.Report(); !holds(now) {
				return fmt.Errorf("it is %+v", now)
			}
			return nil
		})
	}
	workers := engine.DefaultWorkers.PerTenant
	state("the link to be synced", func(r report.Tenant) bool { return r.Synced && r.Down.Workers == workers })
	hangs.Store(true)
	for i := range 3 * workers {
		// Each is refused, of which the tenant is told by a write.
		must(t, w.tenant.Create(ctx, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "hang", Name: fmt.Sprint("refused-", i)}, Spec: corev1.PodSpec{
			HostNetwork: true, Containers: []corev1.Container{{Name: "main", Image: "registry.k8s.io/pause:3.10"}},
		}}))
	}
	state("all but one to be free again", func(r report.Tenant) bool {
		return r.Hangs && r.Synced && r.Down.Workers == 1 && r.Down.Running == 1 && r.Down.Waiting > 0
	})
	hangs.Store(false)
	close(answer)
	state("all workers to be the tenant's again", func(r report.Tenant) bool {
		return !r.Hangs && r.Down.Workers == workers && r.Down.Waiting == 0
	})
}
