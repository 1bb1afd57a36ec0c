package controlplane

import (
	"flag"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	psaapi "k8s.io/pod-security-admission/api"
	"k8s.io/pod-security-admission/policy"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	tenancyv1alpha1 "github.com/bulkhead-dev/bulkhead/api/tenancy/v1alpha1"
	"github.com/bulkhead-dev/bulkhead/internal/tenancy"
	"github.com/bulkhead-dev/bulkhead/internal/tenantnetwork"
	"github.com/bulkhead-dev/bulkhead/vc-manager/apply"
)

var update = flag.Bool("update", false, "write the golden files anew")

func sample() Input {
	return Input{
		Tenant: tenancy.Tenant{UID: "7a1c1c9e-6f3b-4c58-9d6f-0d7a3f1c2b4e", Namespace: "team", Name: "demo"},
		Spec:   tenancyv1alpha1.VirtualClusterSpec{ServiceCIDR: "10.96.0.0/16", ClusterDomain: "cluster.local"},
		Class: tenancyv1alpha1.VirtualClusterClassSpec{
			Etcd:     tenancyv1alpha1.EtcdSpec{Storage: tenancyv1alpha1.StorageSpec{Size: resource.MustParse("2Gi")}},
			Exposure: tenancyv1alpha1.ExposureSpec{Type: tenancyv1alpha1.ExposeLoadBalancer},
			Nodes:    tenancyv1alpha1.NodesSpec{Mode: tenancyv1alpha1.NodesSelected}, Scheduling: tenancyv1alpha1.ScheduledByTenant,
		},
		Platform: Platform{
			Namespace: "bulkhead-system", SyncerServiceAccount: "syncer", VNAgentServiceAccount: "vn-agent", TenantProxyServiceAccount: "tenant-proxy", ClusterDomain: "cluster.local",
			Networks: tenantnetwork.Networks{
				Denied: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("169.254.0.0/16"), netip.MustParsePrefix("fc00::/7")},
				Pods:   []netip.Prefix{netip.MustParsePrefix("10.78.0.0/16")},
			},
			Images: Images{Etcd: "etcd:v1", APIServer: "kube-apiserver:v1", ControllerManager: "kube-controller-manager:v1", Scheduler: "kube-scheduler:v1", MetricsServer: "metrics-server:v1"},
		},
		NodeAgentCA:  []byte("the CA of vn-agents\n"),
		StartupFiles: map[string]string{Etcd: "hash-1", APIServer: "hash-2", ControllerManager: "hash-3", Scheduler: "hash-5", MetricsServer: "hash-4"},
		Established:  true,
	}
}

func all(t *testing.T, in Input) []client.Object {
	t.Helper()
	record, err := ClassRecord(in)
	if err != nil {
		t.Fatal(err)
	}
	objects := append([]client.Object{Namespace(in), record}, Foundations(in)...)
	return append(objects, Workloads(in)...)
}

// Every object of a control plane looks as it did when somebody last looked at it.
func TestObjects(t *testing.T) {
	seen := map[string]bool{}
	for _, object := range all(t, sample()) {
		manifest, err := apply.Manifest(object)
		if err != nil {
			t.Fatal(err)
		}
		got, err := yaml.Marshal(manifest.Object)
		if err != nil {
			t.Fatal(err)
		}
		name := strings.ToLower(manifest.GetKind()) + "-" + manifest.GetName() + ".yaml"
		if seen[name] {
			t.Errorf("%s is rendered twice", name)
		}
		seen[name] = true
		path := filepath.Join("testdata", name)
		if *update {
			if err := os.WriteFile(path, got, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(path)
		if err != nil {
			t.Fatalf("%v: run the test with -update", err)
		}
		if diff := cmp.Diff(string(want), string(got)); diff != "" {
			t.Errorf("%s:\n%s", name, diff)
		}
	}
	files, err := os.ReadDir("testdata")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		if !seen[file.Name()] {
			t.Errorf("testdata/%s is rendered no more", file.Name())
		}
	}
}

// All are the tenant's, in the tenant's namespace, under a kind that SSA knows.
func TestObjectsAreMarked(t *testing.T) {
	in := sample()
	in.Class.Exposure.Annotations = map[string]string{
		tenancy.AnnotationTenant: "another/tenant", "cloud.example.org/internal": "true",
	}
	for _, object := range all(t, in) {
		name := apply.Describe(object)
		if err := tenancy.CheckOwned(object, in.Tenant, tenancy.ManagedByManager, name); err != nil {
			t.Error(err)
		}
		if got := object.GetAnnotations()[tenancy.AnnotationTenant]; got != "team/demo" {
			t.Errorf("%s: annotation %q", name, got)
		}
		if object.GetObjectKind().GroupVersionKind().Version == "" {
			t.Errorf("%s has no kind", name)
		}
		if namespace, isNamespace := object.(*corev1.Namespace); !isNamespace && object.GetNamespace() != in.Tenant.ControlPlaneNamespace() {
			t.Errorf("%s is in namespace %q", name, object.GetNamespace())
		} else if isNamespace && namespace.Name != in.Tenant.ControlPlaneNamespace() {
			t.Errorf("namespace %s", namespace.Name)
		}
	}
	if got := APIServerService(in).Annotations["cloud.example.org/internal"]; got != "true" {
		t.Errorf("the class's annotation is missing: %q", got)
	}
}

func templates(t *testing.T, in Input) map[string]corev1.PodTemplateSpec {
	t.Helper()
	pods := map[string]corev1.PodTemplateSpec{}
	for _, object := range Workloads(in) {
		switch object := object.(type) {
		case *appsv1.StatefulSet:
			pods[object.Name] = object.Spec.Template
		case *appsv1.Deployment:
			pods[object.Name] = object.Spec.Template
		default:
			t.Fatalf("no pod template in %T", object)
		}
	}
	return pods
}

// The pods keep to the level that the namespace enforces, judged by the code of the
// admission plugin itself.
func TestPodsAreRestricted(t *testing.T) {
	evaluator, err := policy.NewEvaluator(policy.DefaultChecks(), nil)
	if err != nil {
		t.Fatal(err)
	}
	level := psaapi.LevelVersion{Level: psaapi.LevelRestricted, Version: psaapi.LatestVersion()}
	for name, template := range templates(t, sample()) {
		for _, result := range evaluator.EvaluatePod(level, &template.ObjectMeta, &template.Spec) {
			if !result.Allowed {
				t.Errorf("%s: %s: %s", name, result.ForbiddenReason, result.ForbiddenDetail)
			}
		}
	}
}

func TestPodsAreLookedAfter(t *testing.T) {
	in := sample()
	budgets := map[string]bool{}
	for _, object := range Foundations(in) {
		if object.GetObjectKind().GroupVersionKind().Kind == "PodDisruptionBudget" {
			budgets[object.GetName()] = true
		}
	}
	for name, template := range templates(t, in) {
		container := template.Spec.Containers[0]
		if container.StartupProbe == nil || container.ReadinessProbe == nil || container.LivenessProbe == nil {
			t.Errorf("%s lacks a probe", name)
		}
		if container.Resources.Requests.Cpu().IsZero() || container.Resources.Requests.Memory().IsZero() {
			t.Errorf("%s requests no resources", name)
		}
		if token := template.Spec.AutomountServiceAccountToken; token == nil || *token {
			t.Errorf("%s has a token of the super cluster", name)
		}
		if name != MetricsServer && !budgets[name] {
			t.Errorf("%s has no disruption budget", name)
		}
		for _, volume := range template.Spec.Volumes {
			if volume.HostPath != nil {
				t.Errorf("%s mounts a path of the host", name)
			}
		}
	}
}

// A private key is in the pods that need it only.
func TestKeysOfAuthorities(t *testing.T) {
	want := map[string][]string{ControllerManager: {"cluster-ca"}}
	for name, template := range templates(t, sample()) {
		var got []string
		for _, source := range template.Spec.Volumes[0].Projected.Sources {
			if source.Secret == nil || !strings.HasSuffix(source.Secret.Name, "-ca") {
				continue
			}
			for _, item := range source.Secret.Items {
				if item.Key == corev1.TLSPrivateKeyKey {
					got = append(got, source.Secret.Name)
				}
			}
		}
		if diff := cmp.Diff(want[name], got); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}

func TestClassOverridesImagesAndResources(t *testing.T) {
	in := sample()
	component := tenancyv1alpha1.ComponentSpec{
		Image:     "mirror.example.org/x:1",
		Resources: &corev1.ResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("2")}},
	}
	in.Class.Etcd.ComponentSpec, in.Class.APIServer, in.Class.ControllerManager, in.Class.Scheduler, in.Class.MetricsServer.ComponentSpec = component, component, component, component, component
	for name, template := range templates(t, in) {
		container := template.Spec.Containers[0]
		if container.Image != component.Image {
			t.Errorf("%s runs %s", name, container.Image)
		}
		if diff := cmp.Diff(*component.Resources, container.Resources); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}

func TestWhatTheClassLeavesOut(t *testing.T) {
	in := sample()
	in.Class.MetricsServer.Disabled = true
	in.Class.Scheduling = tenancyv1alpha1.ScheduledBySuper
	for _, object := range all(t, in) {
		if object.GetName() == MetricsServer || object.GetName() == Scheduler {
			t.Errorf("%s is there", apply.Describe(object))
		}
	}
}

func TestEtcdQuotaLeavesRoomOnTheVolume(t *testing.T) {
	for size, want := range map[string]int64{"1Gi": 768 << 20, "2Gi": 1536 << 20, "100Gi": 8 << 30, "10M": 7_500_000} {
		if got := EtcdQuota(resource.MustParse(size)); got != want {
			t.Errorf("volume of %s: quota %d, want %d", size, got, want)
		}
	}
}

func TestEtcdMayBeginAfreshOnlyOnce(t *testing.T) {
	in := sample()
	in.Established = false
	if got := EtcdConfig(in).Data[etcdStateKey]; got != "new" {
		t.Errorf("before there is data: %q", got)
	}
	template := EtcdStatefulSet(in).Spec.Template
	in.Established = true
	if got := EtcdConfig(in).Data[etcdStateKey]; got != "existing" {
		t.Errorf("when there is data: %q", got)
	}
	if diff := cmp.Diff(template, EtcdStatefulSet(in).Spec.Template); diff != "" {
		t.Errorf("etcd would be restarted by it: %s", diff)
	}
}

func TestClassRecordComesBack(t *testing.T) {
	in := sample()
	record, err := ClassRecord(in)
	if err != nil {
		t.Fatal(err)
	}
	got, err := ReadClassRecord(record)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(in.Class, got, cmp.Comparer(func(a, b resource.Quantity) bool { return a.Cmp(b) == 0 })); diff != "" {
		t.Error(diff)
	}
	if _, err := ReadClassRecord(&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "x"}}); err == nil {
		t.Error("an empty record was read as a class")
	}
}
