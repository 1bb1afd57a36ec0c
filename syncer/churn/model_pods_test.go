//go:build churn

package churn

import (
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/bulkhead-dev/bulkhead/internal/tenancy"
)

// pods: all go down but those that are refused, gated, or have ended.
func (m *model) pods() wants {
	expected := wants{}
	for i := range m.tenant.Pods.Items {
		pod := &m.tenant.Pods.Items[i]
		if refusedPod(pod) || len(pod.Spec.SchedulingGates) > 0 {
			continue
		}
		expected[keyOf(pod)] = want{
			must: !ended(pod), from: pod, at: m.superKey(pod.Namespace, pod.Name),
			fields: func(d *differences, object client.Object) { m.comparePod(d, pod, object.(*corev1.Pod)) },
		}
	}
	return expected
}

// refusedPod: of what the churn makes, only these are refused by the standard baseline.
func refusedPod(pod *corev1.Pod) bool { return pod.Spec.HostNetwork }

func ended(pod *corev1.Pod) bool {
	return pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed
}

func (m *model) comparePod(d *differences, pod, super *corev1.Pod) {
	d.carried("metadata.labels", pod.Labels, super.Labels)
	d.carried("metadata.annotations", pod.Annotations, super.Annotations)
	ingress, egress := m.isolated(pod)
	d.same("metadata.labels["+tenancy.LabelIngressIsolated+"]", ingress, super.Labels[tenancy.LabelIngressIsolated] == "true")
	d.same("metadata.labels["+tenancy.LabelEgressIsolated+"]", egress, super.Labels[tenancy.LabelEgressIsolated] == "true")

	in, out := &pod.Spec, &super.Spec
	d.same("spec.serviceAccountName", tenancy.SuperServiceAccount(in.ServiceAccountName), out.ServiceAccountName)
	d.that("spec.automountServiceAccountToken", out.AutomountServiceAccountToken != nil && !*out.AutomountServiceAccountToken, "not false")
	d.same("spec.restartPolicy", in.RestartPolicy, out.RestartPolicy)
	d.same("spec.activeDeadlineSeconds", in.ActiveDeadlineSeconds, out.ActiveDeadlineSeconds)
	d.same("spec.terminationGracePeriodSeconds", in.TerminationGracePeriodSeconds, out.TerminationGracePeriodSeconds)
	d.same("spec.readinessGates", in.ReadinessGates, out.ReadinessGates)
	d.same("spec.nodeName", out.NodeName, in.NodeName)
	search := ""
	if out.DNSConfig != nil && len(out.DNSConfig.Searches) > 0 {
		search = out.DNSConfig.Searches[0]
	}
	d.same("spec.dnsConfig.searches", pod.Namespace+".svc.cluster.local", search)
	compareContainers(d, "spec.initContainers", in.InitContainers, out.InitContainers)
	compareContainers(d, "spec.containers", in.Containers, out.Containers)
	compareContainers(d, "spec.ephemeralContainers", ephemeral(in.EphemeralContainers), ephemeral(out.EphemeralContainers))
	d.same("spec.volumes", volumesOf(in, tenancy.SuperConfigMap, "tokens-"+string(pod.UID)), volumesOf(out, func(name string) string { return name }, ""))
	comparePodStatus(d, pod, super)
}

func ephemeral(containers []corev1.EphemeralContainer) []corev1.Container {
	var all []corev1.Container
	for i := range containers {
		all = append(all, corev1.Container(containers[i].EphemeralContainerCommon))
	}
	return all
}

func compareContainers(d *differences, path string, tenant, super []corev1.Container) {
	for _, in := range tenant {
		at := fmt.Sprintf("%s[%s]", path, in.Name)
		i := slices.IndexFunc(super, func(c corev1.Container) bool { return c.Name == in.Name })
		if i < 0 {
			d.that(at, false, "there is none")
			continue
		}
		out := super[i]
		d.same(at+".image", in.Image, out.Image)
		d.same(at+".command", in.Command, out.Command)
		d.same(at+".args", in.Args, out.Args)
		d.same(at+".ports", in.Ports, out.Ports)
		d.same(at+".resources.requests", in.Resources.Requests, out.Resources.Requests)
		d.same(at+".resources.limits", in.Resources.Limits, out.Resources.Limits)
		d.same(at+".volumeMounts", in.VolumeMounts, out.VolumeMounts)
		d.same(at+".readinessProbe", in.ReadinessProbe, out.ReadinessProbe)
		for _, variable := range in.Env {
			i := slices.IndexFunc(out.Env, func(v corev1.EnvVar) bool { return v.Name == variable.Name })
			if i < 0 {
				d.that(at+".env["+variable.Name+"]", false, "there is none")
				continue
			}
			if from := variable.ValueFrom; from != nil && from.ConfigMapKeyRef != nil {
				variable = *variable.DeepCopy()
				variable.ValueFrom.ConfigMapKeyRef.Name = tenancy.SuperConfigMap(from.ConfigMapKeyRef.Name)
			}
			d.same(at+".env["+variable.Name+"]", variable, out.Env[i])
		}
	}
	d.same(path, len(tenant), len(super))
}

// volumesOf says of each volume what it shows, as the super pod should.
func volumesOf(spec *corev1.PodSpec, configMap func(string) string, tokens string) []string {
	var all []string
	for _, volume := range spec.Volumes {
		text := volume.Name + ":"
		switch {
		case volume.EmptyDir != nil:
			text += " emptyDir"
		case volume.ConfigMap != nil:
			text += " configmap " + configMap(volume.ConfigMap.Name)
		case volume.Secret != nil:
			text += " secret " + volume.Secret.SecretName
		case volume.PersistentVolumeClaim != nil:
			text += " claim " + volume.PersistentVolumeClaim.ClaimName
		case volume.DownwardAPI != nil:
			text += fmt.Sprintf(" downward %d", len(volume.DownwardAPI.Items))
		case volume.Projected != nil:
			for _, source := range volume.Projected.Sources {
				switch {
				case source.ConfigMap != nil:
					text += " configmap " + configMap(source.ConfigMap.Name)
				case source.ServiceAccountToken != nil:
					text += " secret " + tokens
				case source.Secret != nil:
					text += " secret " + source.Secret.Name
				case source.DownwardAPI != nil:
					text += fmt.Sprintf(" downward %d", len(source.DownwardAPI.Items))
				}
			}
		}
		all = append(all, text)
	}
	return all
}

// comparePodStatus: what the super pod's kubelet says, the tenant's pod says too.
func comparePodStatus(d *differences, pod, super *corev1.Pod) {
	in, out := &super.Status, &pod.Status
	d.same("status.phase", in.Phase, out.Phase)
	d.same("status.reason", in.Reason, out.Reason)
	d.same("status.podIPs", in.PodIPs, out.PodIPs)
	d.same("status.hostIP", in.HostIP, out.HostIP)
	d.that("status.startTime", in.StartTime.Equal(out.StartTime), fmt.Sprintf("want %s, have %s", in.StartTime, out.StartTime))
	d.same("status.containerStatuses", in.ContainerStatuses, out.ContainerStatuses)
	for _, condition := range in.Conditions {
		has := corev1.PodCondition{}
		for _, other := range out.Conditions {
			if other.Type == condition.Type {
				has = other
			}
		}
		d.same("status.conditions["+string(condition.Type)+"]", condition.Status, has.Status)
	}
	for _, gate := range pod.Spec.ReadinessGates {
		d.same("status.conditions["+string(gate.ConditionType)+"]", gateStatus(pod, gate.ConditionType), gateStatus(super, gate.ConditionType))
	}
}

func gateStatus(pod *corev1.Pod, gate corev1.PodConditionType) corev1.ConditionStatus {
	for _, condition := range pod.Status.Conditions {
		if condition.Type == gate {
			return condition.Status
		}
	}
	return ""
}

// isolated tells for which directions the tenant's own policies decide.
func (m *model) isolated(pod *corev1.Pod) (ingress, egress bool) {
	for i := range m.tenant.Policies.Items {
		policy := &m.tenant.Policies.Items[i]
		selector, err := metav1.LabelSelectorAsSelector(&policy.Spec.PodSelector)
		if err != nil || policy.Namespace != pod.Namespace || !selector.Matches(labels.Set(pod.Labels)) {
			continue
		}
		ingress = ingress || slices.Contains(policy.Spec.PolicyTypes, networkingv1.PolicyTypeIngress)
		egress = egress || slices.Contains(policy.Spec.PolicyTypes, networkingv1.PolicyTypeEgress)
	}
	return ingress, egress
}

// tokens: each super pod that runs has a Secret with the tokens its volumes show. It
// is owned by the super pod.
func (m *model) tokens(pods wants) {
	const kind = "secrets"
	found := map[string]*corev1.Secret{}
	for i := range m.super.Secrets.Items {
		secret := &m.super.Secrets.Items[i]
		if secret.Labels[tenancy.LabelTenant] == string(m.tenant.UID) && secret.Annotations[tenancy.AnnotationFor] == "pods" {
			found[keyOf(secret)] = secret
		}
	}
	for i := range m.super.Pods.Items {
		super := &m.super.Pods.Items[i]
		origin, _ := tenancy.OriginOf(super)
		key := join(origin.Namespace, origin.Name)
		is, wanted := pods[key]
		if origin.Tenant != m.tenant.UID || !wanted || is.from.GetUID() != origin.UID {
			continue
		}
		name := join(super.Namespace, "tokens-"+string(origin.UID))
		secret := found[name]
		delete(found, name)
		if !showsTokens(is.from.(*corev1.Pod)) || ended(super) {
			continue
		}
		if secret == nil {
			m.report(lost, "super", kind, key, "the tokens of the pod")
			continue
		}
		d := &differences{}
		d.that("data", len(secret.Data) > 0, "no token")
		owned := slices.ContainsFunc(secret.OwnerReferences, func(owner metav1.OwnerReference) bool { return owner.UID == super.UID })
		d.that("metadata.ownerReferences", owned, "not the super pod's")
		for data, token := range secret.Data {
			d.same("data["+data+"]", is.from.GetUID(), boundTo(token))
		}
		if len(d.fields) > 0 {
			m.report(wrong, "super", kind, key, "the tokens of the pod", d.fields...)
		}
	}
	for name, secret := range found {
		m.report(orphaned, "super", kind, secret.Annotations[tenancy.AnnotationNamespace]+"/"+secret.Annotations[tenancy.AnnotationName], "the tokens of a pod that is gone: "+name)
	}
}

func showsTokens(pod *corev1.Pod) bool {
	for _, volume := range pod.Spec.Volumes {
		if volume.Projected == nil {
			continue
		}
		for _, source := range volume.Projected.Sources {
			if source.ServiceAccountToken != nil {
				return true
			}
		}
	}
	return false
}
