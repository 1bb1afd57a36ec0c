package controller

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime/pprof"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"k8s.io/utils/ptr"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/config"
	"sigs.k8s.io/controller-runtime/pkg/log/zap"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"

	"github.com/bulkhead-dev/bulkhead/internal/kubeconfig"
	"github.com/bulkhead-dev/bulkhead/internal/pki"
	"github.com/bulkhead-dev/bulkhead/internal/testenv"
	"github.com/bulkhead-dev/bulkhead/vc-manager/controlplane"
	"github.com/bulkhead-dev/bulkhead/vc-manager/nodecert"
	"github.com/bulkhead-dev/bulkhead/vc-manager/rbac"
)

const platformNamespace = "bulkhead-system"

// super is the super cluster all tests of this package share, kubelet its node, and
// manager the vc-manager under test. Tests run side by side, so that none waits for
// the five seconds that a namespace takes to go; one may restart vc-manager at any
// time under all others.
var (
	super   *testenv.Cluster
	kubelet *node

	managerLock sync.Mutex
	manager     *runningManager
	// clockAhead is how far vc-manager's clock is ahead, in nanoseconds.
	clockAhead atomic.Int64
)

func now() time.Time { return time.Now().Add(time.Duration(clockAhead.Load())) }

func TestMain(m *testing.M) { os.Exit(testMain(m)) }

func testMain(m *testing.M) int {
	dir, err := os.MkdirTemp("", "vc-manager-test-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	ctrl.SetLogger(zap.New(zap.WriteTo(logFile(dir))))

	if err := os.Mkdir(filepath.Join(dir, "super"), 0o700); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	super, err = testenv.Start(ctx, filepath.Join(dir, "super"), testenv.Options{ControllerManager: true, CRDs: true})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer super.Stop()
	if kubelet, err = newNode(super.Client, filepath.Join(dir, "pods")); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	stopped := make(chan struct{})
	go func() { kubelet.run(ctx); close(stopped) }()
	defer func() { cancel(); <-stopped }()

	if err := install(ctx); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	if manager, err = startManager(ctx); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer func() { manager.stop() }()
	return m.Run()
}

// logFile is where vc-manager under test logs to; BULKHEAD_TEST_LOG keeps it.
func logFile(dir string) *os.File {
	path := os.Getenv("BULKHEAD_TEST_LOG")
	if path == "" {
		path = filepath.Join(dir, "vc-manager.log")
	}
	file, err := os.Create(path)
	if err != nil {
		return os.Stderr
	}
	return file
}

// install does the chart's part: namespace, class, and the rights of vc-manager.
func install(ctx context.Context) error {
	for _, object := range []client.Object{
		&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: platformNamespace}},
		&corev1.Node{
			ObjectMeta: metav1.ObjectMeta{Name: "node-1"},
			Status:     corev1.NodeStatus{Addresses: []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "192.0.2.11"}}},
		},
		&rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: "vc-manager"}, Rules: rbac.SuperRules()},
		&rbacv1.ClusterRoleBinding{
			ObjectMeta: metav1.ObjectMeta{Name: "vc-manager"},
			RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "vc-manager"},
			Subjects:   []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.UserKind, Name: "vc-manager"}},
		},
	} {
		if err := super.Client.Create(ctx, object); err != nil {
			return err
		}
	}
	return nil
}

type runningManager struct {
	reconciler *Reconciler
	cancel     context.CancelFunc
	done       chan struct{}
}

// stop ends a vc-manager. One that does not end shows where it hangs.
func (m *runningManager) stop() {
	m.cancel()
	select {
	case <-m.done:
	case <-time.After(20 * time.Second):
		_ = pprof.Lookup("goroutine").WriteTo(os.Stderr, 2)
		<-m.done
	}
}

// startManager runs a vc-manager with exactly the rights that package rbac lists.
func startManager(ctx context.Context) (*runningManager, error) {
	limited, err := limitedConfig("vc-manager")
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	mgr, err := ctrl.NewManager(limited, ctrl.Options{
		Scheme:     testenv.Scheme(),
		Cache:      cache.Options{ByObject: CacheObjects(), DefaultTransform: cache.TransformStripManagedFields()},
		Metrics:    metricsserver.Options{BindAddress: "0"},
		Controller: config.Controller{SkipNameValidation: ptr.To(true)}, // it is restarted in one process
	})
	if err != nil {
		cancel()
		return nil, err
	}
	authority := &nodecert.Authority{Client: mgr.GetClient(), Live: mgr.GetAPIReader(), Namespace: platformNamespace}
	r := &Reconciler{
		Client: mgr.GetClient(), Live: mgr.GetAPIReader(), Recorder: mgr.GetEventRecorder("vc-manager"),
		Platform: controlplane.Platform{
			Namespace: platformNamespace, SyncerServiceAccount: "syncer", VNAgentServiceAccount: "vn-agent", TenantProxyServiceAccount: "tenant-proxy",
			ClusterDomain: "cluster.local",
			Images: controlplane.Images{
				Etcd: "etcd", APIServer: "kube-apiserver", ControllerManager: "kube-controller-manager", Scheduler: "kube-scheduler", MetricsServer: "metrics-server", CoreDNS: "registry.k8s.io/coredns/coredns:v1.15.0",
			},
		},
		NodeAgentCA: authority.Certificate, Dialer: kubelet, Now: now,
	}
	if err := r.SetupWithManager(ctx, mgr, prometheus.NewRegistry(), 4); err != nil {
		cancel()
		return nil, err
	}
	running := &runningManager{reconciler: r, cancel: cancel, done: make(chan struct{})}
	go func() {
		defer close(running.done)
		if err := mgr.Start(ctx); err != nil {
			fmt.Fprintln(os.Stderr, "vc-manager:", err)
		}
	}()
	return running, nil
}

// limitedConfig is a client configuration of a user without any group.
func limitedConfig(user string) (*rest.Config, error) {
	pair, err := super.CA.Issue(pki.Leaf{CommonName: user, Usage: pki.Client})
	if err != nil {
		return nil, err
	}
	data, err := kubeconfig.Encode(kubeconfig.Config{Name: "super", Server: super.Config.Host, CA: super.CA.Cert, User: user, Client: pair})
	if err != nil {
		return nil, err
	}
	limited, err := kubeconfig.RESTConfig(data)
	if err != nil {
		return nil, err
	}
	limited.QPS, limited.Burst = 500, 1000
	return limited, nil
}
