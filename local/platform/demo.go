package platform

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
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

// answerTimeout bounds the wait for the tenant's apiserver after a crash of the
// whole machine: its pods, and those it needs, have to come back first.
const answerTimeout = 4 * time.Minute

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
	do := func(doing, program string, args ...string) error {
		step("%s", doing)
		return run(l, tool(ctx, l, program, args...), "demo.log", doing)
	}
	if err := do("creating virtual cluster "+DemoName, "kubectl", "apply", "-f", filepath.Join(examples, "demo-virtualcluster.yaml")); err != nil {
		return err
	}
	if err := do("waiting until virtual cluster "+DemoName+" is Ready", "kubectl", "wait", "--for=condition=Ready", "-n", DemoNamespace, name, "--timeout=4m"); err != nil {
		return err
	}
	if err := do("writing "+filepath.Base(kubeconfigFile), "kubectl-vc", "kubeconfig", DemoName, "-n", DemoNamespace, "--output", kubeconfigFile); err != nil {
		return err
	}
	step("waiting until the tenant's apiserver answers")
	if err := awaitAnswer(ctx, kubeconfigFile); err != nil {
		return err
	}
	if err := do("applying examples/hello.yaml as the tenant", "kubectl", "--kubeconfig", kubeconfigFile, "apply", "-f", filepath.Join(examples, "hello.yaml")); err != nil {
		return err
	}
	return do("waiting for the tenant's Deployment hello", "kubectl", "--kubeconfig", kubeconfigFile, "rollout", "status", "deployment/hello", "-n", "default", "--timeout=4m")
}

// awaitAnswer returns when the tenant's apiserver serves. Ready alone does not say
// so after everything was killed: it was true then, and nobody was left to take it
// back.
func awaitAnswer(ctx context.Context, kubeconfigFile string) error {
	c, err := open(kubeconfigFile)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	var last error
	err = wait.PollUntilContextCancel(ctx, 500*time.Millisecond, true, func(ctx context.Context) (bool, error) {
		last = c.Get(ctx, client.ObjectKey{Name: "default"}, &corev1.Namespace{})
		return last == nil, nil
	})
	if err != nil {
		return fmt.Errorf("the tenant's apiserver did not answer within %s: %w", answerTimeout, last)
	}
	return nil
}

// open makes a client of the cluster that a kubeconfig file names.
func open(kubeconfigFile string) (client.Client, error) {
	data, err := os.ReadFile(kubeconfigFile)
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", filepath.Base(kubeconfigFile), err)
	}
	restConfig, err := kubeconfig.RESTConfig(data)
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", filepath.Base(kubeconfigFile), err)
	}
	restConfig.Timeout = 10 * time.Second
	c, err := client.New(restConfig, client.Options{})
	if err != nil {
		return nil, fmt.Errorf("making a client from %s: %w", filepath.Base(kubeconfigFile), err)
	}
	return c, nil
}

func ensureNamespace(ctx context.Context, l layout.Layout, name string) error {
	c, err := open(l.SuperKubeconfig())
	if err != nil {
		return err
	}
	err = c.Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("creating namespace %s: %w", name, err)
	}
	return nil
}
