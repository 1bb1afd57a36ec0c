package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/log/zap"

	tenancyv1alpha1 "github.com/bulkhead-dev/bulkhead/api/tenancy/v1alpha1"
	"github.com/bulkhead-dev/bulkhead/internal/pki"
	"github.com/bulkhead-dev/bulkhead/internal/tenancy"
	"github.com/bulkhead-dev/bulkhead/internal/testenv"
	"github.com/bulkhead-dev/bulkhead/vn-agent/rbac"
	"github.com/bulkhead-dev/bulkhead/vn-agent/server"
)

const (
	nodeName = "node-1"
	// patience bounds every wait for something to come true.
	patience = 3 * time.Minute

	maxStreams, maxRequests = 3, 4
)

// env is what the tests share: a super cluster, two tenants' clusters with the same
// names in them, a kubelet that records, and the vn-agent under test between them.
var env *environment

// contextOfTests ends with the last test, for what is not one test's.
var contextOfTests context.Context

type environment struct {
	super     *testenv.Cluster
	a, b      *tenantCluster
	kubelet   *recordingKubelet
	kubeletCA *pki.CA
	servingCA *pki.CA
	// address of vn-agent towards tenants, and of its metrics.
	address, metrics string
	// ports are the agent's.
	ports []*testenv.Port
}

func TestMain(m *testing.M) {
	ctrl.SetLogger(zap.New(zap.WriteTo(os.Stderr)))
	os.Exit(withEnvironment(m))
}

func withEnvironment(m *testing.M) int {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	contextOfTests = ctx
	dir, err := os.MkdirTemp("", "vn-agent-test")
	if err == nil {
		defer func() { _ = os.RemoveAll(dir) }()
		env = &environment{}
		defer env.stop()
		err = env.start(ctx, dir)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}

func (e *environment) stop() {
	for _, cluster := range []*testenv.Cluster{e.super, e.a.cluster(), e.b.cluster()} {
		if cluster != nil {
			cluster.Stop()
		}
	}
}

func (e *environment) start(ctx context.Context, dir string) error {
	var err error
	if e.servingCA, err = pki.NewCA("vn-agent-serving-ca"); err != nil {
		return err
	}
	if e.kubeletCA, err = pki.NewCA("kubelet-serving-ca"); err != nil {
		return err
	}
	e.a = &tenantCluster{Tenant: tenancy.Tenant{Namespace: "team-a", Name: "demo"}}
	e.b = &tenantCluster{Tenant: tenancy.Tenant{Namespace: "team-b", Name: "demo"}}
	var group sync.WaitGroup
	failures := make([]error, 3)
	group.Go(func() { e.super, failures[0] = startCluster(ctx, dir, "super", testenv.Options{CRDs: true}) })
	group.Go(func() { failures[1] = e.a.start(ctx, dir, e.servingCA) })
	group.Go(func() { failures[2] = e.b.start(ctx, dir, e.servingCA) })
	group.Wait()
	if err := errors.Join(failures...); err != nil {
		return err
	}
	if e.kubelet, err = startKubelet(e.kubeletCA, "vn-agents-token"); err != nil {
		return err
	}
	if err := e.fillSuper(ctx); err != nil {
		return err
	}
	go e.signCertificates(ctx)
	if err := e.startAgent(ctx, dir); err != nil {
		return err
	}
	for _, tenant := range []*tenantCluster{e.a, e.b} {
		if err := tenant.fill(ctx, e.address); err != nil {
			return err
		}
		if err := e.fillSuperFor(ctx, tenant); err != nil {
			return err
		}
	}
	e.kubelet.usage = e.usage
	return e.waitServed(ctx)
}

func startCluster(ctx context.Context, dir, name string, options testenv.Options) (*testenv.Cluster, error) {
	path := filepath.Join(dir, name)
	if err := os.MkdirAll(path, 0o700); err != nil {
		return nil, err
	}
	return testenv.Start(ctx, path, options)
}

func makeNode(ctx context.Context, c client.Client, name string, kubeletPort int) error {
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}
	if err := c.Create(ctx, node); err != nil {
		return err
	}
	node.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeHostName, Address: name}, {Type: corev1.NodeInternalIP, Address: "127.0.0.1"}}
	node.Status.DaemonEndpoints.KubeletEndpoint.Port = int32(kubeletPort)
	return c.Status().Update(ctx, node)
}

func pod(namespace, name, node string) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name},
		Spec:       corev1.PodSpec{NodeName: node, Containers: []corev1.Container{{Name: "app", Image: "app"}, {Name: "missing", Image: "app"}}},
	}
}

// fillSuper makes what the super cluster's administrators and vc-manager would have.
func (e *environment) fillSuper(ctx context.Context) error {
	if err := makeNode(ctx, e.super.Client, nodeName, e.kubelet.port); err != nil {
		return err
	}
	for _, object := range []client.Object{
		&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "bulkhead-system"}},
		&corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "bulkhead-system", Name: "vn-agent"}},
		&rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: "vn-agent"}, Rules: rbac.SuperRules()},
		&rbacv1.ClusterRoleBinding{
			ObjectMeta: metav1.ObjectMeta{Name: "vn-agent"},
			RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "vn-agent"},
			Subjects:   []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Namespace: "bulkhead-system", Name: "vn-agent"}},
		},
	} {
		if err := e.super.Client.Create(ctx, object); err != nil {
			return err
		}
	}
	for _, tenant := range []*tenantCluster{e.a, e.b} {
		if err := e.makeVirtualCluster(ctx, tenant, tenant.ca); err != nil {
			return err
		}
	}
	return nil
}

// makeVirtualCluster makes a tenant known with a Secret that vn-agent may read.
func (e *environment) makeVirtualCluster(ctx context.Context, tenant *tenantCluster, ca *pki.CA) error {
	namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: tenant.Namespace}}
	if err := client.IgnoreAlreadyExists(e.super.Client.Create(ctx, namespace)); err != nil {
		return err
	}
	tenant.vc = &tenancyv1alpha1.VirtualCluster{ObjectMeta: metav1.ObjectMeta{Namespace: tenant.Namespace, Name: tenant.Name}}
	if err := e.super.Client.Create(ctx, tenant.vc); err != nil {
		return err
	}
	tenant.UID = tenant.vc.UID
	control := tenant.ControlPlaneNamespace()
	if err := e.super.Client.Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: control}}); err != nil {
		return err
	}
	secret, err := tenant.secret(ca)
	if err != nil {
		return err
	}
	for _, object := range []client.Object{
		secret,
		&rbacv1.Role{
			ObjectMeta: metav1.ObjectMeta{Namespace: control, Name: "vn-agent"},
			Rules:      []rbacv1.PolicyRule{{APIGroups: []string{""}, Resources: []string{"secrets"}, ResourceNames: []string{tenancy.VNAgentKubeconfigSecret}, Verbs: []string{"get"}}},
		},
		&rbacv1.RoleBinding{
			ObjectMeta: metav1.ObjectMeta{Namespace: control, Name: "vn-agent"},
			RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: "vn-agent"},
			Subjects:   []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Namespace: "bulkhead-system", Name: "vn-agent"}},
		},
	} {
		if err := e.super.Client.Create(ctx, object); err != nil {
			return err
		}
	}
	return nil
}

// fillSuperFor makes what the syncer would have for the tenant's pod.
func (e *environment) fillSuperFor(ctx context.Context, tenant *tenantCluster) error {
	namespace := tenant.SuperNamespace("web")
	if err := e.makeSuperNamespace(ctx, namespace); err != nil {
		return err
	}
	super := pod(namespace, "front", nodeName)
	tenancy.Mark(super, tenant.Tenant, tenancy.ManagedBySyncer, tenant.pod)
	return e.super.Client.Create(ctx, super)
}

func (e *environment) makeSuperNamespace(ctx context.Context, name string) error {
	if err := e.super.Client.Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}); err != nil {
		return err
	}
	return e.super.Client.Create(ctx, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: name, Name: "default"}})
}

// startAgent runs the program as its ServiceAccount, with nothing but the rights
// that the chart gives it.
func (e *environment) startAgent(ctx context.Context, dir string) error {
	clientset, err := kubernetes.NewForConfig(e.super.Config)
	if err != nil {
		return err
	}
	token, err := clientset.CoreV1().ServiceAccounts("bulkhead-system").CreateToken(ctx, "vn-agent", &authenticationv1.TokenRequest{}, metav1.CreateOptions{})
	if err != nil {
		return err
	}
	config := rest.AnonymousClientConfig(e.super.Config)
	config.BearerToken = token.Status.Token
	// A new apiserver grants discovery a moment after it is ready.
	agents, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	if err := eventually(ctx, func() error { _, err := agents.Discovery().ServerGroups(); return err }); err != nil {
		return fmt.Errorf("waiting for discovery: %w", err)
	}
	o := options{
		nodeName: nodeName, certificateDirectory: filepath.Join(dir, "certificate"),
		kubeletCA: filepath.Join(dir, "kubelet-ca.crt"), kubeletToken: filepath.Join(dir, "token"),
		resync: time.Hour, limits: server.Limits{Streams: maxStreams, Requests: maxRequests},
	}
	for _, address := range []*string{&o.bindAddress, &o.metricsAddress, &o.healthAddress} {
		port, err := testenv.ReservePort()
		if err != nil {
			return err
		}
		e.ports, *address = append(e.ports, port), port.Address()
	}
	if err := errors.Join(
		os.Mkdir(o.certificateDirectory, 0o700),
		os.WriteFile(o.kubeletCA, e.kubeletCA.Cert, 0o600),
		os.WriteFile(o.kubeletToken, []byte(e.kubelet.token+"\n"), 0o600),
	); err != nil {
		return err
	}
	e.address, e.metrics = o.bindAddress, o.metricsAddress
	a, err := newAgent(ctx, config, o)
	if err != nil {
		return err
	}
	go func() {
		if err := a.manager.Start(ctx); err != nil {
			fmt.Fprintln(os.Stderr, "vn-agent ended:", err)
		}
	}()
	return eventually(ctx, func() error {
		response, err := http.Get("http://" + o.healthAddress + "/readyz")
		if err != nil {
			return err
		}
		defer func() { _ = response.Body.Close() }()
		if response.StatusCode != http.StatusOK {
			return fmt.Errorf("readyz: %s", response.Status)
		}
		return nil
	})
}

// waitServed returns when both tenants' pods are reached.
func (e *environment) waitServed(ctx context.Context) error {
	for _, tenant := range []*tenantCluster{e.a, e.b} {
		c, err := e.httpClient(tenant.client)
		if err != nil {
			return err
		}
		if err := eventually(ctx, func() error {
			response, err := c.Get("https://" + e.address + "/containerLogs/web/front/app")
			if err != nil {
				return err
			}
			defer func() { _ = response.Body.Close() }()
			if response.StatusCode != http.StatusOK {
				return errors.New(response.Status)
			}
			return nil
		}); err != nil {
			return err
		}
	}
	return nil
}

// httpClient shows vn-agent this certificate.
func (e *environment) httpClient(pair pki.Pair) (*http.Client, error) {
	config := &tls.Config{RootCAs: x509.NewCertPool()}
	config.RootCAs.AppendCertsFromPEM(e.servingCA.Cert)
	if len(pair.Cert) > 0 {
		certificate, err := tls.X509KeyPair(pair.Cert, pair.Key)
		if err != nil {
			return nil, err
		}
		// Shown whatever CAs the server says it knows.
		config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &certificate, nil }
	}
	return &http.Client{
		Transport:     &http.Transport{TLSClientConfig: config, DisableKeepAlives: true},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}, nil
}

// eventually tries until f has no error, and returns the last one otherwise.
func eventually(ctx context.Context, f func() error) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	var last error
	if err := wait.PollUntilContextCancel(ctx, 50*time.Millisecond, true, func(context.Context) (bool, error) {
		last = f()
		return last == nil, nil
	}); err != nil {
		return fmt.Errorf("%w: %w", err, last)
	}
	return nil
}
