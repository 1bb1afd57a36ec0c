package podspec

import (
	"reflect"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
)

// A new version of the API brings new fields. This test fails then, so that somebody
// decides whether they pass.
func TestEveryFieldHasARule(t *testing.T) {
	for _, path := range allowed.Unlisted() {
		t.Errorf("spec.%s has no rule in allowed.go", path)
	}
}

// What passes must arrive: fields that are neither rewritten nor handled are equal
// on both sides.
func TestPlainFieldsPassUnchanged(t *testing.T) {
	pod := tenantPod()
	seconds, yes, group := int64(30), true, int64(2000)
	mode := corev1.RecursiveReadOnlyIfPossible
	always := corev1.ContainerRestartPolicyAlways
	pod.Spec.ActiveDeadlineSeconds, pod.Spec.TerminationGracePeriodSeconds = &seconds, &seconds
	pod.Spec.ShareProcessNamespace = &yes
	pod.Spec.HostAliases = []corev1.HostAlias{{IP: "10.0.0.1", Hostnames: []string{"db"}}}
	pod.Spec.Hostname, pod.Spec.Subdomain = "web-0", "web"
	pod.Spec.RestartPolicy = corev1.RestartPolicyOnFailure
	pod.Spec.ImagePullSecrets = []corev1.LocalObjectReference{{Name: "pull"}}
	pod.Spec.ReadinessGates = []corev1.PodReadinessGate{{ConditionType: "example.com/ready"}}
	pod.Spec.NodeSelector = map[string]string{"zone": "a"}
	pod.Spec.SecurityContext = &corev1.PodSecurityContext{FSGroup: &group, RunAsNonRoot: &yes, SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault}}
	c := &pod.Spec.Containers[0]
	c.Command, c.Args, c.WorkingDir = []string{"run"}, []string{"-v"}, "/srv"
	c.Ports = []corev1.ContainerPort{{Name: "http", ContainerPort: 80, Protocol: corev1.ProtocolTCP}}
	c.Resources = corev1.ResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceCPU: quantity("1")}}
	c.VolumeMounts = []corev1.VolumeMount{{Name: "data", MountPath: "/data", ReadOnly: true, RecursiveReadOnly: &mode}}
	c.LivenessProbe = &corev1.Probe{ProbeHandler: corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: "/live"}}}
	c.Lifecycle = &corev1.Lifecycle{PreStop: &corev1.LifecycleHandler{Exec: &corev1.ExecAction{Command: []string{"stop"}}}}
	c.SecurityContext = &corev1.SecurityContext{ReadOnlyRootFilesystem: &yes, Capabilities: &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}}}
	c.TTY, c.Stdin, c.ImagePullPolicy = true, true, corev1.PullAlways
	pod.Spec.InitContainers = []corev1.Container{{Name: "side", Image: "side:1", RestartPolicy: &always}}
	pod.Spec.Volumes = []corev1.Volume{
		{Name: "data", VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "data"}}},
		{Name: "tmp", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{Medium: corev1.StorageMediumMemory}}},
		{Name: "model", VolumeSource: corev1.VolumeSource{Image: &corev1.ImageVolumeSource{Reference: "model:1"}}},
	}
	before := pod.DeepCopy()
	super, findings := Translate(input(pod))
	if len(findings) > 0 {
		t.Errorf("findings %v", findings)
	}
	// What differs by design:
	want := before.Spec.DeepCopy()
	automount, links := false, false
	want.HostnameOverride = &want.Hostname // see TestHostname
	want.DNSPolicy, want.DNSConfig = super.Spec.DNSPolicy, super.Spec.DNSConfig
	want.DeprecatedServiceAccount, want.SchedulerName = "", ""
	want.ServiceAccountName, want.AutomountServiceAccountToken, want.EnableServiceLinks = "app", &automount, &links
	want.InitContainers[0].Env = super.Spec.InitContainers[0].Env
	want.Containers[0].Env = super.Spec.Containers[0].Env
	if diff := cmp.Diff(want, &super.Spec); diff != "" {
		t.Errorf("differs (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(before, pod); diff != "" {
		t.Errorf("the tenant's pod was changed:\n%s", diff)
	}
	// The result must not share memory with its input, which may be a cache's.
	super.Spec.Containers[0].Command[0] = "changed"
	super.Spec.NodeSelector["zone"] = "changed"
	if !reflect.DeepEqual(before, pod) {
		t.Error("the result shares memory with the tenant's pod")
	}
}
