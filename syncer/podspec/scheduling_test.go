package podspec

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/bulkhead-dev/bulkhead/syncer/translation"
)

func offering(selector metav1.LabelSelector) translation.Tenant {
	t := demo()
	t.Nodes = &selector
	return t
}

// A pod runs on no node but those that its class offers, whatever else it asks for.
func TestPodsAreConfinedToOfferedNodes(t *testing.T) {
	pool := corev1.NodeSelectorRequirement{Key: "pool", Operator: corev1.NodeSelectorOpIn, Values: []string{"tenants"}}
	zones := corev1.NodeSelectorRequirement{Key: "zone", Operator: corev1.NodeSelectorOpNotIn, Values: []string{"z9"}}
	own := corev1.NodeSelectorRequirement{Key: "disk", Operator: corev1.NodeSelectorOpExists}
	daemon := corev1.NodeSelectorRequirement{Key: "metadata.name", Operator: corev1.NodeSelectorOpIn, Values: []string{"n1"}}
	selector := metav1.LabelSelector{
		MatchLabels:      map[string]string{"pool": "tenants"},
		MatchExpressions: []metav1.LabelSelectorRequirement{{Key: "zone", Operator: metav1.LabelSelectorOpNotIn, Values: []string{"z9"}}},
	}
	type terms = []corev1.NodeSelectorTerm
	for name, tc := range map[string]struct {
		tenant   translation.Tenant
		in, want terms
	}{
		"on demand":       {demo(), terms{{MatchExpressions: []corev1.NodeSelectorRequirement{own}}}, terms{{MatchExpressions: []corev1.NodeSelectorRequirement{own}}}},
		"all nodes":       {offering(metav1.LabelSelector{}), nil, nil},
		"none of its own": {offering(selector), nil, terms{{MatchExpressions: []corev1.NodeSelectorRequirement{pool, zones}}}},
		"each of its own": {
			offering(selector),
			terms{{MatchExpressions: []corev1.NodeSelectorRequirement{own}}, {MatchFields: []corev1.NodeSelectorRequirement{daemon}}},
			terms{
				{MatchExpressions: []corev1.NodeSelectorRequirement{own, pool, zones}},
				{MatchFields: []corev1.NodeSelectorRequirement{daemon}, MatchExpressions: []corev1.NodeSelectorRequirement{pool, zones}},
			},
		},
		"one that matches none": {offering(selector), terms{{}}, terms{{}}},
	} {
		pod := tenantPod()
		if tc.in != nil {
			pod.Spec.Affinity = &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{RequiredDuringSchedulingIgnoredDuringExecution: &corev1.NodeSelector{NodeSelectorTerms: tc.in}}}
		}
		in := input(pod)
		in.Tenant = tc.tenant
		got, findings := Translate(in)
		var have terms
		if got.Spec.Affinity != nil {
			have = got.Spec.Affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms
		}
		if diff := cmp.Diff(tc.want, have); diff != "" || len(findings) > 0 {
			t.Errorf("%s: %v %s", name, findings, diff)
		}
	}
}

func TestTolerationsOfOfferedNodes(t *testing.T) {
	all := corev1.Toleration{Operator: corev1.TolerationOpExists}
	for name, tc := range map[string]struct {
		tenant translation.Tenant
		want   []corev1.Toleration
	}{
		"on demand": {demo(), nil},
		"offered":   {offering(metav1.LabelSelector{}), []corev1.Toleration{all}},
	} {
		pod := tenantPod()
		pod.Spec.Tolerations = []corev1.Toleration{all}
		in := input(pod)
		in.Tenant = tc.tenant
		got, findings := Translate(in)
		if diff := cmp.Diff(tc.want, got.Spec.Tolerations); diff != "" || (len(findings) == 0) != (tc.want != nil) {
			t.Errorf("%s: %v %s", name, findings, diff)
		}
		super := &corev1.Pod{}
		Update(tc.tenant, pod, super)
		Update(tc.tenant, pod, super)
		if diff := cmp.Diff(tc.want, super.Spec.Tolerations); diff != "" {
			t.Errorf("%s, added later: %s", name, diff)
		}
	}
}

// A tenant that schedules itself names the node, by whichever scheduler it likes.
func TestNodeNamePassesOnlyFromATenantThatSchedules(t *testing.T) {
	pod := tenantPod()
	pod.Spec.NodeName, pod.Spec.SchedulerName = "n1", "mine"
	in := input(pod)
	in.Tenant = offering(metav1.LabelSelector{MatchLabels: map[string]string{"pool": "tenants"}})
	in.Tenant.SchedulesItself = true
	got, findings := Translate(in)
	if got.Spec.NodeName != "n1" || got.Spec.SchedulerName != "" || got.Spec.Affinity != nil || len(findings) > 0 {
		t.Errorf("node %q, scheduler %q, affinity %v, findings %v", got.Spec.NodeName, got.Spec.SchedulerName, got.Spec.Affinity, findings)
	}
	in.Tenant.SchedulesItself = false
	if got, findings := Translate(in); got.Spec.NodeName != "" || !translation.Refused(findings) {
		t.Errorf("node %q, findings %v", got.Spec.NodeName, findings)
	}
}
