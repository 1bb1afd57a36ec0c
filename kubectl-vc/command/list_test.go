package command

import (
	"bytes"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/cli-runtime/pkg/printers"
	"sigs.k8s.io/yaml"

	"github.com/bulkhead-dev/bulkhead/api/tenancy/v1alpha1"
	"github.com/bulkhead-dev/bulkhead/kubectl-vc/phase"
)

// now is the time at which the golden files are written.
var now = time.Date(2026, 5, 4, 12, 0, 0, 0, time.UTC)

func ago(d time.Duration) metav1.Time { return metav1.NewTime(now.Add(-d)) }

// examples are virtual clusters in all states.
func examples() []v1alpha1.VirtualCluster {
	spec := v1alpha1.VirtualClusterSpec{ClassName: "default", ServiceCIDR: "10.96.0.0/16", ClusterDomain: "cluster.local"}
	deleting := ago(10 * time.Second)
	return []v1alpha1.VirtualCluster{
		{
			ObjectMeta: metav1.ObjectMeta{Namespace: "tenants", Name: "demo", UID: "uid-1", CreationTimestamp: ago(3 * time.Hour)},
			Spec:       spec,
			Status: v1alpha1.VirtualClusterStatus{
				ControlPlaneNamespace: "vc-demo-abc", Endpoint: "https://10.1.2.3:31000", Version: "v1.36.3",
				Conditions: []metav1.Condition{
					{Type: v1alpha1.ConditionReady, Status: metav1.ConditionTrue, Reason: "Ready", Message: "the kubeconfig can be used", LastTransitionTime: ago(2 * time.Hour)},
					{Type: v1alpha1.ConditionSynced, Status: metav1.ConditionTrue, Reason: "Synced", LastTransitionTime: ago(2 * time.Hour)},
					{Type: v1alpha1.ConditionNamespaceReady, Status: metav1.ConditionTrue, Reason: "Exists", LastTransitionTime: ago(3 * time.Hour)},
				},
			},
		},
		{
			ObjectMeta: metav1.ObjectMeta{Namespace: "tenants", Name: "fresh", UID: "uid-2", CreationTimestamp: ago(time.Second)},
			Spec:       spec,
		},
		{
			ObjectMeta: metav1.ObjectMeta{Namespace: "others", Name: "stuck", UID: "uid-3", CreationTimestamp: ago(5 * time.Minute)},
			Spec:       spec,
			Status: v1alpha1.VirtualClusterStatus{Conditions: []metav1.Condition{
				{Type: v1alpha1.ConditionReady, Status: metav1.ConditionFalse, Reason: v1alpha1.ReasonClassNotFound, Message: "there is no VirtualClusterClass default"},
			}},
		},
		{
			ObjectMeta: metav1.ObjectMeta{Namespace: "others", Name: "going", UID: "uid-4", CreationTimestamp: ago(48 * time.Hour), DeletionTimestamp: &deleting},
			Spec:       spec,
			Status: v1alpha1.VirtualClusterStatus{Conditions: []metav1.Condition{
				{Type: v1alpha1.ConditionReady, Status: metav1.ConditionFalse, Reason: v1alpha1.ReasonDeleting, Message: "pods in namespace vc-going-web"},
			}},
		},
	}
}

func TestTable(t *testing.T) {
	for name, options := range map[string]printers.PrintOptions{
		"list.out":      {},
		"list-wide.out": {Wide: true, WithNamespace: true},
	} {
		var out bytes.Buffer
		if err := printers.NewTablePrinter(options).PrintObj(asTable(&v1alpha1.VirtualClusterList{Items: examples()}, now), &out); err != nil {
			t.Fatal(err)
		}
		golden(t, "testdata/"+name, out.String())
	}
}

func TestList(t *testing.T) {
	u := newUser(t)
	if r := u.run(t.Context(), "list"); r.err != nil || r.out != "" || !strings.Contains(r.errOut, "no virtual clusters in namespace "+u.namespace) {
		t.Errorf("%s", r)
	}
	u.create(t, "b")
	u.setConditions(t, u.create(t, "a"), phase.Order)
	r := u.run(t.Context(), "list")
	lines := strings.Split(strings.TrimSpace(r.out), "\n")
	if r.err != nil || len(lines) != 3 || !strings.HasPrefix(lines[1], "a ") || !strings.HasPrefix(lines[2], "b ") {
		t.Errorf("%s", r)
	}
	if r := u.run(t.Context(), "list", "-A"); r.err != nil || !strings.Contains(r.out, u.namespace) {
		t.Errorf("%s", r)
	}
	if r := u.run(t.Context(), "list", "-o", "name"); r.err != nil || r.out != "virtualcluster.tenancy.bulkhead.dev/a\nvirtualcluster.tenancy.bulkhead.dev/b\n" {
		t.Errorf("%s", r)
	}
	r = u.run(t.Context(), "list", "-o", "yaml")
	var list v1alpha1.VirtualClusterList
	if err := yaml.UnmarshalStrict([]byte(r.out), &list); r.err != nil || err != nil || len(list.Items) != 2 {
		t.Errorf("%v, %s", err, r)
	}
	if r := u.run(t.Context(), "list", "-o", "jsonpath={.items[0].metadata.name}"); r.err != nil || r.out != "a" {
		t.Errorf("%s", r)
	}
	mustFail(t, u.run(t.Context(), "list", "-o", "picture"), "picture", "yaml")
}
