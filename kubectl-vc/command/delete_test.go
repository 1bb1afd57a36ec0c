package command

import (
	"context"
	"strings"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/bulkhead-dev/bulkhead/api/tenancy/v1alpha1"
	"github.com/bulkhead-dev/bulkhead/internal/tenancy"
	"github.com/bulkhead-dev/bulkhead/internal/testenv"
)

func TestDelete(t *testing.T) {
	u := newUser(t)
	vc := u.create(t, "demo")
	r := u.run(t.Context(), "delete", "demo")
	if r.err != nil || r.out != "virtualcluster.tenancy.bulkhead.dev/demo is being deleted\n" {
		t.Fatalf("%s", r)
	}
	if err := shared.Client.Get(t.Context(), client.ObjectKeyFromObject(vc), vc); !apierrors.IsNotFound(err) {
		t.Errorf("still there: %v", err)
	}
	mustFail(t, u.run(t.Context(), "delete", "demo"), `virtual cluster "demo" not found`)
}

// held is a virtual cluster that stays until its finalizer is taken off.
func held(t *testing.T, u user) *v1alpha1.VirtualCluster {
	t.Helper()
	vc := u.create(t, "demo")
	testenv.Change(t, shared.Client, vc, func() { vc.Finalizers = []string{tenancy.FinalizerControlPlane} })
	return vc
}

// awaitDeletion returns when the API server has taken the deletion.
func awaitDeletion(t *testing.T, vc *v1alpha1.VirtualCluster) {
	t.Helper()
	err := wait.PollUntilContextTimeout(t.Context(), 20*time.Millisecond, patience, true, func(ctx context.Context) (bool, error) {
		err := shared.Client.Get(ctx, client.ObjectKeyFromObject(vc), vc)
		return vc.DeletionTimestamp != nil, err
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestDeleteWait(t *testing.T) {
	u := newUser(t)
	vc := held(t, u)
	done := u.start(t.Context(), "delete", "demo", "--wait")
	awaitDeletion(t, vc)
	u.setConditions(t, vc, nil, metav1.Condition{Type: v1alpha1.ConditionReady, Status: metav1.ConditionFalse, Reason: v1alpha1.ReasonDeleting, Message: "2 namespaces of workloads"})
	testenv.Change(t, shared.Client, vc, func() { vc.Finalizers = nil })
	r := await(t, done)
	if r.err != nil || !strings.Contains(r.out, "demo deleted after") {
		t.Errorf("%s", r)
	}
	if !strings.Contains(r.errOut, "waiting for 2 namespaces of workloads\n") {
		t.Errorf("progress:\n%s", r.errOut)
	}
}

func TestDeleteWaitTellsWhatIsLeft(t *testing.T) {
	u := newUser(t)
	vc := held(t, u)
	mustFail(t, u.run(t.Context(), "delete", "demo", "--wait", "--timeout", "1s"), "timed out", "not gone yet", tenancy.FinalizerControlPlane, "kubectl vc describe demo")
	testenv.Change(t, shared.Client, vc, func() { vc.Finalizers = nil })
}
