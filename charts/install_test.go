package charts_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	tenancyv1alpha1 "github.com/bulkhead-dev/bulkhead/api/tenancy/v1alpha1"
	"github.com/bulkhead-dev/bulkhead/internal/testenv"
)

// The life of a release on a real API server: install, upgrade, uninstall, install.
func TestReleaseOnARealCluster(t *testing.T) {
	// The controller-manager tells helm when Deployments without replicas, and a
	// DaemonSet without nodes, are ready.
	cluster := testenv.New(t, testenv.Options{ControllerManager: true})
	kubeconfig := filepath.Join(t.TempDir(), "kubeconfig")
	if err := os.WriteFile(kubeconfig, cluster.Kubeconfig, 0o600); err != nil {
		t.Fatal(err)
	}
	run := func(args ...string) {
		t.Helper()
		if _, stderr, err := helm(t, nil, append(args, "--kubeconfig", kubeconfig, "--namespace", namespace)...); err != nil {
			t.Fatalf("helm %s: %v\n%s", args[0], err, stderr)
		}
	}
	// No nodes, so no pods: zero replicas let helm wait for the rest.
	install := []string{"upgrade", "--install", "bulkhead", "bulkhead", "--create-namespace", "--wait", "--timeout", "2m",
		"--set", "vcManager.replicas=0,syncer.replicas=0"}

	run(install...)
	class := getClass(t, cluster)
	if class.Spec.Exposure.Type != tenancyv1alpha1.ExposeLoadBalancer || class.Spec.Kind != tenancyv1alpha1.ClassDedicated {
		t.Errorf("the default class is %+v", class.Spec)
	}
	checkGrants(t, cluster, true)

	run(append(install, "--set", "defaultClass.spec.podSecurity=restricted")...)
	upgraded := getClass(t, cluster)
	if upgraded.Spec.PodSecurity != tenancyv1alpha1.PodSecurityRestricted {
		t.Errorf("the upgrade left podSecurity %q", upgraded.Spec.PodSecurity)
	}
	if upgraded.UID != class.UID {
		t.Error("the upgrade replaced the class")
	}

	run("uninstall", "bulkhead", "--wait")
	if again := getClass(t, cluster); again.UID != class.UID {
		t.Error("uninstalling replaced the class")
	}
	checkGrants(t, cluster, false)

	run(install...)
	if again := getClass(t, cluster); again.Spec.PodSecurity != tenancyv1alpha1.PodSecurityBaseline {
		t.Errorf("installing again left podSecurity %q", again.Spec.PodSecurity)
	}
}

func getClass(t *testing.T, cluster *testenv.Cluster) *tenancyv1alpha1.VirtualClusterClass {
	t.Helper()
	class := &tenancyv1alpha1.VirtualClusterClass{}
	if err := cluster.Client.Get(t.Context(), client.ObjectKey{Name: "default"}, class); err != nil {
		t.Fatalf("reading the default class: %v", err)
	}
	return class
}

// checkGrants sees whether cluster-wide rights are there or gone.
func checkGrants(t *testing.T, cluster *testenv.Cluster, want bool) {
	t.Helper()
	for _, component := range []string{"vc-manager", "syncer", "vn-agent", "tenant-proxy"} {
		err := cluster.Client.Get(t.Context(), client.ObjectKey{Name: "bulkhead-" + component}, &rbacv1.ClusterRoleBinding{})
		if client.IgnoreNotFound(err) != nil || apierrors.IsNotFound(err) == want {
			t.Errorf("ClusterRoleBinding of %s: want it there %v, got %v", component, want, err)
		}
	}
}

// A namespace in which vn-agent could never run is refused with what to do.
func TestNamespaceThatForbidsHostNetwork(t *testing.T) {
	cluster := testenv.New(t, testenv.Options{})
	kubeconfig := filepath.Join(t.TempDir(), "kubeconfig")
	if err := os.WriteFile(kubeconfig, cluster.Kubeconfig, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := cluster.Client.Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{
		Name: namespace, Labels: map[string]string{"pod-security.kubernetes.io/enforce": "baseline"},
	}}); err != nil {
		t.Fatal(err)
	}
	_, stderr, err := helm(t, nil, "install", "bulkhead", "bulkhead", "--namespace", namespace, "--kubeconfig", kubeconfig)
	if err == nil || !strings.Contains(stderr, "kubectl label namespace "+namespace) {
		t.Errorf("got %v, %s", err, stderr)
	}
}
