// Package podspec translates pods: what a tenant's pod becomes in the super
// cluster. The result is built from the fields that allowed.go permits and
// rewritten, subject by subject, in the other files.
package podspec

import (
	corev1 "k8s.io/api/core/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/bulkhead-dev/bulkhead/syncer/translation"
)

// Input is all that the translation of a pod depends on.
type Input struct {
	Tenant translation.Tenant
	Pod    *corev1.Pod

	// Services are those whose addresses the pod is told in its environment: the
	// ones of its namespace, and default/kubernetes.
	Services []*corev1.Service
	// PriorityClass is the super cluster's of the name that the pod gives, if the class
	// of the tenant lists it.
	PriorityClass *schedulingv1.PriorityClass
	// DNSAddress is the address of the tenant's DNS Service.
	DNSAddress string
	// Keys of the tenant's ConfigMaps and Secrets in the pod's namespace that its
	// containers take their whole environment from, by name.
	ConfigMapKeys, SecretKeys map[string][]string
}

// Translate returns the pod as it is created in the super cluster, without name,
// namespace and marks. If a finding is refused the pod must not be created.
func Translate(in Input) (*corev1.Pod, []translation.Finding) {
	pod := in.Pod.DeepCopy() // the result shares no memory with the tenant's pod
	metadata, findings := Metadata(pod)
	spec, more := allowed.Copy(pod.Spec)
	findings = append(findings, more...)

	t := &translator{Input: in, in: &pod.Spec, out: &spec, findings: findings}
	t.security()
	t.scheduling()
	t.serviceAccount()
	t.volumes()
	t.environment()
	t.dns()
	t.hostname()
	return &corev1.Pod{ObjectMeta: metadata, Spec: spec}, t.findings
}

// translator is the work on one pod.
type translator struct {
	Input
	in       *corev1.PodSpec // the tenant's
	out      *corev1.PodSpec
	findings []translation.Finding
}

func (t *translator) refuse(field, rule string) {
	t.findings = append(t.findings, translation.Refuse(field, rule))
}

func (t *translator) ignore(field, rule string) {
	t.findings = append(t.findings, translation.Ignore(field, rule))
}

// containers calls visit for each container of the result, with its path.
func (t *translator) containers(visit func(path string, c *corev1.Container)) {
	eachContainer(t.out, visit)
}

// Update carries onto a copy of the super pod what may change in the life of a pod
// by an ordinary write: images, the deadline and added tolerations. Labels and
// annotations are not its business.
func Update(t translation.Tenant, tenant, super *corev1.Pod) {
	super.Spec.ActiveDeadlineSeconds = tenant.Spec.ActiveDeadlineSeconds
	shared(tenant, super, func(wanted, has *corev1.Container) { has.Image = wanted.Image })
	addTolerations(t, super, tenant.Spec.Tolerations)
}

// Resize carries the resources of the tenant's containers onto a copy of the super
// pod, as the subresource of that name takes them. Those of the pod as a whole too.
func Resize(tenant, super *corev1.Pod) {
	shared(tenant, super, func(wanted, has *corev1.Container) {
		if !sameResources(wanted.Resources, has.Resources) {
			has.Resources.Requests, has.Resources.Limits = wanted.Resources.Requests, wanted.Resources.Limits
		}
	})
	if all := tenant.Spec.Resources; all != nil && super.Spec.Resources != nil && !sameResources(*all, *super.Spec.Resources) {
		super.Spec.Resources.Requests, super.Spec.Resources.Limits = all.Requests, all.Limits
	}
}

// shared visits the containers that both pods have: one that only the super cluster
// knows was injected there. Ephemeral containers never change.
func shared(tenant, super *corev1.Pod, visit func(wanted, has *corev1.Container)) {
	wanted := map[string]*corev1.Container{}
	eachContainer(&tenant.Spec, func(_ string, c *corev1.Container) { wanted[c.Name] = c })
	for _, list := range [][]corev1.Container{super.Spec.InitContainers, super.Spec.Containers} {
		for i := range list {
			if c, known := wanted[list[i].Name]; known {
				visit(c, &list[i])
			}
		}
	}
}

// Metadata returns the labels and annotations of a super pod that come from the tenant's.
func Metadata(pod *corev1.Pod) (metav1.ObjectMeta, []translation.Finding) {
	labels, findings := translation.Labels(pod)
	annotations, more := translation.Annotations(pod, refusedAnnotation)
	annotations = showMetadata(&pod.Spec, labels, annotations)
	return metav1.ObjectMeta{Labels: labels, Annotations: annotations}, append(findings, more...)
}
