package podspec

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/bulkhead-dev/bulkhead/internal/tenancy"
	"github.com/bulkhead-dev/bulkhead/syncer/translation"
)

func (t *translator) scheduling() {
	if name := t.in.SchedulerName; name != "" && name != corev1.DefaultSchedulerName {
		t.refuse("spec.schedulerName", ruleScheduler)
	}
	// The tenant's apiserver writes the defaults into every pod.
	if priority := t.in.Priority; priority != nil && *priority != 0 && t.in.PriorityClassName == "" {
		t.ignore("spec.priority", rulePriority)
	}
	if policy := t.in.PreemptionPolicy; policy != nil && *policy != corev1.PreemptLowerPriority {
		t.ignore("spec.preemptionPolicy", rulePriority)
	}
	for _, toleration := range t.in.Tolerations {
		if permittedToleration(toleration) {
			t.out.Tolerations = append(t.out.Tolerations, toleration)
		} else {
			t.ignore("spec.tolerations", "taints of the platform's nodes are not tolerated by tenants: "+toleration.Key)
		}
	}
	if affinity := t.out.Affinity; affinity != nil {
		if affinity.PodAffinity != nil {
			t.podTerms(affinity.PodAffinity.RequiredDuringSchedulingIgnoredDuringExecution, affinity.PodAffinity.PreferredDuringSchedulingIgnoredDuringExecution)
		}
		if affinity.PodAntiAffinity != nil {
			t.podTerms(affinity.PodAntiAffinity.RequiredDuringSchedulingIgnoredDuringExecution, affinity.PodAntiAffinity.PreferredDuringSchedulingIgnoredDuringExecution)
		}
	}
}

// podTerms keeps pod affinity inside the tenant: namespaces become its super
// namespaces, and a selector of namespaces selects among them only.
func (t *translator) podTerms(required []corev1.PodAffinityTerm, preferred []corev1.WeightedPodAffinityTerm) {
	for i := range required {
		t.podTerm(&required[i])
	}
	for i := range preferred {
		t.podTerm(&preferred[i].PodAffinityTerm)
	}
}

func (t *translator) podTerm(term *corev1.PodAffinityTerm) {
	for i, namespace := range term.Namespaces {
		term.Namespaces[i] = t.Tenant.SuperNamespace(namespace)
	}
	if term.NamespaceSelector != nil {
		term.NamespaceSelector = translation.NamespaceSelector(t.Tenant, term.NamespaceSelector)
	}
	withoutReserved(term.LabelSelector, t, "spec.affinity")
}

// withoutReserved reports a selector that asks for our marks.
func withoutReserved(selector *metav1.LabelSelector, t *translator, field string) {
	if selector == nil {
		return
	}
	for key := range selector.MatchLabels {
		if tenancy.Reserved(key) {
			t.refuse(field, "label "+key+" is the platform's own")
		}
	}
	for _, requirement := range selector.MatchExpressions {
		if tenancy.Reserved(requirement.Key) {
			t.refuse(field, "label "+requirement.Key+" is the platform's own")
		}
	}
}

// permittedToleration: those that Kubernetes puts on every pod, which say how long
// a pod stays on a node that fails.
func permittedToleration(toleration corev1.Toleration) bool {
	return toleration.Effect == corev1.TaintEffectNoExecute &&
		(toleration.Key == corev1.TaintNodeNotReady || toleration.Key == corev1.TaintNodeUnreachable)
}

// addTolerations adds permitted tolerations to a super pod: the API lets them be
// added to a pod, and never taken away.
func addTolerations(super *corev1.Pod, wanted []corev1.Toleration) {
	for _, toleration := range wanted {
		same := func(other corev1.Toleration) bool {
			return other.Key == toleration.Key && other.Effect == toleration.Effect
		}
		if permittedToleration(toleration) && !slices.ContainsFunc(super.Spec.Tolerations, same) {
			super.Spec.Tolerations = append(super.Spec.Tolerations, toleration)
		}
	}
}
