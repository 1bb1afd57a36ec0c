//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	tenancyv1alpha1 "github.com/bulkhead-dev/bulkhead/api/tenancy/v1alpha1"
	"github.com/bulkhead-dev/bulkhead/internal/kubeconfig"
	"github.com/bulkhead-dev/bulkhead/internal/tenancy"
	"github.com/bulkhead-dev/bulkhead/internal/testenv"
)

// namespace is where the tests' virtual clusters live in the super cluster.
const namespace = "e2e"

// tenant is a virtual cluster as its owner holds it: a kubeconfig.
type tenant struct {
	tenancy.Tenant
	kubeconfig string
	config     *rest.Config
	client     client.Client
}

// newTenant makes a virtual cluster with kubectl-vc that the test's end deletes.
func newTenant(t *testing.T, name string) *tenant {
	t.Helper()
	return newTenants(t, name)[0]
}

// newTenants makes virtual clusters, and deletes them, side by side.
func newTenants(t *testing.T, names ...string) []*tenant {
	t.Helper()
	return newTenantsOf(t, "default", names...)
}

// newTenantsOf makes virtual clusters of a class.
func newTenantsOf(t *testing.T, class string, names ...string) []*tenant {
	t.Helper()
	ensureTestNamespace(t)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 3*time.Minute)
		defer cancel()
		err := each(names, func(name string) error {
			out, err := superTool(ctx, "kubectl-vc", "delete", name, "-n", namespace, "--wait")
			if err != nil && !strings.Contains(out, "not found") {
				return fmt.Errorf("deleting virtual cluster %s: %w\n%s", name, err, out)
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
	})
	err := each(names, func(name string) error {
		out, err := superTool(t.Context(), "kubectl-vc", "create", name, "-n", namespace, "--class", class, "--wait", "--timeout", "4m")
		if err != nil {
			return fmt.Errorf("creating virtual cluster %s: %w\n%s\n%s", name, err, out, describeControlPlane(name))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	var tenants []*tenant
	for _, name := range names {
		tenants = append(tenants, openTenant(t, namespace, name))
	}
	return tenants
}

// each calls do with all names at once and joins the errors.
func each(names []string, do func(name string) error) error {
	errs := make([]error, len(names))
	var running sync.WaitGroup
	for i, name := range names {
		running.Go(func() { errs[i] = do(name) })
	}
	running.Wait()
	return errors.Join(errs...)
}

// openTenant connects to a virtual cluster that is Ready.
func openTenant(t *testing.T, namespace, name string) *tenant {
	t.Helper()
	var vc tenancyv1alpha1.VirtualCluster
	if err := super.client.Get(t.Context(), client.ObjectKey{Namespace: namespace, Name: name}, &vc); err != nil {
		t.Fatal(err)
	}
	tn := &tenant{Tenant: tenancy.Tenant{UID: vc.UID, Namespace: namespace, Name: name}}
	tn.kubeconfig = filepath.Join(t.TempDir(), name+".kubeconfig")
	if out, err := superTool(t.Context(), "kubectl-vc", "kubeconfig", name, "-n", namespace, "--output", tn.kubeconfig); err != nil {
		t.Fatalf("writing the kubeconfig of %s: %v\n%s", name, err, out)
	}
	data, err := os.ReadFile(tn.kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	if tn.config, err = kubeconfig.RESTConfig(data); err != nil {
		t.Fatal(err)
	}
	tn.config.QPS, tn.config.Burst = 200, 400
	if tn.client, err = client.New(tn.config, client.Options{Scheme: testenv.Scheme()}); err != nil {
		t.Fatal(err)
	}
	return tn
}

// kubectl runs kubectl with the tenant's kubeconfig alone and fails the test on error.
func (tn *tenant) kubectl(t *testing.T, args ...string) string {
	t.Helper()
	out, err := tn.tryKubectl(t.Context(), args...)
	if err != nil {
		t.Fatalf("kubectl %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return out
}

func (tn *tenant) tryKubectl(ctx context.Context, args ...string) (string, error) {
	return output(tn.command(ctx, args...))
}

func (tn *tenant) command(ctx context.Context, args ...string) *exec.Cmd {
	command := exec.CommandContext(ctx, bin("kubectl"), args...)
	command.Env = append(os.Environ(), "KUBECONFIG="+tn.kubeconfig, "KUBECACHEDIR="+filepath.Dir(tn.kubeconfig))
	return command
}

// apply applies a file of testdata/ in the tenant.
func (tn *tenant) apply(t *testing.T, file string) {
	t.Helper()
	tn.kubectl(t, "apply", "-f", filepath.Join("testdata", file))
}

// superTool runs a program of bin/ against the super cluster.
func superTool(ctx context.Context, name string, args ...string) (string, error) {
	command := exec.CommandContext(ctx, bin(name), args...)
	command.Env = append(os.Environ(), "KUBECONFIG="+super.kubeconfig)
	return output(command)
}

func output(command *exec.Cmd) (string, error) {
	var buffer bytes.Buffer
	command.Stdout, command.Stderr = &buffer, &buffer
	err := command.Run()
	return buffer.String(), err
}

// eventually polls until check returns nil, and fails the test with its last
// error once the time is over.
func eventually(t *testing.T, within time.Duration, what string, check func(ctx context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), within)
	defer cancel()
	ticker := time.NewTicker(250 * time.Millisecond)
	defer ticker.Stop()
	last := errors.New("never tried")
	for {
		// A try that the deadline cut off says less than the one before it.
		if err := check(ctx); err == nil {
			return
		} else if ctx.Err() == nil {
			last = err
		}
		select {
		case <-ctx.Done():
			t.Fatalf("%s: not within %s: %v", what, within, last)
		case <-ticker.C:
		}
	}
}

// describeControlPlane gathers what explains a virtual cluster that is not Ready.
func describeControlPlane(name string) string {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	var text strings.Builder
	for _, args := range [][]string{
		{"get", "virtualcluster", name, "-n", namespace, "-o", "yaml"},
		{"get", "pods", "-A", "-o", "wide"},
		{"logs", "-n", "bulkhead-system", "deploy/vc-manager", "--tail", "30"},
		{"logs", "-n", "bulkhead-system", "deploy/syncer", "--tail", "30"},
	} {
		out, err := superTool(ctx, "kubectl", args...)
		fmt.Fprintf(&text, "--- kubectl %s (%v)\n%s\n", strings.Join(args, " "), err, out)
	}
	return text.String()
}
