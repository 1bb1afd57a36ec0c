package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	tenancyv1alpha1 "github.com/bulkhead-dev/bulkhead/api/tenancy/v1alpha1"
	"github.com/bulkhead-dev/bulkhead/internal/kubeconfig"
	"github.com/bulkhead-dev/bulkhead/internal/pki"
	"github.com/bulkhead-dev/bulkhead/internal/tenancy"
	"github.com/bulkhead-dev/bulkhead/internal/testenv"
	"github.com/bulkhead-dev/bulkhead/syncer/rbac"
)

// startLimit bounds the start of one program.
const startLimit = 3 * time.Minute

// startsAtATime is how many control planes start at a time: each start takes several
// seconds of processor time.
const startsAtATime = 2

// namespace is where pods are created, in each tenant's cluster.
const namespace = "load"

// site is a place where pods are created: a namespace of a cluster.
type site struct {
	pods      kubernetes.Interface
	namespace string
}

// tenantCluster is a virtual cluster with a control plane of its own.
type tenantCluster struct {
	tenancy.Tenant
	cluster *testenv.Cluster
	site
}

// world is all that a run works with.
type world struct {
	dir     string
	super   *testenv.Cluster
	pods    kubernetes.Interface // of the super cluster
	tenants []*tenantCluster
	// baseline are as many sites in the super cluster as there are tenants.
	baseline []site
	// stops end what was started, the last first.
	stops []func()

	scheduler, kwok *process

	syncerProgram string
	syncer        *process
	metrics       *metricsReader
}

func (w *world) stop() {
	if w.syncer != nil {
		w.syncer.kill()
	}
	for i := len(w.stops) - 1; i >= 0; i-- {
		w.stops[i]()
	}
}

// build starts everything but the syncer.
func (w *world) build(ctx context.Context, s size) error {
	fmt.Println("starting the super cluster: etcd, kube-apiserver, kube-controller-manager, kube-scheduler, KWOK")
	var err error
	if w.super, err = w.cluster(ctx, "super", testenv.Options{ControllerManager: true, CRDs: true}); err != nil {
		return err
	}
	w.stops = append(w.stops, w.super.Stop)
	if w.pods, err = podClient(w.super.Config); err != nil {
		return err
	}
	if err := w.startScheduler(s.schedulerQPS); err != nil {
		return err
	}
	if err := w.startKWOK(ctx); err != nil {
		return err
	}
	for i := range s.nodes {
		if err := w.createNode(ctx, i); err != nil {
			return err
		}
	}
	for i := range s.tenants {
		at := site{pods: w.pods, namespace: fmt.Sprintf("baseline-%d", i)}
		if err := w.super.Client.Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: at.namespace}}); err != nil {
			return fmt.Errorf("creating a namespace: %w", err)
		}
		w.baseline = append(w.baseline, at)
	}
	fmt.Printf("starting %d tenants' control planes: etcd and kube-apiserver each\n", s.tenants)
	if err := w.startTenants(ctx, s.tenants); err != nil {
		return err
	}
	for _, at := range w.baseline {
		if err := w.awaitAccount(ctx, at); err != nil {
			return err
		}
	}
	return await(ctx, "the nodes to be ready", time.Second, time.Minute, func(ctx context.Context) error {
		if err := w.kwok.check(); err != nil {
			return err
		}
		nodes, err := w.pods.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
		if err != nil {
			return err
		}
		for i := range nodes.Items {
			if len(nodes.Items[i].Spec.Taints) > 0 || !nodeReady(&nodes.Items[i]) {
				return fmt.Errorf("%s is not", nodes.Items[i].Name)
			}
		}
		return nil
	})
}

func nodeReady(node *corev1.Node) bool {
	for _, condition := range node.Status.Conditions {
		if condition.Type == corev1.NodeReady {
			return condition.Status == corev1.ConditionTrue
		}
	}
	return false
}

// awaitAccount waits for the ServiceAccount without which no pod is admitted.
func (w *world) awaitAccount(ctx context.Context, at site) error {
	return await(ctx, "the service account of "+at.namespace, 100*time.Millisecond, startLimit, func(ctx context.Context) error {
		_, err := at.pods.CoreV1().ServiceAccounts(at.namespace).Get(ctx, "default", metav1.GetOptions{})
		return err
	})
}

// cluster starts a control plane that ends with the world.
func (w *world) cluster(ctx context.Context, name string, options testenv.Options) (*testenv.Cluster, error) {
	dir := filepath.Join(w.dir, name)
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, err
	}
	return testenv.Start(ctx, dir, options)
}

// startTenants starts control planes and makes the VirtualClusters that they are.
func (w *world) startTenants(ctx context.Context, n int) error {
	class := &tenancyv1alpha1.VirtualClusterClass{ObjectMeta: metav1.ObjectMeta{Name: "bench"}}
	if err := w.super.Client.Create(ctx, class); err != nil {
		return fmt.Errorf("creating the class: %w", err)
	}
	tenants, problems := make([]*tenantCluster, n), make([]error, n)
	turns := make(chan struct{}, startsAtATime)
	var group sync.WaitGroup
	for i := range n {
		group.Go(func() {
			turns <- struct{}{}
			defer func() { <-turns }()
			if problems[i] = ctx.Err(); problems[i] == nil {
				tenants[i], problems[i] = w.startTenant(ctx, i)
			}
		})
	}
	group.Wait()
	for i, tenant := range tenants {
		if tenant != nil {
			w.stops = append(w.stops, tenant.cluster.Stop)
		}
		if problems[i] != nil {
			return fmt.Errorf("starting tenant %d: %w", i, problems[i])
		}
	}
	w.tenants = tenants
	return nil
}

func (w *world) startTenant(ctx context.Context, i int) (*tenantCluster, error) {
	name := fmt.Sprintf("tenant-%d", i)
	cluster, err := w.cluster(ctx, name, testenv.Options{})
	if err != nil {
		return nil, err
	}
	t := &tenantCluster{cluster: cluster}
	if t.pods, err = podClient(cluster.Config); err != nil {
		return t, err
	}
	t.namespace = namespace
	// What a controller-manager would make: nothing else of it is needed here, and
	// one for each tenant would take as much memory as the rest of its control plane.
	for _, object := range []client.Object{
		&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}},
		&corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "default"}},
		&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "kube-root-ca.crt"}, Data: map[string]string{"ca.crt": string(cluster.CA.Cert)}},
	} {
		if err := cluster.Client.Create(ctx, object); err != nil {
			return t, fmt.Errorf("creating %T: %w", object, err)
		}
	}
	config, err := grant(ctx, cluster, tenancy.UserSyncer, rbac.TenantRules())
	if err != nil {
		return t, err
	}
	return t, w.declare(ctx, t, name, config)
}

// declare makes the VirtualCluster, its namespace and the Secret with the syncer's
// credentials, as vc-manager does.
func (w *world) declare(ctx context.Context, t *tenantCluster, name string, config []byte) error {
	vc := &tenancyv1alpha1.VirtualCluster{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}, Spec: tenancyv1alpha1.VirtualClusterSpec{ClassName: "bench"}}
	if err := w.super.Client.Create(ctx, vc); err != nil {
		return fmt.Errorf("creating virtual cluster %s: %w", name, err)
	}
	t.Tenant = tenancy.Tenant{UID: vc.UID, Namespace: vc.Namespace, Name: vc.Name}
	home := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: t.ControlPlaneNamespace()}}
	secret := &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: home.Name, Name: tenancy.SyncerKubeconfigSecret},
		Data:       map[string][]byte{tenancy.KubeconfigKey: config},
	}
	for _, object := range []client.Object{home, secret} {
		tenancy.MarkTenant(object, t.Tenant, tenancy.ManagedByManager)
		if err := w.super.Client.Create(ctx, object); err != nil {
			return fmt.Errorf("creating %T of %s: %w", object, name, err)
		}
	}
	before := vc.DeepCopy()
	meta.SetStatusCondition(&vc.Status.Conditions, metav1.Condition{Type: tenancyv1alpha1.ConditionAPIServerReady, Status: metav1.ConditionTrue, Reason: "Bench"})
	if err := w.super.Client.Status().Patch(ctx, vc, client.MergeFrom(before)); err != nil {
		return fmt.Errorf("writing the condition of %s: %w", name, err)
	}
	return nil
}

// grant gives a user of a cluster exactly the rules, and returns a kubeconfig for it.
func grant(ctx context.Context, cluster *testenv.Cluster, user string, rules []rbacv1.PolicyRule) ([]byte, error) {
	for _, object := range []client.Object{
		&rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: user}, Rules: rules},
		&rbacv1.ClusterRoleBinding{
			ObjectMeta: metav1.ObjectMeta{Name: user},
			RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: user},
			Subjects:   []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.UserKind, Name: user}},
		},
	} {
		if err := cluster.Client.Create(ctx, object); err != nil {
			return nil, fmt.Errorf("granting the rules of %s: %w", user, err)
		}
	}
	pair, err := cluster.CA.Issue(pki.Leaf{CommonName: user, Usage: pki.Client})
	if err != nil {
		return nil, err
	}
	return kubeconfig.Encode(kubeconfig.Config{Name: "bench", Server: cluster.Config.Host, CA: cluster.CA.Cert, User: user, Client: pair})
}

// podClient makes the clients that create and watch pods, with protobuf and at no rate.
func podClient(config *rest.Config) (kubernetes.Interface, error) {
	config = rest.CopyConfig(config)
	config.QPS, config.ContentType, config.AcceptContentTypes = -1, runtime.ContentTypeProtobuf, runtime.ContentTypeProtobuf
	return kubernetes.NewForConfig(config)
}

// newNode is a node that KWOK plays, with room for every pod.
func newNode(i int) *corev1.Node {
	room := corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("1000"), corev1.ResourceMemory: resource.MustParse("4Ti"), corev1.ResourcePods: resource.MustParse("10000")}
	name := fmt.Sprintf("node-%d", i)
	return &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{corev1.LabelHostname: name, corev1.LabelOSStable: "linux", corev1.LabelArchStable: "amd64"}},
		Status:     corev1.NodeStatus{Capacity: room, Allocatable: room},
	}
}

func (w *world) createNode(ctx context.Context, i int) error {
	node := newNode(i)
	if err := w.super.Client.Create(ctx, node); err != nil {
		return fmt.Errorf("creating node %d: %w", i, err)
	}
	// The apiserver taints new nodes, and the controller that would take that away, and
	// would take KWOK's for lost on a machine that is busy, does not run.
	if err := w.super.Client.Patch(ctx, node, client.RawPatch(types.JSONPatchType, []byte(`[{"op": "remove", "path": "/spec/taints"}]`))); err != nil {
		return fmt.Errorf("taking the taints off node %d: %w", i, err)
	}
	return nil
}

// startScheduler starts the super cluster's, with a limit of requests in a second.
func (w *world) startScheduler(qps int) error {
	path := filepath.Join(w.dir, "scheduler.yaml")
	content := fmt.Sprintf(`apiVersion: kubescheduler.config.k8s.io/v1
kind: KubeSchedulerConfiguration
clientConnection: {kubeconfig: %q, qps: %d, burst: %d}
leaderElection: {leaderElect: false}
`, filepath.Join(w.super.Dir, "admin.kubeconfig"), qps, 2*qps)
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		return err
	}
	hyperkube, err := testenv.Program("hyperkube")
	if err != nil {
		return err
	}
	w.scheduler, err = w.run(hyperkube, "kube-scheduler", "--config="+path, "--secure-port=0")
	return err
}

// startKWOK builds KWOK, as bench/kwok pins it, and starts it for all nodes.
func (w *world) startKWOK(ctx context.Context) error {
	root, err := testenv.Root()
	if err != nil {
		return err
	}
	module, program := filepath.Join(root, "bench", "kwok"), filepath.Join(w.dir, "kwok")
	if err := goBuild(ctx, module, program, "sigs.k8s.io/kwok/cmd/kwok"); err != nil {
		return err
	}
	stages, err := kwokStages(ctx, module)
	if err != nil {
		return err
	}
	args := []string{"--kubeconfig=" + filepath.Join(w.super.Dir, "admin.kubeconfig"), "--manage-all-nodes", "--cidr=10.64.0.0/10", "--node-ip=192.0.2.1", "--node-lease-duration-seconds=40"}
	for _, stage := range stages {
		args = append(args, "--config="+stage)
	}
	w.kwok, err = w.run(program, args...)
	return err
}

// kwokStages are KWOK's own: nodes that renew their leases, and pods that run as soon as
// they are bound and go as soon as they are deleted.
func kwokStages(ctx context.Context, module string) ([]string, error) {
	command := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}", "sigs.k8s.io/kwok")
	command.Dir = module
	output, err := command.Output()
	if err != nil {
		return nil, fmt.Errorf("finding KWOK's stages: %w", err)
	}
	var files []string
	for _, set := range []string{"node/fast", "node/heartbeat-with-lease", "pod/fast"} {
		found, err := filepath.Glob(filepath.Join(strings.TrimSpace(string(output)), "kustomize", "stage", set, "*-*.yaml"))
		if err != nil || len(found) == 0 {
			return nil, fmt.Errorf("KWOK has no stages %s: %w", set, err)
		}
		files = append(files, found...)
	}
	return files, nil
}

// run starts a program that ends with the world.
func (w *world) run(program string, args ...string) (*process, error) {
	p, err := start(w.dir, program, args)
	if err == nil {
		w.stops = append(w.stops, p.kill)
	}
	return p, err
}

func goBuild(ctx context.Context, dir, out, pkg string) error {
	command := exec.CommandContext(ctx, "go", "build", "-p", "2", "-trimpath", "-o", out, pkg)
	command.Dir, command.Env = dir, append(os.Environ(), "CGO_ENABLED=0")
	if output, err := command.CombinedOutput(); err != nil {
		return fmt.Errorf("building %s: %w\n%s", pkg, err, output)
	}
	return nil
}
