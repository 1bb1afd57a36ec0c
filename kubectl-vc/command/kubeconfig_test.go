package command

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/bulkhead-dev/bulkhead/api/tenancy/v1alpha1"
	"github.com/bulkhead-dev/bulkhead/internal/testenv"
	"github.com/bulkhead-dev/bulkhead/kubectl-vc/phase"
	"github.com/bulkhead-dev/bulkhead/kubectl-vc/userconfig"
)

func TestKubeconfig(t *testing.T) {
	u := newUser(t)
	vc, content := u.create(t, "demo"), tenantKubeconfig(t)
	publish(t, vc, content)
	u.setConditions(t, vc, phase.Order)

	r := u.run(t.Context(), "kubeconfig", "demo")
	if r.err != nil {
		t.Fatal(r.err)
	}
	if diff := cmp.Diff(string(content), r.out); diff != "" {
		t.Error(diff)
	}

	file := filepath.Join(t.TempDir(), "demo.kubeconfig")
	if r := u.run(t.Context(), "kubeconfig", "demo", "--output", file); r.err != nil || r.out != "" {
		t.Fatalf("%s", r)
	}
	written, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(content), string(written)); diff != "" {
		t.Error(diff)
	}
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	mustFail(t, u.run(t.Context(), "kubeconfig", "demo", "--name", "x"), "--name goes with --merge")
}

func TestKubeconfigMerge(t *testing.T) {
	u := newUser(t)
	vc := u.create(t, "demo")
	publish(t, vc, tenantKubeconfig(t))
	u.setConditions(t, vc, phase.Order)

	// Twice: the second replaces the first.
	for range 2 {
		if r := u.run(t.Context(), "kubeconfig", "demo", "--merge"); r.err != nil {
			t.Fatal(r.err)
		}
	}
	config, err := clientcmd.LoadFromFile(u.kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	if config.CurrentContext != "testenv" || len(config.Contexts) != 2 || config.Clusters["demo"].Server != "https://10.1.2.3:31000" {
		t.Errorf("contexts %v, current %s", config.Contexts, config.CurrentContext)
	}

	var foreign *userconfig.ForeignError
	r := u.run(t.Context(), "kubeconfig", "demo", "--merge", "--name", "testenv")
	if !errors.As(r.err, &foreign) {
		t.Errorf("got %v", r.err)
	}
	mustFail(t, r, "choose another name with --name")
}

func TestKubeconfigOfOneThatIsNotReady(t *testing.T) {
	u := newUser(t)
	vc := u.create(t, "demo")
	mustFail(t, u.run(t.Context(), "kubeconfig", "demo"), "demo is not Ready", "vc-manager to begin with it")
	u.setConditions(t, vc, []string{v1alpha1.ConditionNamespaceReady, v1alpha1.ConditionCertificatesReady},
		metav1.Condition{Type: v1alpha1.ConditionEtcdReady, Status: metav1.ConditionFalse, Reason: "PodPending", Message: "no node has room"})
	mustFail(t, u.run(t.Context(), "kubeconfig", "demo"), "demo is not Ready", "EtcdReady (PodPending: no node has room)")
	u.setConditions(t, vc, phase.Order)
	mustFail(t, u.run(t.Context(), "kubeconfig", "demo"), "secret "+vc.Status.ControlPlaneNamespace+"/admin-kubeconfig is not there")
	mustFail(t, u.run(t.Context(), "kubeconfig", "other"), `virtual cluster "other" not found`, "kubectl vc list -A")

	testenv.Change(t, shared.Client, vc, func() { vc.Finalizers = []string{"example.dev/keep"} })
	if r := u.run(t.Context(), "delete", "demo"); r.err != nil {
		t.Fatal(r.err)
	}
	mustFail(t, u.run(t.Context(), "kubeconfig", "demo"), "being deleted")
}

// A Secret that somebody meddled with never becomes a file that runs commands.
func TestKubeconfigThatRunsAProgram(t *testing.T) {
	u := newUser(t)
	vc := u.create(t, "demo")
	publish(t, vc, []byte(`{apiVersion: v1, kind: Config, current-context: x, contexts: [{name: x, context: {cluster: x, user: x}}],
		clusters: [{name: x, cluster: {server: "https://x.example", certificate-authority-data: Y2E=}}],
		users: [{name: x, user: {exec: {apiVersion: client.authentication.k8s.io/v1, command: evil, interactiveMode: Never}}}]}`))
	u.setConditions(t, vc, phase.Order)
	mustFail(t, u.run(t.Context(), "kubeconfig", "demo"), "runs a program to authenticate")
}

func TestKubeconfigWithoutTheRight(t *testing.T) {
	owner := newUser(t)
	vc := owner.create(t, "demo")
	publish(t, vc, tenantKubeconfig(t))
	owner.setConditions(t, vc, phase.Order)
	guest := newUserWith(t, shared, owner.namespace, rbacv1.PolicyRule{
		APIGroups: []string{v1alpha1.GroupVersion.Group}, Resources: []string{"virtualclusters"}, Verbs: []string{"get"},
	})
	mustFail(t, guest.run(t.Context(), "kubeconfig", "demo"), "admin-kubeconfig", "you lack a right to secrets", `cannot get resource "secrets"`)
	mustFail(t, guest.run(t.Context(), "list"), "you lack a right to virtualclusters.tenancy.bulkhead.dev", `cannot list resource "virtualclusters"`)
	mustFail(t, guest.run(t.Context(), "create", "other"), `cannot create resource "virtualclusters"`)
	mustFail(t, guest.run(t.Context(), "delete", "demo"), `cannot delete resource "virtualclusters"`)
}
