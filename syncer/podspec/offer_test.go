package podspec

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/bulkhead-dev/bulkhead/syncer/translation"
)

func TestOfferedRuntimeClasses(t *testing.T) {
	for name, tc := range map[string]struct {
		ofClass  string
		offered  []string
		asked    string
		overhead bool
		want     string
		told     string
		refused  bool
	}{
		"none":                         {},
		"the class's":                  {ofClass: "kata", want: "kata"},
		"the class's, by its name":     {ofClass: "kata", asked: "kata", want: "kata"},
		"an offered one":               {ofClass: "kata", offered: []string{"gvisor"}, asked: "gvisor", want: "gvisor"},
		"its overhead":                 {offered: []string{"gvisor"}, asked: "gvisor", overhead: true, want: "gvisor"},
		"not asked for":                {ofClass: "kata", offered: []string{"gvisor"}, want: "kata"},
		"foreign":                      {ofClass: "kata", offered: []string{"gvisor"}, asked: "runc", want: "kata", told: "spec.runtimeClassName: " + ruleRuntime, refused: true},
		"foreign, where there is none": {asked: "runc", told: "spec.runtimeClassName: " + ruleRuntime, refused: true},
		"overhead of its own":          {overhead: true, told: "spec.overhead: " + ruleOverhead},
	} {
		pod := tenantPod()
		if tc.asked != "" {
			pod.Spec.RuntimeClassName = &tc.asked
		}
		if tc.overhead {
			pod.Spec.Overhead = corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("1")}
		}
		in := input(pod)
		in.Tenant.RuntimeClassName, in.Tenant.RuntimeClasses = tc.ofClass, tc.offered
		got, findings := Translate(in)
		var have string
		if got.Spec.RuntimeClassName != nil {
			have = *got.Spec.RuntimeClassName
		}
		if have != tc.want || len(got.Spec.Overhead) > 0 || translation.Summary(findings, tc.refused) != tc.told || translation.Refused(findings) != tc.refused {
			t.Errorf("%s: runtime class %q, overhead %v, findings %v", name, have, got.Spec.Overhead, findings)
		}
	}
}

// No tenant's pod preempts another's (decision D8), whatever the platform's classes say.
func TestOfferedPriorityClasses(t *testing.T) {
	never, preempt := corev1.PreemptNever, corev1.PreemptLowerPriority
	class := func(value int32, policy *corev1.PreemptionPolicy) *schedulingv1.PriorityClass {
		return &schedulingv1.PriorityClass{ObjectMeta: metav1.ObjectMeta{Name: "gold"}, Value: value, PreemptionPolicy: policy}
	}
	for name, tc := range map[string]struct {
		class  *schedulingv1.PriorityClass
		policy *corev1.PreemptionPolicy
		want   string
		told   string
	}{
		"offered":                          {class: class(1000, &never), policy: &never, want: "gold"},
		"one that preempts":                {class: class(1000, &preempt), policy: &preempt, told: "spec.priorityClassName: " + rulePreempting},
		"one that preempts by default":     {class: class(1000, nil), told: "spec.priorityClassName: " + rulePreempting},
		"above what is the users'":         {class: class(1_000_000_001, &never), told: "spec.priorityClassName: " + rulePreempting},
		"the tenant's own":                 {told: "spec.priorityClassName: " + rulePriority},
		"the tenant's own, never preempts": {policy: &never, told: "spec.preemptionPolicy: " + rulePriority + "; spec.priorityClassName: " + rulePriority},
	} {
		pod := tenantPod()
		value := int32(1000)
		pod.Spec.PriorityClassName, pod.Spec.Priority, pod.Spec.PreemptionPolicy = "gold", &value, tc.policy
		in := input(pod)
		in.PriorityClass, in.Tenant.PriorityClasses = tc.class, []string{"gold"}
		got, findings := Translate(in)
		if got.Spec.PriorityClassName != tc.want || got.Spec.Priority != nil || got.Spec.PreemptionPolicy != nil ||
			translation.Summary(findings, false) != tc.told || translation.Refused(findings) {
			t.Errorf("%s: class %q, findings %v", name, got.Spec.PriorityClassName, findings)
		}
		in.Tenant.PriorityClasses = nil
		if got, _ := Translate(in); got.Spec.PriorityClassName != "" {
			t.Errorf("%s: goes down although it is not offered", name)
		}
	}
}
