package podspec

import (
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/bulkhead-dev/bulkhead/internal/tenancy"
	"github.com/bulkhead-dev/bulkhead/syncer/translation"
)

func (t *translator) scheduling() {
	switch name := t.in.SchedulerName; {
	case t.Tenant.SchedulesItself:
		// Whichever scheduler the tenant runs, the pod comes with its node.
		t.out.NodeName = t.in.NodeName
	case t.in.NodeName != "":
		t.refuse("spec.nodeName", ruleScheduling)
	case name != "" && name != corev1.DefaultSchedulerName:
		t.refuse("spec.schedulerName", ruleScheduler)
	default:
		t.confine()
	}
	t.priority()
	for _, toleration := range t.in.Tolerations {
		if permittedToleration(t.Tenant, toleration) {
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

// priority names the super cluster's PriorityClass where it is offered. What else says
// how important the pod is follows from that there, or counts for nothing.
func (t *translator) priority() {
	switch name := t.in.PriorityClassName; {
	case t.PriorityClass != nil && t.Tenant.OffersPriorityClass(t.PriorityClass):
		t.out.PriorityClassName = name
		return
	case t.PriorityClass != nil:
		t.ignore("spec.priorityClassName", rulePreempting)
	case name != "":
		t.ignore("spec.priorityClassName", rulePriority)
	// The tenant's apiserver writes the defaults into every pod.
	case t.in.Priority != nil && *t.in.Priority != 0:
		t.ignore("spec.priority", rulePriority)
	}
	if policy := t.in.PreemptionPolicy; policy != nil && *policy != corev1.PreemptLowerPriority {
		t.ignore("spec.preemptionPolicy", rulePriority)
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

// confine keeps the pod on the nodes that the class offers, where it offers some.
func (t *translator) confine() {
	offered := requirements(t.Tenant.Nodes)
	if len(offered) == 0 {
		return
	}
	if t.out.Affinity == nil {
		t.out.Affinity = &corev1.Affinity{}
	}
	if t.out.Affinity.NodeAffinity == nil {
		t.out.Affinity.NodeAffinity = &corev1.NodeAffinity{}
	}
	nodes := t.out.Affinity.NodeAffinity
	if nodes.RequiredDuringSchedulingIgnoredDuringExecution == nil {
		nodes.RequiredDuringSchedulingIgnoredDuringExecution = &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{MatchExpressions: offered}}}
		return
	}
	terms := nodes.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms
	for i := range terms {
		// A term that asks for nothing matches no node, and must go on to.
		if len(terms[i].MatchExpressions)+len(terms[i].MatchFields) > 0 {
			terms[i].MatchExpressions = append(terms[i].MatchExpressions, offered...)
		}
	}
}

// requirements says of nodes what a selector says of labels.
func requirements(selector *metav1.LabelSelector) []corev1.NodeSelectorRequirement {
	if selector == nil {
		return nil
	}
	var all []corev1.NodeSelectorRequirement
	for _, key := range slices.Sorted(maps.Keys(selector.MatchLabels)) {
		all = append(all, corev1.NodeSelectorRequirement{Key: key, Operator: corev1.NodeSelectorOpIn, Values: []string{selector.MatchLabels[key]}})
	}
	for _, expression := range selector.MatchExpressions {
		// The operators of both have the same names.
		all = append(all, corev1.NodeSelectorRequirement{Key: expression.Key, Operator: corev1.NodeSelectorOperator(expression.Operator), Values: slices.Clone(expression.Values)})
	}
	return all
}

// permittedToleration: those that Kubernetes puts on every pod, which say how long
// a pod stays on a node that fails. Where the class offers nodes, and pods run on no
// others, their taints are the tenant's to tolerate.
func permittedToleration(t translation.Tenant, toleration corev1.Toleration) bool {
	return t.Nodes != nil || (toleration.Effect == corev1.TaintEffectNoExecute &&
		(toleration.Key == corev1.TaintNodeNotReady || toleration.Key == corev1.TaintNodeUnreachable))
}

// addTolerations adds permitted tolerations to a super pod: the API lets them be
// added to a pod, and never taken away.
func addTolerations(t translation.Tenant, super *corev1.Pod, wanted []corev1.Toleration) {
	for _, toleration := range wanted {
		same := func(other corev1.Toleration) bool {
			return other.Key == toleration.Key && other.Effect == toleration.Effect && other.Operator == toleration.Operator && other.Value == toleration.Value
		}
		if permittedToleration(t, toleration) && !slices.ContainsFunc(super.Spec.Tolerations, same) {
			super.Spec.Tolerations = append(super.Spec.Tolerations, toleration)
		}
	}
}
