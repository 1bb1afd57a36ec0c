// Package podspec translates pods: what a tenant's pod becomes in the super
// cluster. The result is built from the fields that allowed.go permits and
// rewritten, subject by subject, in the other files.
package podspec

import (
	corev1 "k8s.io/api/core/v1"
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

// Update carries onto a copy of the super pod what may change in the life of a pod:
// images, the deadline and added tolerations. Labels and annotations are not its
// business. What else differs is reported.
func Update(tenant, super *corev1.Pod) []translation.Finding {
	var findings []translation.Finding
	super.Spec.ActiveDeadlineSeconds = tenant.Spec.ActiveDeadlineSeconds
	images := map[string]*corev1.Container{}
	eachContainer(&tenant.Spec, func(_ string, c *corev1.Container) { images[c.Name] = c })
	eachContainer(&super.Spec, func(path string, c *corev1.Container) {
		// A container that only the super cluster knows was injected there.
		if wanted, known := images[c.Name]; known {
			c.Image = wanted.Image
			if !sameResources(wanted.Resources, c.Resources) {
				findings = append(findings, translation.Ignore(path+".resources", "resizing a running pod is not carried yet"))
			}
		}
	})
	if len(tenant.Spec.EphemeralContainers) > 0 {
		findings = append(findings, translation.Ignore("spec.ephemeralContainers", ruleEphemeral))
	}
	addTolerations(super, tenant.Spec.Tolerations)
	return findings
}

// Metadata returns the labels and annotations of a super pod that come from the tenant's.
func Metadata(pod *corev1.Pod) (metav1.ObjectMeta, []translation.Finding) {
	labels, findings := translation.Labels(pod)
	annotations, more := translation.Annotations(pod, refusedAnnotation)
	annotations = showMetadata(&pod.Spec, labels, annotations)
	return metav1.ObjectMeta{Labels: labels, Annotations: annotations}, append(findings, more...)
}
