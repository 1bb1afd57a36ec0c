package tenantcluster

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/bulkhead-dev/bulkhead/internal/kubeconfig"
	"github.com/bulkhead-dev/bulkhead/internal/pki"
	"github.com/bulkhead-dev/bulkhead/internal/tenancy"
	"github.com/bulkhead-dev/bulkhead/internal/testenv"
	"github.com/bulkhead-dev/bulkhead/vc-manager/bootstrap"
)

// tenant is a real tenant's cluster that the tests share.
var (
	tenant  *testenv.Cluster
	options = testenv.Options{ControllerManager: true}
)

func TestMain(m *testing.M) { os.Exit(testMain(m)) }

func testMain(m *testing.M) int {
	dir, err := os.MkdirTemp("", "tenantcluster-test-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	if tenant, err = testenv.Start(context.Background(), dir, options); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer tenant.Stop()
	return m.Run()
}

// address is where the tenant's apiserver listens.
func address(t *testing.T) netip.AddrPort {
	t.Helper()
	address, err := netip.ParseAddrPort(strings.TrimPrefix(tenant.Config.Host, "https://"))
	if err != nil {
		t.Fatal(err)
	}
	return address
}

// target reaches the tenant's apiserver under a name that no DNS knows.
func target(t *testing.T) Target {
	t.Helper()
	pair, err := tenant.CA.Issue(pki.Leaf{CommonName: "vc-manager", Organizations: []string{"system:masters"}, Usage: pki.Client})
	if err != nil {
		t.Fatal(err)
	}
	config, err := kubeconfig.Encode(kubeconfig.Config{
		Name: "demo", Server: "https://kubernetes.default.svc:6443", CA: tenant.CA.Cert, User: "vc-manager", Client: pair,
	})
	if err != nil {
		t.Fatal(err)
	}
	return Target{Kubeconfig: config, Address: address(t), External: "localhost", Bootstrap: bootstrap.Input{
		// A range of testenv's own cluster.
		DNS: bootstrap.DNS{Address: netip.MustParseAddr("10.96.0.10"), Domain: "cluster.local", Image: "coredns:v1"},
	}}
}

// watching is a Watcher with one tenant; told counts its notifications.
type watching struct {
	*Watcher
	told chan types.NamespacedName
}

const uid = types.UID("tenant-uid")

var cluster = types.NamespacedName{Namespace: "team", Name: "demo"}

func watch(t *testing.T, dialer Dialer, target Target) *watching {
	t.Helper()
	told := make(chan types.NamespacedName, 1000)
	w := &watching{told: told, Watcher: NewWatcher(dialer, func(cluster types.NamespacedName) { told <- cluster })}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- w.Start(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil { // returns when all goroutines have
			t.Error(err)
		}
		if err := w.Watch("late", cluster, target); err == nil {
			t.Error("a watcher that has ended watches a new tenant")
		}
	})
	if err := w.Watch(uid, cluster, target); err != nil {
		t.Fatal(err)
	}
	return w
}

// sees waits until an observation satisfies want.
func (w *watching) sees(t *testing.T, want func(Observation) bool) Observation {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var seen Observation
	err := wait.PollUntilContextCancel(ctx, 20*time.Millisecond, true, func(context.Context) (bool, error) {
		var ok bool
		seen, ok = w.Observation(uid)
		return ok && want(seen), nil
	})
	if err != nil {
		t.Fatalf("%v; last seen: %+v", err, seen)
	}
	return seen
}

func TestTheWholeWay(t *testing.T) {
	target := target(t)
	target.Bootstrap.MetricsServer, target.Bootstrap.ClusterCA = netip.MustParseAddr("10.77.0.9"), string(tenant.CA.Cert)
	w := watch(t, new(net.Dialer), target)
	seen := w.sees(t, Observation.healthy)
	if !strings.HasPrefix(seen.Version, "v1.") {
		t.Errorf("version %q", seen.Version)
	}
	if told := <-w.told; told != cluster {
		t.Errorf("told of %s", told)
	}
	for _, object := range bootstrap.Objects(target.Bootstrap) {
		if err := tenant.Client.Get(t.Context(), client.ObjectKeyFromObject(object), object); err != nil {
			t.Error(err)
		}
	}

	// A class without metrics-server takes it away again.
	target.Bootstrap.MetricsServer = netip.Addr{}
	if err := w.Watch(uid, cluster, target); err != nil {
		t.Fatal(err)
	}
	w.sees(t, Observation.healthy)
	apiService := &unstructured.Unstructured{Object: map[string]any{"apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService"}}
	if err := tenant.Client.Get(t.Context(), client.ObjectKey{Name: "v1beta1.metrics.k8s.io"}, apiService); !apierrors.IsNotFound(err) {
		t.Errorf("the APIService is left: %v", err)
	}
	slice := &discoveryv1.EndpointSlice{}
	if err := tenant.Client.Get(t.Context(), client.ObjectKey{Namespace: "kube-system", Name: "metrics-server"}, slice); !apierrors.IsNotFound(err) {
		t.Errorf("the EndpointSlice is left: %v", err)
	}
}

func TestWhatTheTenantChangedIsSetBack(t *testing.T) {
	w := watch(t, new(net.Dialer), target(t))
	w.sees(t, Observation.healthy)
	role := &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: tenancy.UserSyncer}}
	key := client.ObjectKeyFromObject(role)
	want := 0
	testenv.Change(t, tenant.Client, role, func() { want, role.Rules = len(role.Rules), nil })
	again := watch(t, new(net.Dialer), target(t))
	again.sees(t, Observation.healthy)
	if err := tenant.Client.Get(t.Context(), key, role); err != nil || len(role.Rules) != want {
		t.Errorf("%d rules, want %d (%v)", len(role.Rules), want, err)
	}
}

// DNS is a setting of the tenant's in one thing, and the platform's in all others.
func TestTheCorefileIsTheTenants(t *testing.T) {
	watch(t, new(net.Dialer), target(t)).sees(t, Observation.healthy)
	key := client.ObjectKey{Namespace: "kube-system", Name: "coredns"}
	named := metav1.ObjectMeta{Namespace: key.Namespace, Name: key.Name}
	corefile, deployment := &corev1.ConfigMap{ObjectMeta: named}, &appsv1.Deployment{ObjectMeta: named}
	testenv.Change(t, tenant.Client, corefile, func() {
		corefile.Data["Corefile"], corefile.Labels["k8s-app"] = "the tenant's own", "changed"
	}, client.FieldOwner("kubectl-edit"))
	// The tenant's controller-manager writes to it at the same time.
	image := ""
	testenv.Change(t, tenant.Client, deployment, func() {
		container := &deployment.Spec.Template.Spec.Containers[0]
		image, container.Image = container.Image, "another"
	}, client.FieldOwner("kubectl-edit"))
	// More than once: what is not ours any more does not become so.
	for range 2 {
		watch(t, new(net.Dialer), target(t)).sees(t, Observation.healthy)
	}
	for _, object := range []client.Object{corefile, deployment} {
		if err := tenant.Client.Get(t.Context(), key, object); err != nil {
			t.Fatal(err)
		}
	}
	if corefile.Data["Corefile"] != "the tenant's own" || corefile.Labels["k8s-app"] != "kube-dns" || len(corefile.Data) != 1 {
		t.Errorf("the ConfigMap has %v, %v", corefile.Data, corefile.Labels)
	}
	if got := deployment.Spec.Template.Spec.Containers[0].Image; got != image {
		t.Errorf("the image stays %s", got)
	}
	// One that is lost comes back as ours.
	if err := tenant.Client.Delete(t.Context(), corefile); err != nil {
		t.Fatal(err)
	}
	watch(t, new(net.Dialer), target(t)).sees(t, Observation.healthy)
	if err := tenant.Client.Get(t.Context(), key, corefile); err != nil || !strings.Contains(corefile.Data["Corefile"], "kubernetes cluster.local") {
		t.Errorf("%v, %v", corefile.Data, err)
	}
}

func TestAnAPIServerThatDiesAndComesBack(t *testing.T) {
	w := watch(t, new(net.Dialer), target(t))
	w.sees(t, Observation.healthy)
	tenant.KillAPIServer()
	w.Look(uid)
	w.sees(t, func(o Observation) bool { return o.Read != nil })
	if err := tenant.StartAPIServer(t.Context(), options); err != nil {
		t.Fatal(err)
	}
	w.sees(t, Observation.healthy)
	if len(w.told) < 3 {
		t.Errorf("told %d times, want of each of 3 changes", len(w.told))
	}
}

func TestTheServerIsVerified(t *testing.T) {
	other, err := pki.NewCA("other")
	if err != nil {
		t.Fatal(err)
	}
	pair, err := other.Issue(pki.Leaf{CommonName: "vc-manager", Usage: pki.Client})
	if err != nil {
		t.Fatal(err)
	}
	encode := func(c kubeconfig.Config) []byte {
		c.Name, c.User, c.Client = "demo", "vc-manager", pair
		config, err := kubeconfig.Encode(c)
		if err != nil {
			t.Fatal(err)
		}
		return config
	}
	for name, config := range map[string][]byte{
		"signed by another":       encode(kubeconfig.Config{Server: "https://kubernetes.default.svc:6443", CA: other.Cert}),
		"for another host":        encode(kubeconfig.Config{Server: "https://kube-apiserver.another.svc:6443", CA: tenant.CA.Cert}),
		"of a user without right": encode(kubeconfig.Config{Server: "https://kubernetes.default.svc:6443", CA: tenant.CA.Cert}),
	} {
		t.Run(name, func(t *testing.T) {
			w := watch(t, new(net.Dialer), Target{Kubeconfig: config, Address: address(t)})
			if seen := w.sees(t, func(Observation) bool { return true }); seen.Read == nil {
				t.Errorf("it was read through: %+v", seen)
			}
		})
	}
}

func TestACertificateThatDoesNotYetCoverTheEndpoint(t *testing.T) {
	target := target(t)
	target.External = "demo.example.org"
	w := watch(t, new(net.Dialer), target)
	seen := w.sees(t, func(o Observation) bool { return o.Read == nil })
	if seen.External == nil || !strings.Contains(seen.External.Error(), "demo.example.org") {
		t.Errorf("%+v", seen)
	}
}

// silent accepts connections and never answers, as an apiserver that a hostile
// tenant has brought to its knees.
func silent(t *testing.T) netip.AddrPort {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	return listener.Addr().(*net.TCPAddr).AddrPort()
}

func TestASlowTenantHoldsUpNobodyElse(t *testing.T) {
	slow := target(t)
	slow.Address = silent(t)
	w := watch(t, new(net.Dialer), slow)
	other := types.NamespacedName{Namespace: "team", Name: "other"}
	if err := w.Watch("other-uid", other, target(t)); err != nil {
		t.Fatal(err)
	}
	err := wait.PollUntilContextTimeout(t.Context(), 20*time.Millisecond, time.Minute, true, func(context.Context) (bool, error) {
		seen, ok := w.Observation("other-uid")
		return ok && seen.healthy(), nil
	})
	if err != nil {
		t.Errorf("the other is not healthy: %v", err)
	}
	seen := w.sees(t, func(o Observation) bool { return o.Read != nil })
	if !errors.Is(seen.Read, context.DeadlineExceeded) && !strings.Contains(seen.Read.Error(), "imeout") {
		t.Errorf("a silent server: %v", seen.Read)
	}
}

func TestForget(t *testing.T) {
	w := watch(t, new(net.Dialer), target(t))
	w.sees(t, Observation.healthy)
	w.Forget(uid)
	if _, ok := w.Observation(uid); ok {
		t.Error("a forgotten tenant is still observed")
	}
	w.Look(uid) // of no effect
}

func TestABadKubeconfigIsRefused(t *testing.T) {
	w := NewWatcher(new(net.Dialer), func(types.NamespacedName) {})
	if err := w.Watch(uid, cluster, Target{Kubeconfig: []byte("users: [{user: {exec: {command: sh}}}]")}); err == nil {
		t.Error("no error")
	}
}
