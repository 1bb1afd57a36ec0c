package engine

import (
	"context"
	"encoding/json"
	"encoding/pem"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	abmv1alpha1 "github.com/bulkhead-dev/bulkhead/api/abm/v1alpha1"
	tenancyv1alpha1 "github.com/bulkhead-dev/bulkhead/api/tenancy/v1alpha1"
	"github.com/bulkhead-dev/bulkhead/internal/kubeconfig"
	"github.com/bulkhead-dev/bulkhead/internal/pki"
	"github.com/bulkhead-dev/bulkhead/internal/tenancy"
)

// A tenant's control plane that never answers again holds release up for a bounded
// time, and release says what it left to it.
func TestReleaseWithDeadControlPlane(t *testing.T) {
	t.Parallel()
	p := start(t, &fault{})
	instance := buy(t, define(t, virtualService), nil)
	p.untilReady(t, instance)
	breakControlPlane(t, instance)
	deleteInstance(t, instance)
	p.until(t, instance, func() bool { return stalled(instance, "does not answer") })
	if err := admin.Get(t.Context(), client.ObjectKey{Namespace: instance.Namespace, Name: "acme"}, &tenancyv1alpha1.VirtualCluster{}); err != nil {
		t.Errorf("the virtual cluster was not waited for: %v", err)
	}
	p.ahead = 6 * time.Minute
	p.until(t, instance, func() bool { return false })
	if !strings.Contains(p.events.String(), "step inside: was left to the deletion of its virtual cluster") {
		t.Errorf("release did not say what it left:\n%s", p.events)
	}
	// What is in the tenant cluster of these tests stays; a real one is gone.
	for _, found := range leftovers(t, instance) {
		if strings.HasPrefix(found, "super") {
			t.Errorf("left: %s", found)
		}
	}
}

// A virtual cluster that somebody deletes takes with it what is in it.
func TestReleaseWithGoneControlPlane(t *testing.T) {
	t.Parallel()
	p := start(t, &fault{})
	instance := buy(t, define(t, virtualService), nil)
	p.untilReady(t, instance)
	breakControlPlane(t, instance)
	if err := admin.Delete(t.Context(), &tenancyv1alpha1.VirtualCluster{ObjectMeta: metav1.ObjectMeta{Namespace: instance.Namespace, Name: "acme"}}); err != nil {
		t.Fatal(err)
	}
	p.release(t, instance)
	if !strings.Contains(p.events.String(), "step inside: its virtual cluster is gone") {
		t.Errorf("release did not say so:\n%s", p.events)
	}
}

// breakControlPlane lets the kubeconfig of an instance's virtual cluster lead to
// where nobody answers.
func breakControlPlane(t *testing.T, instance *abmv1alpha1.ServiceInstance) {
	t.Helper()
	vc := &tenancyv1alpha1.VirtualCluster{}
	if err := admin.Get(t.Context(), client.ObjectKey{Namespace: instance.Namespace, Name: "acme"}, vc); err != nil {
		t.Fatal(err)
	}
	pair, err := tenant.CA.Issue(pki.Leaf{CommonName: "nobody", Usage: pki.Client})
	if err != nil {
		t.Fatal(err)
	}
	data, err := kubeconfig.Encode(kubeconfig.Config{Name: "x", Server: "https://127.0.0.1:1", CA: tenant.CA.Cert, User: "x", Client: pair})
	if err != nil {
		t.Fatal(err)
	}
	owner := tenancy.Tenant{UID: vc.UID, Namespace: vc.Namespace, Name: vc.Name}
	secret := &corev1.Secret{}
	if err := admin.Get(t.Context(), client.ObjectKey{Namespace: owner.ControlPlaneNamespace(), Name: tenancy.AdminKubeconfigSecret}, secret); err != nil {
		t.Fatal(err)
	}
	secret.Data[tenancy.KubeconfigKey] = data
	if err := admin.Update(t.Context(), secret); err != nil {
		t.Fatal(err)
	}
}

// The namespace is deleted as a whole, with the instance, its ledger and its rights.
func TestNamespaceIsDeleted(t *testing.T) {
	t.Parallel()
	p := start(t, &fault{})
	instance := buy(t, define(t, virtualService), nil)
	p.untilReady(t, instance)
	namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: instance.Namespace}}
	if err := admin.Delete(t.Context(), namespace); err != nil {
		t.Fatal(err)
	}
	p.until(t, instance, func() bool { return instance.DeletionTimestamp != nil })
	p.until(t, instance, func() bool { return false })
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for {
		err := admin.Get(ctx, client.ObjectKeyFromObject(namespace), namespace)
		if apierrors.IsNotFound(err) {
			return
		}
		if ctx.Err() != nil {
			t.Fatalf("the namespace does not go (%v): %+v", err, namespace.Status)
		}
		pause(ctx, 100*time.Millisecond)
	}
}

// A step of a definition that keeps data leaves it, and says so.
func TestRetain(t *testing.T) {
	t.Parallel()
	p := start(t, &fault{})
	instance := buy(t, define(t, strings.Replace(simple, "- name: two\n", "- name: two\n  undo: {policy: Retain}\n", 1)), nil)
	p.untilReady(t, instance)
	p.release(t, instance)
	configMap(t, instance, "acme-c")
	if !strings.Contains(p.events.String(), "step two: what it made is retained: [ConfigMap acme-c]") {
		t.Errorf("release did not say so:\n%s", p.events)
	}
}

// registry is a server that keeps what is registered with it.
type registry struct {
	mu      sync.Mutex
	known   map[string]any
	keys    map[string]map[string]int // by method
	refuse  bool
	headers http.Header
}

func (r *registry) ServeHTTP(w http.ResponseWriter, request *http.Request) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.headers = request.Header.Clone()
	if r.refuse {
		http.Error(w, "out of order", http.StatusServiceUnavailable)
		return
	}
	if r.keys[request.Method] == nil {
		r.keys[request.Method] = map[string]int{}
	}
	r.keys[request.Method][request.Header.Get("Idempotency-Key")]++
	switch request.Method {
	case http.MethodPut:
		var body any
		if err := json.NewDecoder(request.Body).Decode(&body); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		r.known[request.URL.Path] = body
		state := "starting"
		if r.keys[http.MethodPut][request.Header.Get("Idempotency-Key")] > 2 {
			state = "ready"
		}
		_ = json.NewEncoder(w).Encode(map[string]any{"state": state, "host": "acme.example.com"})
	case http.MethodDelete:
		if _, found := r.known[request.URL.Path]; !found {
			http.NotFound(w, request)
			return
		}
		delete(r.known, request.URL.Path)
	}
}

// A call is made again until it answers as wanted, always under one key, with the
// credential of a Secret, and taken back by another.
func TestCalls(t *testing.T) {
	t.Parallel()
	server := &registry{known: map[string]any{}, keys: map[string]map[string]int{}}
	listening := httptest.NewTLSServer(server)
	defer listening.Close()
	address, err := url.Parse(listening.URL)
	if err != nil {
		t.Fatal(err)
	}
	p := start(t, &fault{})
	service := define(t, strings.ReplaceAll(`
plans: [{name: small}]
access: {super: [{kind: Secret}], hosts: ['HOST']}
steps:
- name: register
  condition: Registered
  http:
    do: {method: PUT, url: 'https://HOST/v1/${instance.uid}', body: {name: '${instance.name}'}}
    undo: {method: DELETE, url: 'https://HOST/v1/${instance.uid}'}
    until: response.body.state == 'ready'
    ca: {name: trust, key: ca.crt}
    authorization: {name: trust, key: token}
  outputs: [{name: console, value: 'https://${response.body.host}/'}]
outputs: [{name: console, value: '${steps.register.outputs.console}'}]
`, "HOST", address.Host))
	instance := buy(t, service, nil)
	p.until(t, instance, func() bool { return stalled(instance, "reading Secret trust") })
	if err := admin.Create(t.Context(), &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: instance.Namespace, Name: "trust"},
		StringData: map[string]string{"token": "Bearer s3cret\n", "ca.crt": string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: listening.Certificate().Raw}))},
	}); err != nil {
		t.Fatal(err)
	}
	p.untilReady(t, instance)
	if got := instance.Status.Outputs; len(got) != 1 || got[0].Value != "https://acme.example.com/" {
		t.Errorf("outputs are %+v", got)
	}
	server.mu.Lock()
	if len(server.known) != 1 || len(server.keys[http.MethodPut]) != 1 || server.headers.Get("Authorization") != "Bearer s3cret" {
		t.Errorf("known %v, keys %v, headers %v", server.known, server.keys, server.headers)
	}
	server.refuse = true
	server.mu.Unlock()
	deleteInstance(t, instance)
	p.until(t, instance, func() bool { return stalled(instance, "out of order") })
	server.mu.Lock()
	server.refuse = false
	server.mu.Unlock()
	p.until(t, instance, func() bool { return false })
	nothingLeft(t, instance)
	if len(server.known) != 0 || len(server.keys[http.MethodDelete]) != 1 {
		t.Errorf("known %v, keys %v", server.known, server.keys)
	}
}

// Release of a step whose undoing fails for ever goes on when somebody says so.
func TestUndoingIsSkippedByHand(t *testing.T) {
	t.Parallel()
	p := start(t, &fault{})
	instance := buy(t, define(t, `
plans: [{name: small}]
access: {super: [{kind: ConfigMap}]}
steps:
- name: one
  manifests: {objects: [{id: x, template: {apiVersion: v1, kind: ConfigMap, metadata: {name: one}}}]}
`), nil)
	p.untilReady(t, instance)
	held := configMap(t, instance, "one")
	if err := admin.Patch(t.Context(), held, client.RawPatch("application/merge-patch+json", []byte(`{"metadata":{"finalizers":["example.com/held"]}}`))); err != nil {
		t.Fatal(err)
	}
	deleteInstance(t, instance)
	p.until(t, instance, func() bool {
		return len(instance.Status.Steps) == 1 && strings.Contains(instance.Status.Steps[0].Message, "its finalizers are [example.com/held]")
	})
	change(t, instance, func(spec *abmv1alpha1.ServiceInstanceSpec) {
		spec.Interventions = []abmv1alpha1.Intervention{{ID: "1", Step: "one", Action: abmv1alpha1.ActionSkip, By: "operator"}}
	})
	p.until(t, instance, func() bool { return false })
	if !strings.Contains(p.events.String(), "step one: was skipped by hand") {
		t.Errorf("release did not say so:\n%s", p.events)
	}
	if err := admin.Patch(t.Context(), held, client.RawPatch("application/merge-patch+json", []byte(`{"metadata":{"finalizers":null}}`))); err != nil {
		t.Fatal(err)
	}
}
