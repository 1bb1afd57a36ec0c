package main

import (
	"context"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/go-logr/logr"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/log/zap"
	"sigs.k8s.io/controller-runtime/pkg/metrics"

	"github.com/bulkhead-dev/bulkhead/internal/feed"
	"github.com/bulkhead-dev/bulkhead/internal/kubeconfig"
	"github.com/bulkhead-dev/bulkhead/internal/pki"
	"github.com/bulkhead-dev/bulkhead/internal/ruleset"
	"github.com/bulkhead-dev/bulkhead/internal/tenancy"
	"github.com/bulkhead-dev/bulkhead/internal/testenv"
	"github.com/bulkhead-dev/bulkhead/tenant-proxy/rbac"
)

const (
	nodeName = "node-1"
	// patience bounds every wait for something to come true.
	patience = 3 * time.Minute
	// serviceCIDR is the same in all tenants.
	serviceCIDR = "10.96.0.0/16"
)

// env is what the tests share: a super cluster and two tenants' clusters that have
// the same names and addresses in them.
var env *environment

type environment struct {
	super *testenv.Cluster
	a, b  *tenantCluster
	// config is that of tenant-proxy's ServiceAccount, with the rights of the chart.
	config *rest.Config
}

// tenantCluster is a tenant and its own cluster.
type tenantCluster struct {
	tenancy.Tenant
	*testenv.Cluster
}

func TestMain(m *testing.M) {
	ctrl.SetLogger(zap.New(zap.WriteTo(os.Stderr)))
	os.Exit(withEnvironment(m))
}

func withEnvironment(m *testing.M) int {
	dir, err := os.MkdirTemp("", "tenant-proxy-test-")
	if err == nil {
		defer func() { _ = os.RemoveAll(dir) }()
		env = &environment{}
		defer env.stop()
		err = env.start(context.Background(), dir)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}

func (e *environment) stop() {
	for _, cluster := range []*testenv.Cluster{e.super, e.a.Cluster, e.b.Cluster} {
		if cluster != nil {
			cluster.Stop()
		}
	}
}

func (e *environment) start(ctx context.Context, dir string) error {
	e.a = &tenantCluster{Tenant: tenancy.Tenant{UID: "uid-of-a", Namespace: "team-a", Name: "demo"}}
	e.b = &tenantCluster{Tenant: tenancy.Tenant{UID: "uid-of-b", Namespace: "team-b", Name: "demo"}}
	options := testenv.Options{ServiceCIDR: serviceCIDR}
	clusters, err := testenv.StartAll(ctx, dir, options, options, options)
	if err != nil {
		return err
	}
	e.super, e.a.Cluster, e.b.Cluster = clusters[0], clusters[1], clusters[2]
	for _, object := range append(grants(rbac.SuperRules(), "tenant-proxy", rbacv1.Subject{Kind: rbacv1.ServiceAccountKind, Namespace: "bulkhead-system", Name: "tenant-proxy"}),
		&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "bulkhead-system"}},
		&corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "bulkhead-system", Name: "tenant-proxy"}},
		&corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "bulkhead-system", Name: "default"}},
		&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: nodeName, Labels: map[string]string{corev1.LabelTopologyZone: "zone-1"}}},
	) {
		if err := e.super.Client.Create(ctx, object); err != nil {
			return err
		}
	}
	for _, tenant := range []*tenantCluster{e.a, e.b} {
		if err := e.introduce(ctx, tenant); err != nil {
			return err
		}
		subject := rbacv1.Subject{Kind: rbacv1.UserKind, APIGroup: rbacv1.GroupName, Name: tenancy.UserTenantProxy}
		for _, object := range append(grants(rbac.TenantRules(), tenancy.UserTenantProxy, subject), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "web"}}) {
			if err := tenant.Client.Create(ctx, object); err != nil {
				return err
			}
		}
	}
	e.config, err = e.serviceAccount(ctx)
	return err
}

func grants(rules []rbacv1.PolicyRule, name string, subject rbacv1.Subject) []client.Object {
	return []client.Object{
		&rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: name}, Rules: rules},
		&rbacv1.ClusterRoleBinding{
			ObjectMeta: metav1.ObjectMeta{Name: name}, Subjects: []rbacv1.Subject{subject},
			RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: name},
		},
	}
}

// introduce makes in the super cluster what vc-manager and syncer would have.
func (e *environment) introduce(ctx context.Context, tenant *tenantCluster) error {
	control := tenant.ControlPlaneNamespace()
	plane := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: control}}
	tenancy.MarkTenant(plane, tenant.Tenant, tenancy.ManagedByManager)
	plane.Labels[tenancy.LabelControlPlane] = "true"
	web := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: tenant.SuperNamespace("web")}}
	tenancy.Mark(web, tenant.Tenant, tenancy.ManagedBySyncer, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "web", UID: "uid-of-web"}})
	secret, err := tenant.secret()
	if err != nil {
		return err
	}
	for _, object := range []client.Object{
		plane, web,
		&corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: web.Name, Name: "default"}},
		&corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: control, Name: "default"}},
		secret,
		&rbacv1.Role{
			ObjectMeta: metav1.ObjectMeta{Namespace: control, Name: secret.Name},
			Rules:      []rbacv1.PolicyRule{{APIGroups: []string{""}, Resources: []string{"secrets"}, ResourceNames: []string{secret.Name}, Verbs: []string{"get"}}},
		},
		&rbacv1.RoleBinding{
			ObjectMeta: metav1.ObjectMeta{Namespace: control, Name: secret.Name},
			RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: secret.Name},
			Subjects:   []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Namespace: "bulkhead-system", Name: "tenant-proxy"}},
		},
	} {
		if err := e.super.Client.Create(ctx, object); err != nil {
			return err
		}
	}
	return nil
}

// secret is what vc-manager makes, with a new certificate each time.
func (t *tenantCluster) secret() (*corev1.Secret, error) {
	pair, err := t.CA.Issue(pki.Leaf{CommonName: tenancy.UserTenantProxy, Usage: pki.Client})
	if err != nil {
		return nil, err
	}
	data, err := kubeconfig.Encode(kubeconfig.Config{Name: t.Name, Server: t.Config.Host, CA: t.CA.Cert, User: tenancy.UserTenantProxy, Client: pair})
	if err != nil {
		return nil, err
	}
	secret := &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: t.ControlPlaneNamespace(), Name: tenancy.TenantProxyKubeconfigSecret},
		Data:       map[string][]byte{tenancy.KubeconfigKey: data, tenancy.ServiceCIDRKey: []byte(serviceCIDR)},
	}
	tenancy.MarkTenant(secret, t.Tenant, tenancy.ManagedByManager)
	return secret, nil
}

func (e *environment) serviceAccount(ctx context.Context) (*rest.Config, error) {
	clientset, err := kubernetes.NewForConfig(e.super.Config)
	if err != nil {
		return nil, err
	}
	token, err := clientset.CoreV1().ServiceAccounts("bulkhead-system").CreateToken(ctx, "tenant-proxy", &authenticationv1.TokenRequest{}, metav1.CreateOptions{})
	if err != nil {
		return nil, err
	}
	config := rest.AnonymousClientConfig(e.super.Config)
	config.BearerToken = token.Status.Token
	// A new apiserver grants discovery a moment after it is ready.
	proxies, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, err
	}
	return config, eventually(ctx, func() error { _, err := proxies.Discovery().ServerGroups(); return err })
}

// superPod is a tenant's pod as the syncer puts it on the node.
func superPod(t *testing.T, tenant *tenantCluster, name string) *corev1.Pod {
	t.Helper()
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: tenant.SuperNamespace("web"), Name: name},
		Spec:       corev1.PodSpec{NodeName: nodeName, Containers: []corev1.Container{{Name: "app", Image: "app"}}},
	}
	tenancy.Mark(pod, tenant.Tenant, tenancy.ManagedBySyncer, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "web", Name: name, UID: "uid"}})
	create(t, env.super, pod)
	t.Cleanup(func() { remove(t, env.super, pod) })
	return pod
}

func create(t *testing.T, cluster *testenv.Cluster, object client.Object) {
	t.Helper()
	if err := cluster.Client.Create(t.Context(), object); err != nil {
		t.Fatal(err)
	}
}

// remove deletes an object at once; it may be gone. It is also called at a test's end.
func remove(t *testing.T, cluster *testenv.Cluster, object client.Object) {
	t.Helper()
	if err := client.IgnoreNotFound(cluster.Client.Delete(context.Background(), object, client.GracePeriodSeconds(0))); err != nil {
		t.Error(err)
	}
}

// nodeHost is cri-ext's end of the feed: a real server on a real socket, with a
// receiver that keeps what it is told.
type nodeHost struct {
	server *feed.Server
	socket string

	mu        sync.Mutex
	pods      map[types.UID]feed.Pod
	complete  bool
	rules     map[types.UID]*ruleset.Set
	pending   map[types.UID]string
	forgotten map[types.UID]bool
	trigger   map[types.UID]time.Time
	deltas    int
}

func newNodeHost(t *testing.T) *nodeHost {
	t.Helper()
	h := &nodeHost{
		socket: filepath.Join(t.TempDir(), "feed.sock"),
		pods:   map[types.UID]feed.Pod{}, rules: map[types.UID]*ruleset.Set{}, pending: map[types.UID]string{},
		forgotten: map[types.UID]bool{}, trigger: map[types.UID]time.Time{},
	}
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: h.socket, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	h.server = feed.NewServer(h, func() ([]byte, error) { return []byte("cri_ext_up 1\n"), nil }, uint32(os.Getuid()), logr.Discard())
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := h.server.Serve(ctx, listener); err != nil {
			t.Error(err)
		}
	}()
	t.Cleanup(func() { cancel(); <-done })
	return h
}

func (h *nodeHost) locked(f func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	f()
}

func (h *nodeHost) Connected()    { h.locked(func() { clear(h.pods); h.complete = false }) }
func (h *nodeHost) Disconnected() {}
func (h *nodeHost) PutPod(pod feed.Pod) error {
	h.locked(func() { h.pods[pod.UID] = pod })
	return nil
}
func (h *nodeHost) RemovePod(uid types.UID) { h.locked(func() { delete(h.pods, uid) }) }
func (h *nodeHost) PodsComplete()           { h.locked(func() { h.complete = true }) }
func (h *nodeHost) Held() (all []feed.Held) {
	h.locked(func() {
		for tenant, set := range h.rules {
			all = append(all, feed.Held{Tenant: tenant, Generation: set.Generation(), Digest: set.Digest()})
		}
	})
	return all
}
func (h *nodeHost) Rules(tenant types.UID) (set *ruleset.Set) {
	h.locked(func() { set = h.rules[tenant] })
	return set
}
func (h *nodeHost) PutRules(set *ruleset.Set, delta *ruleset.Delta, trigger time.Time) error {
	h.locked(func() {
		h.rules[set.Tenant()] = set
		delete(h.forgotten, set.Tenant())
		if delta != nil {
			h.deltas++
		}
		if !trigger.IsZero() {
			h.trigger[set.Tenant()] = trigger
		}
	})
	return nil
}
func (h *nodeHost) SetPending(tenant types.UID, reason string) error {
	h.locked(func() { h.pending[tenant] = reason })
	return nil
}
func (h *nodeHost) Forget(tenant types.UID) {
	h.locked(func() { delete(h.rules, tenant); h.forgotten[tenant] = true })
}

// endpoints are those of a frontend in what the node has of a tenant; nil if there
// is no such rule.
func (h *nodeHost) endpoints(tenant *tenantCluster, frontend string) []netip.AddrPort {
	set := h.Rules(tenant.UID)
	if set == nil {
		return nil
	}
	at := netip.MustParseAddrPort(frontend)
	service, found := set.Find(ruleset.Key{Addr: at.Addr(), Protocol: ruleset.TCP, Port: at.Port()})
	switch {
	case !found:
		return nil
	case len(service.Endpoints) == 0:
		return []netip.AddrPort{}
	}
	return service.Endpoints
}

// awaitEndpoints waits until a frontend leads to these endpoints; none is a frontend
// that refuses, "gone" one that is not there.
func (h *nodeHost) awaitEndpoints(t *testing.T, tenant *tenantCluster, frontend string, want ...string) {
	t.Helper()
	await(t, func() error {
		got := h.endpoints(tenant, frontend)
		if slices.Equal(want, []string{"gone"}) {
			if got != nil {
				return fmt.Errorf("%s still leads to %v", frontend, got)
			}
			return nil
		}
		var texts []string
		for _, endpoint := range got {
			texts = append(texts, endpoint.String())
		}
		if got == nil || !slices.Equal(texts, want) {
			return fmt.Errorf("%s of tenant %s leads to %v, want %v", frontend, tenant.UID, got, want)
		}
		return nil
	})
}

// running is a tenant-proxy under test.
type running struct {
	*proxy
	options options
	stop    func()
}

// startProxy runs the program as its ServiceAccount until the test ends or stop is
// called.
func startProxy(t *testing.T, host *nodeHost, change func(*options)) *running {
	t.Helper()
	o := options{nodeName: nodeName, socket: host.socket, linger: time.Hour, resync: time.Hour, debounce: 20 * time.Millisecond}
	for _, address := range []*string{&o.metricsAddress, &o.healthAddress} {
		*address = testenv.FreeAddress(t)
	}
	if change != nil {
		change(&o)
	}
	if err := o.check(); err != nil {
		t.Fatal(err)
	}
	p, err := newProxy(env.config, o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := p.manager.Start(ctx); err != nil {
			t.Error(err)
		}
	}()
	var once sync.Once
	r := &running{proxy: p, options: o, stop: func() {
		once.Do(func() {
			cancel()
			<-done
			for _, collector := range p.collectors {
				metrics.Registry.Unregister(collector)
			}
		})
	}}
	t.Cleanup(r.stop)
	return r
}

func await(t *testing.T, f func() error) {
	t.Helper()
	if err := eventually(t.Context(), f); err != nil {
		t.Fatal(err)
	}
}

// eventually tries until f has no error, and returns the last one otherwise.
func eventually(ctx context.Context, f func() error) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	var last error
	if err := wait.PollUntilContextCancel(ctx, 20*time.Millisecond, true, func(context.Context) (bool, error) {
		last = f()
		return last == nil, nil
	}); err != nil {
		return fmt.Errorf("%w: %w", err, last)
	}
	return nil
}

func (h *nodeHost) podNames() (names []string) {
	h.locked(func() {
		for pod := range maps.Values(h.pods) {
			names = append(names, pod.Namespace+"/"+pod.Name)
		}
	})
	slices.Sort(names)
	return names
}
