//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	tenancyv1alpha1 "github.com/bulkhead-dev/bulkhead/api/tenancy/v1alpha1"
	"github.com/bulkhead-dev/bulkhead/internal/tenancy"
)

// createPrintsPhases reads what create --wait says of the time it took.
func createPrintsPhases(t *testing.T) {
	ctx := t.Context()
	ensureTestNamespace(t)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
		defer cancel()
		if out, err := superTool(ctx, "kubectl-vc", "delete", "timed", "-n", namespace, "--wait"); err != nil {
			t.Errorf("deleting it: %v\n%s", err, out)
		}
	})
	out, err := superTool(ctx, "kubectl-vc", "create", "timed", "-n", namespace, "--wait", "--timeout", "4m")
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, condition := range []string{tenancyv1alpha1.ConditionNamespaceReady, tenancyv1alpha1.ConditionEtcdReady, tenancyv1alpha1.ConditionAPIServerReady, tenancyv1alpha1.ConditionReady} {
		if !regexp.MustCompile(condition + `.*\d+(\.\d+)? ?s`).MatchString(out) {
			t.Errorf("no time for %s in\n%s", condition, out)
		}
	}
	list, err := superTool(ctx, "kubectl-vc", "list", "-n", namespace)
	if err != nil || !regexp.MustCompile(`(?m)^timed\s.*True`).MatchString(list) {
		t.Errorf("list: %v\n%s", err, list)
	}
	describe, err := superTool(ctx, "kubectl-vc", "describe", "timed", "-n", namespace)
	if err != nil || !strings.Contains(describe, "kube-apiserver") {
		t.Errorf("describe: %v\n%s", err, describe)
	}
	// What vc-manager sets, kubectl wait understands.
	if out, err := superTool(ctx, "kubectl", "wait", "--for=condition=Ready", "virtualcluster/timed", "-n", namespace, "--timeout=10s"); err != nil {
		t.Errorf("kubectl wait: %v\n%s", err, out)
	}
}

// namespaceThatIsNotOurs takes the name of a control-plane namespace before
// vc-manager can: it is not adopted, the virtual cluster says so, and its deletion
// leaves the stranger alone.
func namespaceThatIsNotOurs(t *testing.T) {
	ctx := t.Context()
	ensureTestNamespace(t)
	// The name comes from the UID, which is known only once the object exists: a
	// class that does not exist yet holds vc-manager back.
	vc := &tenancyv1alpha1.VirtualCluster{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "taken"},
		Spec:       tenancyv1alpha1.VirtualClusterSpec{ClassName: "late"},
	}
	if err := super.client.Create(ctx, vc); err != nil {
		t.Fatal(err)
	}
	out, err := superTool(ctx, "kubectl-vc", "kubeconfig", "taken", "-n", namespace)
	if err == nil || !strings.Contains(out, "Ready") {
		t.Errorf("kubeconfig of a virtual cluster that is not ready: %v\n%s", err, out)
	}
	name := tenancy.Tenant{UID: vc.UID, Namespace: namespace, Name: "taken"}.ControlPlaneNamespace()
	stranger := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"mine": "yes"}}}
	if err := super.client.Create(ctx, stranger); err != nil {
		t.Fatal(err)
	}
	class := &tenancyv1alpha1.VirtualClusterClass{ObjectMeta: metav1.ObjectMeta{Name: "late"}}
	if err := super.client.Create(ctx, class); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		for _, object := range []client.Object{stranger, class} {
			if err := client.IgnoreNotFound(super.client.Delete(ctx, object)); err != nil {
				t.Error(err)
			}
		}
	})
	eventually(t, time.Minute, "a condition says that the name is taken", func(ctx context.Context) error {
		if err := super.client.Get(ctx, client.ObjectKeyFromObject(vc), vc); err != nil {
			return err
		}
		ready := meta.FindStatusCondition(vc.Status.Conditions, tenancyv1alpha1.ConditionReady)
		if ready == nil || ready.Reason != tenancyv1alpha1.ReasonNameTaken || !strings.Contains(ready.Message, name) {
			return fmt.Errorf("condition %+v", ready)
		}
		return nil
	})
	if out, err := superTool(ctx, "kubectl-vc", "delete", "taken", "-n", namespace, "--wait", "--timeout", "1m"); err != nil {
		t.Fatalf("deleting: %v\n%s", err, out)
	}
	if err := super.client.Get(ctx, client.ObjectKey{Name: name}, stranger); err != nil {
		t.Fatal(err)
	}
	if stranger.DeletionTimestamp != nil || stranger.Labels["mine"] != "yes" || stranger.Labels[tenancy.LabelTenant] != "" {
		t.Errorf("the stranger's namespace was touched: %+v", stranger.ObjectMeta)
	}
}

func ensureTestNamespace(t *testing.T) {
	t.Helper()
	err := super.client.Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}})
	if client.IgnoreAlreadyExists(err) != nil {
		t.Fatal(err)
	}
}
