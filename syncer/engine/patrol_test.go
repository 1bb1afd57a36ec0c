package engine_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/uuid"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	logf "sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/controller-runtime/pkg/metrics"

	"github.com/bulkhead-dev/bulkhead/internal/tenancy"
	"github.com/bulkhead-dev/bulkhead/internal/tenantnetwork"
	"github.com/bulkhead-dev/bulkhead/internal/testenv"
	"github.com/bulkhead-dev/bulkhead/syncer/engine"
	"github.com/bulkhead-dev/bulkhead/syncer/kinds"
	"github.com/bulkhead-dev/bulkhead/syncer/patrol"
	"github.com/bulkhead-dev/bulkhead/syncer/translation"
)

// world is an engine between two real clusters.
type world struct {
	t             *testing.T
	super, tenant client.Client
	engine        *engine.Engine
	link          *engine.Link
	of            translation.Tenant
}

// start runs an engine with one link, to the tenant's apiserver as config says.
func start(t *testing.T, super, tenant *testenv.Cluster, config *rest.Config) *world {
	t.Helper()
	ctx := t.Context()
	client, err := rest.HTTPClientFor(super.Config)
	must(t, err)
	options := engine.CacheOptions()
	options.Scheme, options.HTTPClient = testenv.Scheme(), client
	reader, err := cache.New(super.Config, options)
	must(t, err)
	e, err := engine.New(ctx, engine.Options{
		Scheme: testenv.Scheme(), Config: super.Config, HTTPClient: client, Cache: reader, Live: super.Client,
		Kinds: kinds.All(tenantnetwork.Networks{}), ProbeInterval: 100 * time.Millisecond, Log: logr.Discard(),
	})
	must(t, err)
	ended := make(chan struct{})
	ctx, cancel := context.WithCancel(ctx)
	go func() {
		defer close(ended)
		if err := reader.Start(ctx); err != nil {
			t.Errorf("running the cache: %v", err)
		}
	}()
	w := &world{t: t, super: super.Client, tenant: tenant.Client, engine: e, of: translation.Tenant{
		Tenant:      tenancy.Tenant{UID: uuid.NewUUID(), Namespace: "default", Name: "acme"},
		PodSecurity: "baseline", ClusterDomain: "cluster.local", DNSAddress: "10.96.0.10",
	}}
	must(t, e.Start(ctx, w.of, config))
	w.link = e.Link(w.of.UID)
	t.Cleanup(func() {
		e.StopAll()
		cancel()
		<-ended
	})
	return w
}

// patrol patrols often, until stop is called or the test ends.
func (w *world) patrol() (stop func()) {
	p := patrol.New(w.engine.Links, w.engine.Resources(), patrol.Options{
		Interval: time.Second, Rate: 2000, Settle: time.Second, Log: logr.Discard(),
	})
	ctx, cancel := context.WithCancel(w.t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if err := p.Run(ctx); err != nil {
			w.t.Errorf("patrolling: %v", err)
		}
	}()
	stop = func() {
		cancel()
		<-ended
	}
	w.t.Cleanup(stop)
	return stop
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func eventually(t *testing.T, what string, condition func(context.Context) error) {
	t.Helper()
	var last error
	err := wait.PollUntilContextTimeout(t.Context(), 50*time.Millisecond, 3*time.Minute, true, func(ctx context.Context) (bool, error) {
		last = condition(ctx)
		return last == nil, nil
	})
	if err != nil {
		t.Fatalf("%s: %v", what, last)
	}
}

// there waits until an object is there, and as it should be.
func there[T client.Object](t *testing.T, from client.Reader, namespace, name string, object T, check func(T) bool) T {
	t.Helper()
	eventually(t, fmt.Sprintf("%T %s/%s", object, namespace, name), func(ctx context.Context) error {
		if err := from.Get(ctx, client.ObjectKey{Namespace: namespace, Name: name}, object); err != nil {
			return err
		}
		if check != nil && !check(object) {
			return errors.New("it is not as it should be")
		}
		return nil
	})
	return object
}

func gone(t *testing.T, from client.Reader, namespace, name string, object client.Object) {
	t.Helper()
	eventually(t, fmt.Sprintf("%T %s/%s to go", object, namespace, name), func(ctx context.Context) error {
		err := from.Get(ctx, client.ObjectKey{Namespace: namespace, Name: name}, object)
		if apierrors.IsNotFound(err) {
			return nil
		}
		return fmt.Errorf("it is there: %w", err)
	})
}

// counted reads a counter of this process: its values by the values of its labels.
func counted(t *testing.T, name string) map[string]float64 {
	t.Helper()
	families, err := metrics.Registry.Gather()
	must(t, err)
	values := map[string]float64{}
	for _, family := range families {
		if family.GetName() != name {
			continue
		}
		for _, metric := range family.GetMetric() {
			var labels []string
			for _, label := range metric.GetLabel() {
				labels = append(labels, label.GetValue())
			}
			values[strings.Join(labels, " ")] = metric.GetCounter().GetValue()
		}
	}
	return values
}

const (
	repairs = "bulkhead_syncer_patrol_repairs_total"
	rounds  = "bulkhead_syncer_patrol_rounds_total"
)

// repairedSince is what was counted since then.
func repairedSince(t *testing.T, before map[string]float64) map[string]float64 {
	t.Helper()
	now := counted(t, repairs)
	for labels, value := range before {
		if now[labels] -= value; now[labels] == 0 {
			delete(now, labels)
		}
	}
	return now
}

func service(namespace, name string) *corev1.Service {
	return &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}, Spec: corev1.ServiceSpec{
		Selector: map[string]string{"app": name}, Ports: []corev1.ServicePort{{Port: 80}},
	}}
}

func node(name string) *corev1.Node { return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}} }

// furnish makes in the tenant's cluster what all tests begin with, and waits for it to be carried.
func (w *world) furnish() (ns, superNS string) {
	t, ctx := w.t, w.t.Context()
	ns, superNS = "shop", w.of.SuperNamespace("shop")
	must(t, w.super.Create(ctx, node("node")))
	must(t, w.tenant.Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: ns}}))
	there(t, w.tenant, ns, "default", &corev1.ServiceAccount{}, nil)
	must(t, w.tenant.Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "config"}, Data: map[string]string{"k": "1"}}))
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "web", Labels: map[string]string{"app": "web"}}, Spec: corev1.PodSpec{
		Containers: []corev1.Container{{Name: "main", Image: "registry.k8s.io/pause:3.10"}},
		Volumes:    []corev1.Volume{{Name: "c", VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: "config"}}}}},
	}}
	must(t, w.tenant.Create(ctx, pod))
	refused := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "refused"}, Spec: corev1.PodSpec{
		HostNetwork: true, Containers: []corev1.Container{{Name: "main", Image: "registry.k8s.io/pause:3.10"}},
	}}
	must(t, w.tenant.Create(ctx, refused))
	for _, name := range []string{"web", "other"} {
		must(t, w.tenant.Create(ctx, service(ns, name)))
		there(t, w.super, superNS, name, &corev1.Service{}, nil)
	}
	down := there(t, w.super, superNS, "web", &corev1.Pod{}, nil)
	must(t, w.super.SubResource("binding").Create(ctx, down, &corev1.Binding{
		ObjectMeta: metav1.ObjectMeta{Namespace: superNS, Name: "web"}, Target: corev1.ObjectReference{Kind: "Node", Name: "node"},
	}))
	there(t, w.super, superNS, "config", &corev1.ConfigMap{}, nil)
	there(t, w.tenant, ns, "web", pod, func(p *corev1.Pod) bool { return p.Spec.NodeName == "node" })
	there(t, w.tenant, "", "node", &corev1.Node{}, nil)
	return ns, superNS
}

func TestPatrol(t *testing.T) {
	logf.SetLogger(logr.Discard())
	clusters := testenv.NewAll(t, testenv.Options{ControllerManager: true, CRDs: true}, testenv.Options{ControllerManager: true})
	super, tenant := clusters[0], clusters[1]
	t.Run("Unfilled", func(t *testing.T) { testUnfilled(t, super, tenant) })
	t.Run("Repairs", func(t *testing.T) { testRepairs(t, super, tenant) })
	t.Run("Hanging", func(t *testing.T) { testHanging(t, super, tenant) })
}

// What changes behind the syncer's back is found, by kind and reason, and repaired;
// before that, while all events come, nothing is found.
func testRepairs(t *testing.T, super, tenant *testenv.Cluster) {
	w := start(t, super, tenant, tenant.Config)
	ctx := t.Context()
	ns, superNS := w.furnish()

	for _, resource := range w.engine.Resources() {
		if _, err := w.link.Inventory(ctx, resource); err != nil {
			t.Error(err)
		}
	}
	before := counted(t, repairs)
	complete := counted(t, rounds)["complete"]
	stop := w.patrol()
	eventually(t, "three rounds", func(context.Context) error {
		if done := counted(t, rounds)["complete"] - complete; done < 3 {
			return fmt.Errorf("%v rounds", done)
		}
		return nil
	})
	stop()
	if found := repairedSince(t, before); len(found) > 0 {
		t.Fatalf("found, though no event was lost: %v", found)
	}

	hear := w.link.LoseEvents()
	must(t, w.super.Delete(ctx, service(superNS, "web")))
	must(t, w.tenant.Create(ctx, service(ns, "late")))
	config := there(t, w.super, superNS, "config", &corev1.ConfigMap{}, nil)
	testenv.Change(t, w.super, config, func() { config.Data = map[string]string{"k": "other"} })
	must(t, w.tenant.Delete(ctx, service(ns, "other")))
	orphan := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: superNS, Name: "orphan"}}
	tenancy.Mark(orphan, w.of.Tenant, tenancy.ManagedBySyncer, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "orphan", UID: "gone"}})
	must(t, w.super.Create(ctx, orphan))
	foreign := service(superNS, "foreign") // not ours, so not to be touched
	must(t, w.super.Create(ctx, foreign))
	up := there(t, w.tenant, "", "node", &corev1.Node{}, nil)
	testenv.Change(t, w.tenant, up, func() { up.Spec.Unschedulable = true })
	// No controller of the tenant touches it, so that no other event comes for it.
	left := &storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: "left", Labels: map[string]string{tenancy.LabelManagedBy: tenancy.ManagedBySyncer}}, Provisioner: tenancy.OpaqueDriver}
	must(t, w.tenant.Create(ctx, left))
	must(t, w.tenant.Create(ctx, node("own")))

	// The caches see it all, and nobody is told.
	gone(t, w.link.SuperReader(), superNS, "web", &corev1.Service{})
	there(t, w.link.TenantReader(), ns, "late", &corev1.Service{}, nil)
	there(t, w.link.SuperReader(), superNS, "config", config, func(c *corev1.ConfigMap) bool { return c.Data["k"] == "other" })
	gone(t, w.link.TenantReader(), ns, "other", &corev1.Service{})
	there(t, w.link.SuperReader(), superNS, "orphan", orphan, nil)
	there(t, w.link.TenantReader(), "", "node", up, func(n *corev1.Node) bool { return n.Spec.Unschedulable })
	there(t, w.link.TenantReader(), "", "left", left, nil)
	hear()

	for key, want := range map[engine.Key]engine.Reason{
		{Resource: "services", Namespace: ns, Name: "web"}:      engine.Missing,
		{Resource: "services", Namespace: ns, Name: "late"}:     engine.Missing,
		{Resource: "services", Namespace: ns, Name: "other"}:    engine.Orphan,
		{Resource: "configmaps", Namespace: ns, Name: "config"}: engine.Drift,
		{Resource: "secrets", Namespace: ns, Name: "orphan"}:    engine.Orphan,
		{Resource: "nodes", Name: "node"}:                       engine.Drift,
		{Resource: "storageclasses", Name: "left"}:              engine.Orphan,
		{Resource: "nodes", Name: "own"}:                        "",
		{Resource: "pods", Namespace: ns, Name: "web"}:          "",
		{Resource: "pods", Namespace: ns, Name: "refused"}:      "",
		{Resource: "pods", Namespace: ns, Name: "none"}:         "",
	} {
		difference, err := w.link.Compare(ctx, key)
		must(t, err)
		if (difference == nil) != (want == "") || (difference != nil && difference.Reason != want) {
			t.Errorf("%s: %+v, want %q", key, difference, want)
		}
	}

	w.patrol()
	there(t, w.super, superNS, "web", &corev1.Service{}, nil)
	there(t, w.super, superNS, "late", &corev1.Service{}, nil)
	gone(t, w.super, superNS, "other", &corev1.Service{})
	there(t, w.super, superNS, "config", config, func(c *corev1.ConfigMap) bool { return c.Data["k"] == "1" })
	gone(t, w.super, superNS, "orphan", orphan)
	there(t, w.tenant, "", "node", up, func(n *corev1.Node) bool { return !n.Spec.Unschedulable })
	gone(t, w.tenant, "", "left", left)
	must(t, w.super.Get(ctx, client.ObjectKeyFromObject(foreign), foreign))
	must(t, w.tenant.Get(ctx, client.ObjectKey{Name: "own"}, &corev1.Node{}))
	want := map[string]float64{
		"services missing": 2, "services orphan": 1, "configmaps drift": 1, "secrets orphan": 1, "nodes drift": 1, "storageclasses orphan": 1,
	}
	eventually(t, "the count of repairs", func(context.Context) error {
		if diff := cmp.Diff(want, repairedSince(t, before)); diff != "" {
			return errors.New(diff)
		}
		return nil
	})
}

// As long as one kind of the tenant's cluster cannot be listed, nothing is derived
// from what the caches hold, though all else is there and the apiserver answers.
func testUnfilled(t *testing.T, super, tenant *testenv.Cluster) {
	target, err := url.Parse(tenant.Config.Host)
	must(t, err)
	transport, err := rest.TransportFor(tenant.Config)
	must(t, err)
	proxy := &httputil.ReverseProxy{Transport: transport, FlushInterval: -1, Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(target) }}
	var probes atomic.Int32
	open := make(chan struct{})
	front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/readyz":
			probes.Add(1)
		case "/api/v1/services":
			select {
			case <-open:
			case <-r.Context().Done():
				return
			}
		}
		proxy.ServeHTTP(w, r)
	}))
	t.Cleanup(front.Close) // after the engine has let go of its watches

	w := start(t, super, tenant, &rest.Config{Host: front.URL})
	ctx := t.Context()
	// What an unfilled cache would call an orphan.
	superNS := w.of.SuperNamespace("full")
	namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "full"}}
	must(t, w.tenant.Create(ctx, namespace))
	must(t, w.tenant.Create(ctx, service("full", "web")))
	made := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: superNS}}
	tenancy.Mark(made, w.of.Tenant, tenancy.ManagedBySyncer, namespace)
	must(t, w.super.Create(ctx, made))
	orphan := service(superNS, "orphan")
	tenancy.Mark(orphan, w.of.Tenant, tenancy.ManagedBySyncer, &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "full", Name: "orphan", UID: "gone"}})
	must(t, w.super.Create(ctx, orphan))
	there(t, w.link.SuperReader(), superNS, "orphan", orphan, nil)
	there(t, w.link.TenantReader(), "", "full", namespace, nil)

	before := counted(t, repairs)
	w.patrol()
	since := probes.Load()
	eventually(t, "probes", func(context.Context) error {
		if n := probes.Load() - since; n < 30 {
			return fmt.Errorf("%d probes", n)
		}
		return nil
	})
	if state := w.link.State(); state.Synced {
		t.Errorf("state %+v", state)
	}
	if _, err := w.link.Compare(ctx, engine.Key{Resource: "services", Namespace: "full", Name: "orphan"}); !errors.Is(err, engine.ErrNotComparable) {
		t.Errorf("comparing: %v", err)
	}
	if _, err := w.link.Inventory(ctx, "services"); !errors.Is(err, engine.ErrNotComparable) {
		t.Errorf("listing: %v", err)
	}
	must(t, w.super.Get(ctx, client.ObjectKeyFromObject(orphan), orphan))
	if err := w.super.Get(ctx, client.ObjectKey{Namespace: superNS, Name: "web"}, &corev1.Service{}); !apierrors.IsNotFound(err) {
		t.Errorf("something was carried: %v", err)
	}
	close(open)
	there(t, w.super, superNS, "web", &corev1.Service{}, nil)
	gone(t, w.super, superNS, "orphan", orphan)
	if found := repairedSince(t, before); len(found) > 0 {
		t.Errorf("the start compares by itself, and the patrol found %v", found)
	}
	keys, err := w.link.Inventory(ctx, "services")
	must(t, err)
	if !slices.Contains(keys, engine.Key{Resource: "services", Namespace: "full", Name: "web"}) {
		t.Errorf("inventory %v", keys)
	}
}
