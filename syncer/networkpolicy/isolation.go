package networkpolicy

import (
	"slices"

	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/bulkhead-dev/bulkhead/internal/tenancy"
)

// isolated is the value of the labels.
const isolated = "true"

// Isolation are the labels of a super pod that say for which directions policies of
// the tenant decide, out of those in its namespace: what the fence lets pass by
// default does not hold for it then. A policy that does not go down counts too: what
// its author wanted to close stays closed.
func Isolation(pod map[string]string, policies []networkingv1.NetworkPolicy) map[string]string {
	out := map[string]string{}
	for i := range policies {
		selector, err := metav1.LabelSelectorAsSelector(&policies[i].Spec.PodSelector)
		if err != nil || !selector.Matches(labels.Set(pod)) {
			continue // the tenant's apiserver takes none that cannot be read
		}
		if applies(&policies[i].Spec, networkingv1.PolicyTypeIngress) {
			out[tenancy.LabelIngressIsolated] = isolated
		}
		if applies(&policies[i].Spec, networkingv1.PolicyTypeEgress) {
			out[tenancy.LabelEgressIsolated] = isolated
		}
	}
	return out
}

// applies reads policyTypes, and what the apiserver fills in without them.
func applies(spec *networkingv1.NetworkPolicySpec, direction networkingv1.PolicyType) bool {
	if len(spec.PolicyTypes) == 0 {
		return direction == networkingv1.PolicyTypeIngress || len(spec.Egress) > 0
	}
	return slices.Contains(spec.PolicyTypes, direction)
}

// Isolate writes Isolation onto a super pod, which may be changed.
func Isolate(super metav1.Object, isolation map[string]string) {
	marks := super.GetLabels()
	for _, key := range []string{tenancy.LabelIngressIsolated, tenancy.LabelEgressIsolated} {
		if value, is := isolation[key]; is {
			if marks == nil {
				marks = map[string]string{}
			}
			marks[key] = value
		} else {
			delete(marks, key)
		}
	}
	super.SetLabels(marks)
}
