package phase

import (
	"bytes"
	"flag"
	"os"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/bulkhead-dev/bulkhead/api/tenancy/v1alpha1"
	"github.com/bulkhead-dev/bulkhead/internal/tenancy"
)

var update = flag.Bool("update", false, "write golden files anew")

// cluster has the conditions; a value of "" is True, any other a message of False.
func cluster(conditions ...metav1.Condition) *v1alpha1.VirtualCluster {
	return &v1alpha1.VirtualCluster{
		ObjectMeta: metav1.ObjectMeta{Finalizers: []string{"tenancy.bulkhead.dev/control-plane"}},
		Status:     v1alpha1.VirtualClusterStatus{Conditions: conditions},
	}
}

func yes(name string) metav1.Condition {
	return metav1.Condition{Type: name, Status: metav1.ConditionTrue, Reason: "Done"}
}

func no(name, reason, message string) metav1.Condition {
	return metav1.Condition{Type: name, Status: metav1.ConditionFalse, Reason: reason, Message: message}
}

func TestWaits(t *testing.T) {
	deleting := func(conditions ...metav1.Condition) *v1alpha1.VirtualCluster {
		vc := cluster(conditions...)
		vc.DeletionTimestamp = &metav1.Time{Time: time.Unix(1, 0)}
		return vc
	}
	for name, tc := range map[string]struct {
		vc   *v1alpha1.VirtualCluster
		want string
	}{
		"untouched": {cluster(), "for vc-manager to begin with it (`kubectl get deployment vc-manager -A` shows whether that runs)"},
		"ready":     {cluster(yes("Ready")), ""},
		"first that is false": {
			cluster(yes("NamespaceReady"), yes("CertificatesReady"), no("EtcdReady", "PodPending", "0/3 nodes fit"), no("Ready", "EtcdNotReady", "see EtcdReady")),
			"for EtcdReady (PodPending: 0/3 nodes fit)",
		},
		"not set yet: what Ready says": {
			cluster(yes("NamespaceReady"), no("Ready", "CertificatesNotReady", "issuing certificates")),
			"for CertificatesReady (CertificatesNotReady: issuing certificates)",
		},
		"no message":      {cluster(no("NamespaceReady", "ClassNotFound", "")), "for NamespaceReady (ClassNotFound)"},
		"all but Ready":   {cluster(yes("NamespaceReady"), yes("CertificatesReady"), yes("EtcdReady"), yes("APIServerReady"), yes("ControllerManagerReady"), yes("Bootstrapped")), "for Ready"},
		"deleting":        {deleting(no("Ready", "Deleting", "2 namespaces left")), "for 2 namespaces left"},
		"deleting, until": {deleting(no("Ready", "Deleting", "waiting until namespace x is gone")), "until namespace x is gone"},
		"deleting, the syncer's part": {
			withSyncer(deleting(no("Ready", "Deleting", "waiting for the syncer"), no("Synced", "Deleting", "3 namespaces are being deleted"))),
			"for the syncer (3 namespaces are being deleted)",
		},
		"deleting, the syncer is done": {
			deleting(no("Ready", "Deleting", "waiting until namespace x is gone"), no("Synced", "Deleting", "0 namespaces are being deleted")),
			"until namespace x is gone",
		},
		"deleting, no message": {deleting(yes("Ready")), "for its finalizers [tenancy.bulkhead.dev/control-plane]"},
	} {
		if got := Waits(tc.vc); got != tc.want {
			t.Errorf("%s: got %q, want %q", name, got, tc.want)
		}
	}
}

func withSyncer(vc *v1alpha1.VirtualCluster) *v1alpha1.VirtualCluster {
	vc.Finalizers = append(vc.Finalizers, tenancy.FinalizerSyncer)
	return vc
}

func TestTimeline(t *testing.T) {
	start := time.Unix(1000, 0)
	timeline := NewTimeline(start)
	at := func(ms int) time.Time { return start.Add(time.Duration(ms) * time.Millisecond) }
	for _, step := range []struct {
		ms         int
		conditions []metav1.Condition
		want       []string
	}{
		{5, nil, nil},
		{120, []metav1.Condition{yes("NamespaceReady")}, []string{"NamespaceReady"}},
		{410, []metav1.Condition{yes("NamespaceReady"), yes("CertificatesReady")}, []string{"CertificatesReady"}},
		{500, []metav1.Condition{yes("NamespaceReady"), yes("CertificatesReady"), no("Ready", "EtcdNotReady", "x")}, nil},
		{2000, []metav1.Condition{yes("NamespaceReady"), yes("CertificatesReady"), yes("EtcdReady")}, []string{"EtcdReady"}},
		// Flaps; the controller-manager is quicker than the apiserver's condition.
		{2300, []metav1.Condition{yes("NamespaceReady"), yes("CertificatesReady"), no("EtcdReady", "NotServing", "x")}, nil},
		{3001, []metav1.Condition{yes("NamespaceReady"), yes("CertificatesReady"), yes("EtcdReady"), yes("ControllerManagerReady")}, []string{"EtcdReady", "ControllerManagerReady"}},
		{4250, []metav1.Condition{yes("NamespaceReady"), yes("CertificatesReady"), yes("EtcdReady"), yes("ControllerManagerReady"), yes("APIServerReady"), yes("Synced"), yes("Bootstrapped"), yes("Ready")}, []string{"APIServerReady", "Bootstrapped", "Synced", "Ready"}},
	} {
		if diff := cmp.Diff(step.want, timeline.Observe(cluster(step.conditions...), at(step.ms))); diff != "" {
			t.Errorf("after %d ms:\n%s", step.ms, diff)
		}
	}
	var sum time.Duration
	for _, phase := range timeline.Phases() {
		sum += phase.Share
	}
	if ready := timeline.After("Ready"); sum != ready || ready != 4250*time.Millisecond {
		t.Errorf("the shares add up to %v, Ready came after %v", sum, ready)
	}
	if timeline.After("Unknown") != 0 {
		t.Error("a condition that never came true has a time")
	}

	var table bytes.Buffer
	if err := timeline.WriteTable(&table); err != nil {
		t.Fatal(err)
	}
	const file = "testdata/table.txt"
	if *update {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, table.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), table.String()); diff != "" {
		t.Error(diff)
	}
}

func TestTableOfNothing(t *testing.T) {
	var table bytes.Buffer
	if err := NewTimeline(time.Unix(0, 0)).WriteTable(&table); err != nil || table.Len() != 0 {
		t.Errorf("%q, %v", table.String(), err)
	}
}
