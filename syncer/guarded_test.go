package main

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"go.opentelemetry.io/otel/attribute"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/rand"

	"github.com/bulkhead-dev/bulkhead/internal/testenv"
	"github.com/bulkhead-dev/bulkhead/syncer/report"
)

// serve runs the program as it is started, with leader election, and returns the
// address of its metrics and debug pages once it leads.
func serve(t *testing.T, tracer trace.Tracer) (address string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "kubeconfig")
	must(t, os.WriteFile(path, superConfig, 0o600))
	t.Setenv("KUBECONFIG", path)
	address = testenv.FreeAddress(t)
	o := testOptions(t)
	o.metricsAddress, o.healthAddress, o.leaderElectNamespace = address, "127.0.0.1:0", "default"
	manager, term, err := newManager(o)
	must(t, err)
	o.leads, o.tracer = term.Check, tracer
	ctx, cancel := context.WithCancel(context.Background())
	must(t, setup(ctx, manager, o))
	done := make(chan error, 1)
	go func() { done <- manager.Start(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil && !errors.Is(err, context.Canceled) {
			t.Errorf("the syncer ended: %v", err)
		}
	})
	select {
	case <-manager.Elected():
	case <-time.After(patience):
		t.Fatal("no leader")
	}
	return address
}

// get asks for a page, over TLS with the certificate that the process has made for itself.
func get(ctx context.Context, address, token, page string) (int, string, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+address+page, nil)
	if err != nil {
		return 0, "", err
	}
	if token != "" {
		request.Header.Set("Authorization", "Bearer "+token)
	}
	transport := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}} //nolint:gosec // see above
	defer transport.CloseIdleConnections()
	response, err := (&http.Client{Transport: transport}).Do(request)
	if err != nil {
		return 0, "", err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	return response.StatusCode, string(body), err
}

// newToken makes a ServiceAccount that may get pages, and returns a token of it.
func newToken(t *testing.T, account string, pages ...string) string {
	t.Helper()
	account += "-" + rand.String(5)
	object := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: account}}
	must(t, super.Client.Create(t.Context(), object))
	request := &authenticationv1.TokenRequest{}
	must(t, super.Client.SubResource("token").Create(t.Context(), object, request))
	if len(pages) > 0 {
		must(t, super.Client.Create(t.Context(), &rbacv1.ClusterRole{
			ObjectMeta: metav1.ObjectMeta{Name: account}, Rules: []rbacv1.PolicyRule{{NonResourceURLs: pages, Verbs: []string{"get"}}},
		}))
		must(t, super.Client.Create(t.Context(), &rbacv1.ClusterRoleBinding{
			ObjectMeta: metav1.ObjectMeta{Name: account}, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: account},
			Subjects: []rbacv1.Subject{{Kind: "ServiceAccount", Namespace: "default", Name: account}},
		}))
	}
	return request.Status.Token
}

// Metrics and debug pages are there over TLS for those who may get them, each for
// theirs, and for nobody else. The pages say where a tenant's objects are.
func TestPagesAreGuarded(t *testing.T) {
	spans := tracetest.NewInMemoryExporter()
	address := serve(t, sdktrace.NewTracerProvider(sdktrace.WithSyncer(spans)).Tracer("test"))
	tn := newTenant(t, 0, nil).synced()
	stranger, scrapes, debugs := newToken(t, "stranger"), newToken(t, "may-scrape", "/metrics"), newToken(t, "may-debug", "/debug/*")
	tenants := "/debug/tenants"
	for _, tc := range []struct {
		who, token, page string
		want             int
	}{
		{"nobody", "", "/metrics", http.StatusUnauthorized},
		{"a stranger", stranger, "/metrics", http.StatusForbidden},
		{"who debugs", debugs, "/metrics", http.StatusForbidden},
		{"who scrapes", scrapes, "/metrics", http.StatusOK},
		{"nobody", "", tenants, http.StatusUnauthorized},
		{"nobody with a token", "made-up", tenants, http.StatusInternalServerError}, // as controller-runtime has it
		{"a stranger", stranger, tenants, http.StatusForbidden},
		{"who scrapes", scrapes, tenants, http.StatusForbidden},
		{"who debugs", debugs, tenants, http.StatusOK},
		{"nobody", "", "/debug/pprof/heap", http.StatusUnauthorized},
		{"a stranger", stranger, "/debug/pprof/goroutine?debug=2", http.StatusForbidden},
		{"who debugs", debugs, "/debug/pprof/goroutine?debug=1", http.StatusOK},
		{"who debugs", debugs, "/debug/pprof/profile?seconds=86400", http.StatusBadRequest},
		{"who debugs", debugs, "/debug/pprof/profile?seconds=NaN", http.StatusBadRequest},
		{"who debugs", debugs, "/debug/objects", http.StatusBadRequest},
		{"who debugs", debugs, "/debug/objects?tenant=default/none&kind=Pod&name=web", http.StatusNotFound},
		{"who debugs", debugs, "/debug/objects?tenant=" + tn.String() + "&kind=Deployment&name=web", http.StatusBadRequest},
		{"who debugs", debugs, "/debug/else", http.StatusNotFound},
	} {
		eventually(t, tc.page+" for "+tc.who, func(ctx context.Context) error {
			code, body, err := get(ctx, address, tc.token, tc.page)
			if err == nil && code != tc.want {
				err = fmt.Errorf("answer %d: %s", code, body)
			}
			if err == nil && code == http.StatusOK && tc.page == "/metrics" && !strings.Contains(body, "leader_election_master_status") {
				err = fmt.Errorf("the metrics tell of no leader: %s", body)
			}
			return err
		})
	}
	for _, page := range []string{"/metrics", tenants} {
		if response, err := http.Get("http://" + address + page); err == nil { //nolint:noctx // it must fail at once
			if response.StatusCode == http.StatusOK {
				t.Errorf("%s is served without TLS", page)
			}
			_ = response.Body.Close()
		}
	}

	ns := tn.namespace("pages")
	refused := newPod(ns, "refused")
	refused.Spec.HostNetwork = true
	must(t, tn.client.Create(t.Context(), refused))
	find := func(name string, check func(report.Object) error) {
		t.Helper()
		query := url.Values{"tenant": {tn.String()}, "kind": {"Pod"}, "namespace": {ns}, "name": {name}}
		eventually(t, "where "+name+" is", func(ctx context.Context) error {
			code, body, err := get(ctx, address, debugs, "/debug/objects?"+query.Encode())
			if err != nil || code != http.StatusOK {
				return fmt.Errorf("answer %d %s: %w", code, body, err)
			}
			var object report.Object
			if err := json.Unmarshal([]byte(body), &object); err != nil {
				return err
			}
			if err := check(object); err != nil {
				return fmt.Errorf("%w: %s", err, body)
			}
			return nil
		})
	}
	find("refused", func(o report.Object) error {
		switch {
		case o.State != report.Delayed || o.Until == nil || o.Since == nil || o.InSuper != "-":
			return errors.New("it is not waiting for the next look")
		case o.Last == nil || len(o.Last.Findings) == 0 || !strings.Contains(o.Last.Findings[0], "hostNetwork"):
			return errors.New("it is not said why")
		}
		return nil
	})
	running := newPod(ns, "running")
	must(t, tn.client.Create(t.Context(), running))
	down := tn.superPod(running)
	find("running", func(o report.Object) error {
		if o.Last == nil || o.Last.Result != "ok" || !strings.HasPrefix(o.InSuper, string(down.UID)) || !strings.HasPrefix(o.InTenant, string(running.UID)) || !o.Tenant.Synced {
			return errors.New("it is not known to be there")
		}
		return nil
	})
	find("none", func(o report.Object) error {
		if o.State != report.Idle || o.InTenant != "-" {
			return errors.New("it is somewhere")
		}
		return nil
	})
	eventually(t, "the tenant's page", func(ctx context.Context) error {
		_, body, err := get(ctx, address, debugs, tenants)
		if err != nil {
			return err
		}
		var answer report.Tenants
		if err := json.Unmarshal([]byte(body), &answer); err != nil {
			return err
		}
		for _, tenant := range answer.Tenants {
			if tenant.UID == string(tn.UID) && tenant.Synced && tenant.Patrol != nil && tenant.Down.Weight > 0 && tenant.Down.Workers == 8 && answer.Leading {
				return nil
			}
		}
		return fmt.Errorf("it says %s", body)
	})

	// The way of a pod is measured, phase by phase, and traced.
	schedule(t, down, newNode(t, "node-pages").Name)
	eventually(t, "the phases of a pod", func(ctx context.Context) error {
		_, body, err := get(ctx, address, scrapes, "/metrics")
		for _, phase := range []string{"down_queue", "down_process", "super_scheduling", "up_queue", "up_process"} {
			if !strings.Contains(body, `bulkhead_syncer_pod_phase_seconds_count{phase="`+phase+`"}`) {
				err = errors.Join(err, errors.New("there is none of "+phase))
			}
		}
		if handled := `bulkhead_syncer_tenant_handled_total{direction="down",tenant="` + tn.String() + `"}`; !strings.Contains(body, handled) {
			err = errors.Join(err, errors.New("there is no "+handled))
		}
		return err
	})
	key := attribute.String("bulkhead.key", "pods "+ns+"/running")
	eventually(t, "the spans of a pod", func(context.Context) error {
		all := spans.GetSpans()
		for _, parent := range all {
			if parent.Name != "down pods" || !slices.Contains(parent.Attributes, key) || !slices.Contains(parent.Attributes, attribute.String("bulkhead.tenant", tn.String())) {
				continue
			}
			for _, child := range all {
				if child.Parent.SpanID() == parent.SpanContext.SpanID() && child.Name == "POST tenant" && slices.Contains(child.Attributes, attribute.Int("http.response.status_code", http.StatusCreated)) {
					return nil // the binding
				}
			}
		}
		return fmt.Errorf("none of %d spans has made the binding", len(all))
	})
}
