// Package testenv runs real etcd, kube-apiserver and, where asked for,
// kube-controller-manager processes for tests, from the project's own hyperkube
// binary. Nothing in it is a fake; everything it starts listens on loopback with
// TLS and ends with the test.
package testenv

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/runtime"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/envtest"

	tenancyv1alpha1 "github.com/bulkhead-dev/bulkhead/api/tenancy/v1alpha1"
	"github.com/bulkhead-dev/bulkhead/internal/kubeconfig"
	"github.com/bulkhead-dev/bulkhead/internal/pki"
)

// startTimeout bounds the start of one process on a loaded two-core machine.
const startTimeout = 5 * time.Minute

// Options choose what a Cluster runs.
type Options struct {
	// ControllerManager runs one too: namespaces get finalized, garbage collected,
	// and have their default ServiceAccount. It does no node lifecycle.
	ControllerManager bool
	// CRDs installs the project's CustomResourceDefinitions, making it a super cluster.
	CRDs bool
	// ServiceCIDR of the cluster; 10.96.0.0/16 if empty.
	ServiceCIDR string
	// APIServerArgs are added to kube-apiserver's command line.
	APIServerArgs []string
}

// Cluster is a running control plane without nodes.
type Cluster struct {
	// Config is a client configuration of a cluster administrator.
	Config *rest.Config
	// Client reads and writes straight through, without a cache.
	Client client.Client
	// Kubeconfig is the same identity as Config, as a kubeconfig file's content.
	Kubeconfig []byte
	// CA signs the client certificates the apiserver trusts.
	CA *pki.CA
	// Dir holds certificates and logs.
	Dir string

	hyperkube string
	urls      urls
	ports     []*Port
	processes map[string]*process
}

type urls struct{ etcd, etcdPeer, apiserver int }

// Scheme knows Kubernetes' own kinds and the project's.
func Scheme() *runtime.Scheme {
	scheme := runtime.NewScheme()
	utilruntime.Must(clientgoscheme.AddToScheme(scheme))
	utilruntime.Must(apiextensionsv1.AddToScheme(scheme))
	utilruntime.Must(tenancyv1alpha1.AddToScheme(scheme))
	return scheme
}

// New starts a cluster that ends with the test.
func New(t testing.TB, options Options) *Cluster {
	t.Helper()
	cluster, err := Start(t.Context(), t.TempDir(), options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cluster.Stop)
	return cluster
}

// Start starts a cluster whose files lie in dir, for a TestMain that shares one
// among tests. The caller stops it.
func Start(ctx context.Context, dir string, options Options) (*Cluster, error) {
	hyperkube, err := Program("hyperkube")
	if err != nil {
		return nil, err
	}
	if options.ServiceCIDR == "" {
		options.ServiceCIDR = "10.96.0.0/16"
	}
	c := &Cluster{Dir: dir, hyperkube: hyperkube, processes: map[string]*process{}}
	for _, into := range []*int{&c.urls.etcd, &c.urls.etcdPeer, &c.urls.apiserver} {
		port, err := ReservePort()
		if err != nil {
			return nil, err
		}
		// Never released: a stopped cluster may be started again at its address.
		c.ports, *into = append(c.ports, port), port.Number
	}
	if err := c.start(ctx, options); err != nil {
		c.Stop()
		return nil, err
	}
	return c, nil
}

func (c *Cluster) start(ctx context.Context, options Options) error {
	if err := c.writeCertificates(); err != nil {
		return err
	}
	if err := c.run("etcd", c.etcdArgs()); err != nil {
		return err
	}
	if err := c.run("kube-apiserver", append(c.apiserverArgs(options.ServiceCIDR), options.APIServerArgs...)); err != nil {
		return err
	}
	if err := c.connect(); err != nil {
		return err
	}
	if err := c.waitReady(ctx); err != nil {
		return err
	}
	if options.ControllerManager {
		// It gives up on an apiserver that is not healthy within 10 seconds, hence not earlier.
		if err := c.run("kube-controller-manager", c.controllerManagerArgs()); err != nil {
			return err
		}
		if err := c.waitReady(ctx); err != nil {
			return err
		}
	}
	if options.CRDs {
		if err := c.installCRDs(); err != nil {
			return err
		}
	}
	return nil
}

// KillAPIServer ends kube-apiserver as kill -9 does and returns when it is gone.
func (c *Cluster) KillAPIServer() { c.processes["kube-apiserver"].stop() }

// StartAPIServer starts kube-apiserver again after KillAPIServer, at the same address.
func (c *Cluster) StartAPIServer(ctx context.Context, options Options) error {
	if options.ServiceCIDR == "" {
		options.ServiceCIDR = "10.96.0.0/16"
	}
	if err := c.run("kube-apiserver", append(c.apiserverArgs(options.ServiceCIDR), options.APIServerArgs...)); err != nil {
		return err
	}
	return c.waitReady(ctx)
}

// Stop ends all processes; it may be called twice.
func (c *Cluster) Stop() {
	for _, name := range []string{"kube-controller-manager", "kube-apiserver", "etcd"} {
		if p := c.processes[name]; p != nil {
			p.stop()
		}
	}
}

func (c *Cluster) connect() error {
	pair, err := c.CA.Issue(pki.Leaf{CommonName: "testenv-admin", Organizations: []string{"system:masters"}, Usage: pki.Client})
	if err != nil {
		return err
	}
	c.Kubeconfig, err = kubeconfig.Encode(kubeconfig.Config{
		Name: "testenv", Server: c.server(), CA: c.CA.Cert, User: "testenv-admin", Client: pair,
	})
	if err != nil {
		return err
	}
	if err := os.WriteFile(c.path("admin.kubeconfig"), c.Kubeconfig, 0o600); err != nil {
		return fmt.Errorf("writing the test cluster's kubeconfig: %w", err)
	}
	if c.Config, err = kubeconfig.RESTConfig(c.Kubeconfig); err != nil {
		return err
	}
	c.Config.QPS, c.Config.Burst = 1000, 2000
	// NewWithWatch maps kinds lazily, so it works before the apiserver answers.
	if c.Client, err = client.New(c.Config, client.Options{Scheme: Scheme()}); err != nil {
		return fmt.Errorf("making a client of the test cluster: %w", err)
	}
	return nil
}

func (c *Cluster) installCRDs() error {
	root, err := Root()
	if err != nil {
		return err
	}
	if _, err := envtest.InstallCRDs(c.Config, envtest.CRDInstallOptions{
		Paths:              []string{filepath.Join(root, "charts", "bulkhead", "files", "crds")},
		ErrorIfPathMissing: true,
	}); err != nil {
		return fmt.Errorf("installing the project's CRDs: %w", err)
	}
	return nil
}

func (c *Cluster) server() string { return "https://127.0.0.1:" + strconv.Itoa(c.urls.apiserver) }

func (c *Cluster) path(name string) string { return filepath.Join(c.Dir, name) }

// Root is the folder of the project's go.mod, found upwards from the test's folder.
func Root() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", fmt.Errorf("finding the project's root: %w", err)
	}
	for ; dir != filepath.Dir(dir); dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "charts", "bulkhead")); err == nil {
			return dir, nil
		}
	}
	return "", errors.New("no project root above the test's folder")
}

// Program is the path of one of the project's built programs in bin/. Tests do not
// build: `make test` has.
func Program(name string) (string, error) {
	root, err := Root()
	if err != nil {
		return "", err
	}
	path := filepath.Join(root, "bin", name)
	if _, err := os.Stat(path); err != nil {
		return "", fmt.Errorf("%s is not built: run `make build` first: %w", name, err)
	}
	return path, nil
}
