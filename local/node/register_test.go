package node

import (
	"context"
	"strings"
	"testing"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/bulkhead-dev/bulkhead/internal/testenv"
	"github.com/bulkhead-dev/bulkhead/local/layout"
)

// TestReady plays the kubelet, whose last words it has to tell from fresh ones.
func TestReady(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	c := testenv.New(t, testenv.Options{}).Client
	n := layout.DefaultSettings().NodeList()[0]
	started := time.Now()
	check := func(what, want string) {
		t.Helper()
		err := ready(ctx, c, n, started)
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error %v, want %q in it", what, err, want)
		}
	}
	check("before it registers", "not found")

	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: n.Name}}
	if err := c.Create(ctx, node); err != nil {
		t.Fatal(err)
	}
	check("before it reports", "not reported yet")
	report := func(status corev1.ConditionStatus, at time.Time) {
		t.Helper()
		testenv.ChangeStatus(t, c, node, func() {
			node.Status.Conditions = []corev1.NodeCondition{{
				Type: corev1.NodeReady, Status: status, Reason: "KubeletNotReady", Message: "network is missing",
				LastHeartbeatTime: metav1.NewTime(at),
			}}
		})
	}
	report(corev1.ConditionFalse, started)
	check("not ready", "network is missing")
	report(corev1.ConditionTrue, started)
	check("ready", "")
	if err := c.Get(ctx, client.ObjectKeyFromObject(node), node); err != nil {
		t.Fatal(err)
	}
	if node.Spec.PodCIDR != n.PodCIDR.String() {
		t.Errorf("pod network %q, want %s", node.Spec.PodCIDR, n.PodCIDR)
	}

	report(corev1.ConditionTrue, started.Add(-time.Hour))
	check("only the former kubelet's word, no lease", "not found")
	if err := c.Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: corev1.NamespaceNodeLease}}); client.IgnoreAlreadyExists(err) != nil {
		t.Fatal(err)
	}
	renewed := metav1.NewMicroTime(started.Add(-time.Minute))
	lease := &coordinationv1.Lease{
		ObjectMeta: metav1.ObjectMeta{Namespace: corev1.NamespaceNodeLease, Name: n.Name},
		Spec:       coordinationv1.LeaseSpec{RenewTime: &renewed},
	}
	if err := c.Create(ctx, lease); err != nil {
		t.Fatal(err)
	}
	check("a lease of the former kubelet", "has not reported yet")
	renewed = metav1.NewMicroTime(started.Add(time.Second))
	testenv.Change(t, c, lease, func() { lease.Spec.RenewTime = &renewed })
	check("renewed by the one that runs", "")
}
