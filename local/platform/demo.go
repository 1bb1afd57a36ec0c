package platform

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/bulkhead-dev/bulkhead/internal/kubeconfig"
	"github.com/bulkhead-dev/bulkhead/local/layout"
)

// The demo virtual cluster, as examples/demo-virtualcluster.yaml says.
const (
	DemoNamespace = "tenants"
	DemoName      = "demo"
)

// DemoKubeconfig is the file with the demo tenant's kubeconfig.
func DemoKubeconfig(l layout.Layout) string { return filepath.Join(l.State(), "demo.kubeconfig") }

// Demo makes the virtual cluster "demo", writes its kubeconfig and runs
// examples/hello.yaml in it as its tenant would. It returns when the workload is
// available.
func Demo(ctx context.Context, l layout.Layout, step func(format string, a ...any)) error {
	if err := ensureNamespace(ctx, l, DemoNamespace); err != nil {
		return err
	}
	examples := filepath.Join(l.Root, "examples")
	name := "virtualcluster/" + DemoName
	kubeconfigFile := DemoKubeconfig(l)
	for _, s := range []struct {
		doing string
		tool  string
		args  []string
	}{
		{"creating virtual cluster " + DemoName, "kubectl", []string{"apply", "-f", filepath.Join(examples, "demo-virtualcluster.yaml")}},
		{"waiting until virtual cluster " + DemoName + " is Ready", "kubectl", []string{"wait", "--for=condition=Ready", "-n", DemoNamespace, name, "--timeout=4m"}},
		{"writing " + filepath.Base(kubeconfigFile), "kubectl-vc", []string{"kubeconfig", DemoName, "-n", DemoNamespace, "--output", kubeconfigFile}},
		{"applying examples/hello.yaml as the tenant", "kubectl", []string{"--kubeconfig", kubeconfigFile, "apply", "-f", filepath.Join(examples, "hello.yaml")}},
		{"waiting for the tenant's Deployment hello", "kubectl", []string{"--kubeconfig", kubeconfigFile, "rollout", "status", "deployment/hello", "-n", "default", "--timeout=4m"}},
	} {
		step("%s", s.doing)
		if err := run(l, tool(ctx, l, s.tool, s.args...), "demo.log", s.doing); err != nil {
			return err
		}
	}
	return nil
}

func ensureNamespace(ctx context.Context, l layout.Layout, name string) error {
	data, err := os.ReadFile(l.SuperKubeconfig())
	if err != nil {
		return fmt.Errorf("reading the super cluster's kubeconfig: %w", err)
	}
	restConfig, err := kubeconfig.RESTConfig(data)
	if err != nil {
		return err
	}
	c, err := client.New(restConfig, client.Options{})
	if err != nil {
		return fmt.Errorf("making a client of the super cluster: %w", err)
	}
	err = c.Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("creating namespace %s: %w", name, err)
	}
	return nil
}
