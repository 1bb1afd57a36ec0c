package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/config"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"

	"go.uber.org/zap/zapcore"

	tenancyv1alpha1 "github.com/bulkhead-dev/bulkhead/api/tenancy/v1alpha1"
	"github.com/bulkhead-dev/bulkhead/internal/kubeconfig"
	"github.com/bulkhead-dev/bulkhead/internal/tenancy"
	"github.com/bulkhead-dev/bulkhead/internal/testenv"
	"github.com/bulkhead-dev/bulkhead/syncer/engine"
)

// patience is how long anything may take on a loaded machine before a test fails.
const patience = 3 * time.Minute

func zapLevel() zapcore.Level {
	if os.Getenv("SYNCER_TEST_LOG") != "" {
		return zapcore.DebugLevel
	}
	return zapcore.FatalLevel
}

// startSyncer runs the program's own set-up, with the rights of rbac.SuperRules
// alone, until stop is called or the test ends.
func startSyncer(t *testing.T) (stop func()) {
	t.Helper()
	restConfig, err := kubeconfig.RESTConfig(superConfig)
	if err != nil {
		t.Fatal(err)
	}
	restConfig.QPS = -1
	skip := true
	manager, err := ctrl.NewManager(restConfig, ctrl.Options{
		Scheme: testenv.Scheme(), Cache: engine.CacheOptions(),
		Metrics:    metricsserver.Options{BindAddress: "0"},
		Controller: config.Controller{SkipNameValidation: &skip},
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	if err := setup(ctx, manager, testOptions(t)); err != nil {
		cancel()
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- manager.Start(ctx) }()
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-done; err != nil && !errors.Is(err, context.Canceled) {
			t.Errorf("the syncer ended: %v", err)
		}
	}
	t.Cleanup(stop)
	return stop
}

// testOptions are the defaults with a shorter interval.
func testOptions(t *testing.T) options {
	t.Helper()
	o := defaults()
	o.probeInterval = 300 * time.Millisecond
	if err := o.validate(nil); err != nil {
		t.Fatal(err)
	}
	return o
}

// tenant is a virtual cluster of a test, and the real cluster behind it.
type tenant struct {
	tenancy.Tenant
	t       *testing.T
	cluster *testenv.Cluster
	client  client.Client
}

// newTenant makes a VirtualCluster of which cluster i is the control plane, with a
// class of its own, and removes it when the test ends.
func newTenant(t *testing.T, i int, edit func(*tenancyv1alpha1.VirtualClusterClass)) *tenant {
	t.Helper()
	ctx := t.Context()
	configs, err := grantTenant()
	if err != nil {
		t.Fatal(err)
	}
	name := strings.ToLower(strings.ReplaceAll(t.Name(), "/", "-"))
	name = fmt.Sprintf("%.40s-%d", name, i)
	class := &tenancyv1alpha1.VirtualClusterClass{ObjectMeta: metav1.ObjectMeta{Name: name}}
	if edit != nil {
		edit(class)
	}
	vc := &tenancyv1alpha1.VirtualCluster{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}, Spec: tenancyv1alpha1.VirtualClusterSpec{ClassName: name}}
	must(t, super.Client.Create(ctx, class))
	must(t, super.Client.Create(ctx, vc))
	of := tenancy.Tenant{UID: vc.UID, Namespace: vc.Namespace, Name: vc.Name}
	namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: of.ControlPlaneNamespace()}}
	tenancy.MarkTenant(namespace, of, tenancy.ManagedByManager)
	must(t, super.Client.Create(ctx, namespace))
	secret := &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace.Name, Name: tenancy.SyncerKubeconfigSecret},
		Data:       map[string][]byte{tenancy.KubeconfigKey: configs[i]},
	}
	tenancy.MarkTenant(secret, of, tenancy.ManagedByManager)
	must(t, super.Client.Create(ctx, secret))
	before := vc.DeepCopy()
	meta.SetStatusCondition(&vc.Status.Conditions, metav1.Condition{Type: tenancyv1alpha1.ConditionAPIServerReady, Status: metav1.ConditionTrue, Reason: "Test"})
	must(t, super.Client.Status().Patch(ctx, vc, client.MergeFrom(before)))
	tn := &tenant{Tenant: of, t: t, cluster: clusters[i], client: clusters[i].Client}
	t.Cleanup(func() {
		ctx := context.Background()
		// Not awaited: TestSameNamesInTwoTenants holds that the syncer does it.
		_ = super.Client.Delete(ctx, vc)
		ours := client.MatchingLabels{tenancy.LabelTenant: string(of.UID)}
		var pods corev1.PodList
		_ = super.Client.List(ctx, &pods, ours)
		for i := range pods.Items {
			_ = super.Client.Delete(ctx, &pods.Items[i], client.GracePeriodSeconds(0))
		}
		var namespaces corev1.NamespaceList
		_ = super.Client.List(ctx, &namespaces, ours)
		for i := range namespaces.Items {
			_ = super.Client.Delete(ctx, &namespaces.Items[i])
		}
		_ = super.Client.Delete(ctx, namespace)
		_ = super.Client.Delete(ctx, class)
		live := &tenancyv1alpha1.VirtualCluster{}
		if err := super.Client.Get(ctx, client.ObjectKeyFromObject(vc), live); err == nil {
			live.Finalizers = nil
			_ = super.Client.Update(ctx, live)
		}
	})
	return tn
}

// synced waits until the syncer carries the tenant's changes.
func (tn *tenant) synced() *tenant {
	tn.t.Helper()
	eventually(tn.t, "condition Synced of "+tn.String(), func(ctx context.Context) error {
		return tn.condition(ctx, metav1.ConditionTrue, "")
	})
	return tn
}

func (tn *tenant) condition(ctx context.Context, status metav1.ConditionStatus, reason string) error {
	vc := &tenancyv1alpha1.VirtualCluster{}
	if err := super.Client.Get(ctx, client.ObjectKey{Namespace: tn.Namespace, Name: tn.Name}, vc); err != nil {
		return err
	}
	condition := meta.FindStatusCondition(vc.Status.Conditions, tenancyv1alpha1.ConditionSynced)
	if condition == nil || condition.Status != status || (reason != "" && condition.Reason != reason) {
		return fmt.Errorf("condition is %+v", condition)
	}
	return nil
}

// namespace makes a namespace in the tenant's cluster that goes with the test.
func (tn *tenant) namespace(name string) string {
	tn.t.Helper()
	namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}
	must(tn.t, tn.client.Create(tn.t.Context(), namespace))
	tn.t.Cleanup(func() { _ = tn.client.Delete(context.Background(), namespace) })
	eventually(tn.t, "the default service account of "+name, func(ctx context.Context) error {
		return tn.client.Get(ctx, client.ObjectKey{Namespace: name, Name: "default"}, &corev1.ServiceAccount{})
	})
	return name
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// eventually waits for a condition and fails with its last complaint.
func eventually(t *testing.T, what string, condition func(context.Context) error) {
	t.Helper()
	var last error
	err := wait.PollUntilContextTimeout(t.Context(), 50*time.Millisecond, patience, true, func(ctx context.Context) (bool, error) {
		last = condition(ctx)
		return last == nil, nil
	})
	if err != nil {
		t.Fatalf("%s: %v", what, last)
	}
}

// waitFor reads an object until it is as it should be.
func waitFor[T client.Object](t *testing.T, from client.Client, namespace, name string, object T, check func(T) error) T {
	t.Helper()
	eventually(t, fmt.Sprintf("%T %s/%s", object, namespace, name), func(ctx context.Context) error {
		if err := from.Get(ctx, client.ObjectKey{Namespace: namespace, Name: name}, object); err != nil {
			return err
		}
		if check == nil {
			return nil
		}
		return check(object)
	})
	return object
}

// waitGone waits until there is no object of that name.
func waitGone(t *testing.T, from client.Client, namespace, name string, object client.Object) {
	t.Helper()
	eventually(t, fmt.Sprintf("%T %s/%s to go", object, namespace, name), func(ctx context.Context) error {
		err := from.Get(ctx, client.ObjectKey{Namespace: namespace, Name: name}, object)
		if apierrors.IsNotFound(err) {
			return nil
		}
		if err == nil {
			return errors.New("it is still there")
		}
		return err
	})
}

// waitEvent waits for an event on an object of the tenant.
func (tn *tenant) waitEvent(object client.Object, reason, part string) corev1.Event {
	tn.t.Helper()
	var found corev1.Event
	eventually(tn.t, fmt.Sprintf("event %s on %s with %q", reason, object.GetName(), part), func(ctx context.Context) error {
		var list corev1.EventList
		if err := tn.client.List(ctx, &list, client.InNamespace(object.GetNamespace())); err != nil {
			return err
		}
		var seen []string
		for _, event := range list.Items {
			if event.InvolvedObject.UID != object.GetUID() {
				continue
			}
			if event.Reason == reason && strings.Contains(event.Message, part) {
				found = event
				return nil
			}
			seen = append(seen, event.Reason+": "+event.Message)
		}
		return fmt.Errorf("there are %q", seen)
	})
	return found
}

// newPod is an ordinary pod.
func newPod(namespace, name string) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, Labels: map[string]string{"app": name}},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "main", Image: "registry.k8s.io/pause:3.10"}}},
	}
}

// superPod waits for the super pod of a tenant's pod.
func (tn *tenant) superPod(pod *corev1.Pod) *corev1.Pod {
	tn.t.Helper()
	return waitFor(tn.t, super.Client, tn.SuperNamespace(pod.Namespace), pod.Name, &corev1.Pod{}, func(got *corev1.Pod) error {
		if origin, _ := tenancy.OriginOf(got); origin.UID != pod.UID {
			return fmt.Errorf("it stands for %+v", origin)
		}
		return nil
	})
}

// newNode makes a node of the super cluster that goes with the test.
func newNode(t *testing.T, name string) *corev1.Node {
	t.Helper()
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{
		corev1.LabelHostname: name, corev1.LabelOSStable: "linux", "topology.kubernetes.io/zone": "z1", "platform.example/secret": "x",
	}}}
	must(t, super.Client.Create(t.Context(), node))
	t.Cleanup(func() { _ = super.Client.Delete(context.Background(), node) })
	before := node.DeepCopy()
	node.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "10.1.2.3"}, {Type: corev1.NodeExternalIP, Address: "198.51.100.7"}}
	node.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue, Reason: "KubeletReady"}}
	node.Status.Capacity = corev1.ResourceList{corev1.ResourceCPU: quantity("4"), corev1.ResourceMemory: quantity("8Gi")}
	node.Status.Allocatable = node.Status.Capacity
	node.Status.NodeInfo.MachineID = "machine"
	must(t, super.Client.Status().Patch(t.Context(), node, client.MergeFrom(before)))
	return node
}

// schedule does what the super cluster's scheduler does.
func schedule(t *testing.T, pod *corev1.Pod, node string) {
	t.Helper()
	must(t, super.Client.SubResource("binding").Create(t.Context(), pod, &corev1.Binding{
		ObjectMeta: metav1.ObjectMeta{Namespace: pod.Namespace, Name: pod.Name}, Target: corev1.ObjectReference{Kind: "Node", Name: node},
	}))
}

// runPod does what the super cluster's kubelet does once the containers run.
func runPod(t *testing.T, pod *corev1.Pod) {
	t.Helper()
	testenv.ChangeStatus(t, super.Client, pod, func() {
		pod.Status.Phase = corev1.PodRunning
		pod.Status.PodIP, pod.Status.PodIPs = "10.2.0.5", []corev1.PodIP{{IP: "10.2.0.5"}}
		pod.Status.Conditions = append(pod.Status.Conditions, corev1.PodCondition{Type: corev1.PodReady, Status: corev1.ConditionTrue})
		pod.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "main", Ready: true, Image: "registry.k8s.io/pause:3.10", State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}}}
	})
}

// endPod does what the super cluster's kubelet does when the containers have ended.
func endPod(t *testing.T, pod *corev1.Pod) {
	t.Helper()
	grace := int64(0)
	must(t, client.IgnoreNotFound(super.Client.Delete(t.Context(), pod, &client.DeleteOptions{GracePeriodSeconds: &grace})))
}
