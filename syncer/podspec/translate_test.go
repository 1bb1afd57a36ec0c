package podspec

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/randfill"
	"sigs.k8s.io/yaml"

	tenancyv1alpha1 "github.com/bulkhead-dev/bulkhead/api/tenancy/v1alpha1"
	"github.com/bulkhead-dev/bulkhead/internal/tenancy"
	"github.com/bulkhead-dev/bulkhead/syncer/translation"
)

var update = flag.Bool("update", false, "write the golden files anew")

func quantity(text string) resource.Quantity { return resource.MustParse(text) }

func demo() translation.Tenant {
	return translation.Tenant{
		Tenant:      tenancy.Tenant{UID: "vc-uid", Namespace: "team", Name: "demo"},
		PodSecurity: tenancyv1alpha1.PodSecurityBaseline, ClusterDomain: "cluster.local", DNSAddress: "10.96.0.10",
	}
}

func tenantPod() *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "web", Name: "front", UID: "pod-uid", Labels: map[string]string{"app": "front"}},
		Spec: corev1.PodSpec{
			ServiceAccountName: "app", DeprecatedServiceAccount: "app", SchedulerName: corev1.DefaultSchedulerName,
			DNSPolicy: corev1.DNSClusterFirst, RestartPolicy: corev1.RestartPolicyAlways,
			Containers: []corev1.Container{{Name: "main", Image: "front:1"}},
		},
	}
}

func service(namespace, name, ip string, ports ...corev1.ServicePort) *corev1.Service {
	return &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}, Spec: corev1.ServiceSpec{ClusterIP: ip, Ports: ports}}
}

func input(pod *corev1.Pod) Input {
	return Input{
		Tenant: demo(), Pod: pod, DNSAddress: "10.96.0.10",
		Services: []*corev1.Service{service("default", "kubernetes", "10.96.0.1", corev1.ServicePort{Name: "https", Port: 443})},
	}
}

// Everything that is refused, with the field that the event names (D3, D4; the
// ancestor let all of these pass: peers.md 4d, 12).
func TestRefusedAndIgnored(t *testing.T) {
	yes, no, name, seconds := true, false, "kata", int64(5)
	for title, tc := range map[string]struct {
		edit    func(*corev1.Pod)
		field   string // of the one finding; none is expected if empty
		rule    string
		refused bool
	}{
		"ordinary": {func(*corev1.Pod) {}, "", "", false},
		"host path": {func(p *corev1.Pod) {
			p.Spec.Volumes = volumes(corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: "/"}})
		}, "spec.volumes[0].hostPath", "file system", true},
		"NFS": {func(p *corev1.Pod) {
			p.Spec.Volumes = volumes(corev1.VolumeSource{NFS: &corev1.NFSVolumeSource{Server: "10.0.0.1"}})
		}, "spec.volumes[0].nfs", "not offered", true},
		"inline CSI": {func(p *corev1.Pod) {
			p.Spec.Volumes = volumes(corev1.VolumeSource{CSI: &corev1.CSIVolumeSource{Driver: "x"}})
		}, "spec.volumes[0].csi", "not offered", true},
		"host network": {func(p *corev1.Pod) { p.Spec.HostNetwork = true }, "spec.hostNetwork", "network of their own", true},
		"host PID":     {func(p *corev1.Pod) { p.Spec.HostPID = true }, "spec.hostPID", "not shared", true},
		"host IPC":     {func(p *corev1.Pod) { p.Spec.HostIPC = true }, "spec.hostIPC", "not shared", true},
		"privileged":   {func(p *corev1.Pod) { p.Spec.Containers[0].SecurityContext = &corev1.SecurityContext{Privileged: &yes} }, "spec", "privileged", true},
		"host port": {func(p *corev1.Pod) {
			p.Spec.Containers[0].Ports = []corev1.ContainerPort{{ContainerPort: 80, HostPort: 80}}
		}, "spec", "hostPort", true},
		"capability": {func(p *corev1.Pod) {
			p.Spec.Containers[0].SecurityContext = &corev1.SecurityContext{Capabilities: &corev1.Capabilities{Add: []corev1.Capability{"SYS_ADMIN"}}}
		}, "spec", "SYS_ADMIN", true},
		"runtime class": {func(p *corev1.Pod) { p.Spec.RuntimeClassName = &name }, "spec.runtimeClassName", "does not offer", true},
		"node name":     {func(p *corev1.Pod) { p.Spec.NodeName = "n1" }, "spec.nodeName", "scheduler", true},
		"scheduler":     {func(p *corev1.Pod) { p.Spec.SchedulerName = "mine" }, "spec.schedulerName", "default scheduler", true},
		"Kata annotation": {func(p *corev1.Pod) {
			p.Annotations = map[string]string{"io.katacontainers.config.hypervisor.path": "/x"}
		}, "metadata.annotations[io.katacontainers.config.hypervisor.path]", "io.katacontainers", true},
		"CNI annotation":    {func(p *corev1.Pod) { p.Annotations = map[string]string{"k8s.v1.cni.cncf.io/networks": "host"} }, "metadata.annotations[k8s.v1.cni.cncf.io/networks]", "orders to the node", true},
		"forged annotation": {func(p *corev1.Pod) { p.Annotations = map[string]string{tenancy.AnnotationUID: "x"} }, "metadata.annotations[" + tenancy.AnnotationUID + "]", "platform's own", true},
		"forged label":      {func(p *corev1.Pod) { p.Labels[tenancy.LabelTenant] = "other" }, "metadata.labels[" + tenancy.LabelTenant + "]", "platform's own", true},
		"device claim":      {func(p *corev1.Pod) { p.Spec.ResourceClaims = []corev1.PodResourceClaim{{Name: "gpu"}} }, "spec.resourceClaims", "not offered", true},
		"pod certificate": {func(p *corev1.Pod) {
			p.Spec.Volumes = volumes(projected(corev1.VolumeProjection{PodCertificate: &corev1.PodCertificateProjection{}}))
		}, "spec.volumes[0].projected.sources[0].podCertificate", "not offered", true},
		"our mark in env": {func(p *corev1.Pod) {
			p.Spec.Containers[0].Env = fieldEnv("metadata.annotations['" + tenancy.AnnotationTenant + "']")
		}, "spec.containers[0].env[0].valueFrom.fieldRef", "platform's own", true},
		"our mark in affinity": {func(p *corev1.Pod) {
			p.Spec.Affinity = near(corev1.PodAffinityTerm{LabelSelector: &metav1.LabelSelector{MatchLabels: map[string]string{tenancy.LabelTenant: "x"}}})
		}, "spec.affinity", "platform's own", true},
		"priority class": {func(p *corev1.Pod) { p.Spec.PriorityClassName = "system-node-critical" }, "spec.priorityClassName", "priorities", false},
		"toleration":     {func(p *corev1.Pod) { p.Spec.Tolerations = []corev1.Toleration{{Operator: corev1.TolerationOpExists}} }, "spec.tolerations", "taints", false},
		"default tolerations": {func(p *corev1.Pod) {
			p.Spec.Tolerations = []corev1.Toleration{{Key: corev1.TaintNodeNotReady, Effect: corev1.TaintEffectNoExecute, Operator: corev1.TolerationOpExists, TolerationSeconds: &seconds}}
		}, "", "", false},
		"host users":         {func(p *corev1.Pod) { p.Spec.HostUsers = &yes }, "", "", false},
		"own user namespace": {func(p *corev1.Pod) { p.Spec.HostUsers = &no }, "", "", false},
		"not privileged":     {func(p *corev1.Pod) { p.Spec.Containers[0].SecurityContext = &corev1.SecurityContext{Privileged: &no} }, "", "", false},
	} {
		pod := tenantPod()
		tc.edit(pod)
		_, findings := Translate(input(pod))
		if tc.field == "" {
			if len(findings) > 0 {
				t.Errorf("%s: findings %v", title, findings)
			}
			continue
		}
		found := false
		for _, finding := range findings {
			found = found || (finding.Field == tc.field && finding.Refused == tc.refused && strings.Contains(finding.Rule, tc.rule))
		}
		if !found || translation.Refused(findings) != tc.refused {
			t.Errorf("%s: findings %v", title, findings)
		}
	}
}

// On the level privileged the node itself is still out of reach.
func TestPrivilegedLevelStillKeepsTheNode(t *testing.T) {
	yes := true
	in := input(tenantPod())
	in.Tenant.PodSecurity = tenancyv1alpha1.PodSecurityPrivileged
	in.Pod.Spec.Containers[0].SecurityContext = &corev1.SecurityContext{Privileged: &yes}
	if _, findings := Translate(in); len(findings) > 0 {
		t.Errorf("privileged: %v", findings)
	}
	for _, edit := range []func(*corev1.PodSpec){
		func(s *corev1.PodSpec) { s.HostNetwork = true },
		func(s *corev1.PodSpec) { s.HostPID = true },
		func(s *corev1.PodSpec) { s.HostIPC = true },
		func(s *corev1.PodSpec) {
			s.Volumes = volumes(corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{}})
		},
	} {
		in.Pod = tenantPod()
		edit(&in.Pod.Spec)
		if _, findings := Translate(in); !translation.Refused(findings) {
			t.Errorf("passes: %+v", in.Pod.Spec)
		}
	}
}

func TestRestrictedLevel(t *testing.T) {
	in := input(tenantPod())
	in.Tenant.PodSecurity = tenancyv1alpha1.PodSecurityRestricted
	if _, findings := Translate(in); !translation.Refused(findings) {
		t.Error("a pod that may run as root passes the restricted level")
	}
}

func TestRuntimeClassIsTheClasss(t *testing.T) {
	in := input(tenantPod())
	in.Tenant.RuntimeClassName = "kata"
	own := "kata"
	for _, asked := range []*string{nil, &own} {
		in.Pod.Spec.RuntimeClassName = asked
		super, findings := Translate(in)
		if len(findings) > 0 || super.Spec.RuntimeClassName == nil || *super.Spec.RuntimeClassName != "kata" {
			t.Errorf("runtime class %v, findings %v", super.Spec.RuntimeClassName, findings)
		}
	}
}

func TestAffinityStaysInsideTheTenant(t *testing.T) {
	pod := tenantPod()
	pod.Spec.Affinity = near(
		corev1.PodAffinityTerm{Namespaces: []string{"db"}, TopologyKey: "zone"},
		corev1.PodAffinityTerm{NamespaceSelector: &metav1.LabelSelector{}, TopologyKey: "zone"},
		corev1.PodAffinityTerm{NamespaceSelector: &metav1.LabelSelector{
			MatchLabels:      map[string]string{"team": "a"},
			MatchExpressions: []metav1.LabelSelectorRequirement{{Key: "env", Operator: metav1.LabelSelectorOpExists}},
		}, TopologyKey: "zone"},
	)
	super, findings := Translate(input(pod))
	if len(findings) > 0 {
		t.Fatal(findings)
	}
	terms := super.Spec.Affinity.PodAffinity.RequiredDuringSchedulingIgnoredDuringExecution
	if diff := cmp.Diff([]string{demo().SuperNamespace("db")}, terms[0].Namespaces); diff != "" {
		t.Error(diff)
	}
	for _, term := range terms[1:] {
		if term.NamespaceSelector.MatchLabels[tenancy.LabelTenant] != "vc-uid" {
			t.Errorf("selects other tenants' namespaces: %v", term.NamespaceSelector)
		}
	}
	if key := terms[2].NamespaceSelector.MatchExpressions[0].Key; key != translation.NamespaceLabelKey("env") {
		t.Errorf("key %s", key)
	}
}

func TestUpdate(t *testing.T) {
	tenant, super := tenantPod(), tenantPod()
	seconds := int64(60)
	tenant.Spec.Containers[0].Image = "front:2"
	tenant.Spec.ActiveDeadlineSeconds = &seconds
	toleration := corev1.Toleration{Key: corev1.TaintNodeUnreachable, Effect: corev1.TaintEffectNoExecute, TolerationSeconds: &seconds}
	tenant.Spec.Tolerations = []corev1.Toleration{toleration, {Key: "dedicated"}}
	super.Spec.Containers = append(super.Spec.Containers, corev1.Container{Name: "injected", Image: "mesh:1"})
	Update(demo(), tenant, super)
	if super.Spec.Containers[0].Image != "front:2" || super.Spec.Containers[1].Image != "mesh:1" || *super.Spec.ActiveDeadlineSeconds != 60 {
		t.Errorf("spec %+v", super.Spec)
	}
	if diff := cmp.Diff([]corev1.Toleration{toleration}, super.Spec.Tolerations); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(tenantPod().Spec.Containers[0].Resources, super.Spec.Containers[0].Resources); diff != "" {
		t.Errorf("resized by an ordinary write: %s", diff)
	}
}

func TestResize(t *testing.T) {
	tenant, super := tenantPod(), tenantPod()
	limited := corev1.ResourceList{corev1.ResourceMemory: quantity("64Mi")}
	super.Spec.Containers[0].Resources.Requests = limited // from a LimitRange of the super cluster
	super.Spec.Containers = append(super.Spec.Containers, corev1.Container{Name: "injected"})
	before := super.DeepCopy()
	Resize(tenant, super)
	if diff := cmp.Diff(before, super); diff != "" {
		t.Errorf("a pod that asks for nothing was resized: %s", diff)
	}
	asked := corev1.ResourceList{corev1.ResourceCPU: quantity("2")}
	tenant.Spec.Containers[0].Resources = corev1.ResourceRequirements{Requests: asked, Limits: asked}
	Resize(tenant, super)
	if diff := cmp.Diff(tenant.Spec.Containers[0].Resources, super.Spec.Containers[0].Resources); diff != "" {
		t.Error(diff)
	}
}

// Ephemeral containers are rewritten and refused as all others are.
func TestEphemeralContainers(t *testing.T) {
	yes := true
	pod := tenantPod()
	pod.Spec.EphemeralContainers = []corev1.EphemeralContainer{{
		TargetContainerName: "main",
		EphemeralContainerCommon: corev1.EphemeralContainerCommon{
			Name: "debugger", Image: "debug:1",
			Env: []corev1.EnvVar{{Name: "X", ValueFrom: &corev1.EnvVarSource{ConfigMapKeyRef: &corev1.ConfigMapKeySelector{LocalObjectReference: corev1.LocalObjectReference{Name: "kube-root-ca.crt"}}}}},
		},
	}}
	got, findings := Translate(input(pod))
	container := got.Spec.EphemeralContainers[0]
	ref := container.Env[len(container.Env)-1].ValueFrom.ConfigMapKeyRef
	if len(findings) > 0 || container.Image != "debug:1" || container.TargetContainerName != "main" || ref.Name != tenancy.SuperConfigMap("kube-root-ca.crt") || len(container.Env) < 2 {
		t.Errorf("%v %+v", findings, container)
	}
	if references := ReferencesOf(pod); !references.ConfigMaps["kube-root-ca.crt"] {
		t.Errorf("references %+v", references)
	}
	pod.Spec.EphemeralContainers[0].SecurityContext = &corev1.SecurityContext{Privileged: &yes}
	if _, findings := Translate(input(pod)); !translation.Refused(findings) {
		t.Errorf("a privileged debugger passes: %v", findings)
	}
}

func TestGolden(t *testing.T) {
	inputs, err := filepath.Glob("testdata/*.in.yaml")
	if err != nil || len(inputs) == 0 {
		t.Fatalf("no inputs: %v", err)
	}
	for _, path := range inputs {
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		pod := &corev1.Pod{}
		if err := yaml.UnmarshalStrict(data, pod); err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		in := input(pod)
		in.Services = append(in.Services, service("web", "db", "10.96.4.4", corev1.ServicePort{Name: "sql", Port: 5432, Protocol: corev1.ProtocolTCP}))
		super, findings := Translate(in)
		if len(findings) > 0 {
			t.Errorf("%s: findings %v", path, findings)
		}
		got, err := yaml.Marshal(super)
		if err != nil {
			t.Fatal(err)
		}
		golden := strings.TrimSuffix(path, ".in.yaml") + ".golden.yaml"
		if *update {
			if err := os.WriteFile(golden, got, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(golden)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(string(want), string(got)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", golden, diff)
		}
	}
}

// Whatever a tenant's pod says, the super pod has nothing of what is always refused,
// and nothing of the super cluster's own.
func FuzzTranslate(f *testing.F) {
	f.Add([]byte("some bytes that make a pod"), "baseline")
	f.Add([]byte{0xff, 0x00, 0x13, 0x37, 0xff, 0xff, 0x01}, "privileged")
	f.Fuzz(func(t *testing.T, data []byte, level string) {
		pod := &corev1.Pod{}
		randfill.NewFromGoFuzz(data).NilChance(0.3).NumElements(0, 3).MaxDepth(12).Fill(pod)
		in := input(pod)
		in.Tenant.PodSecurity = tenancyv1alpha1.PodSecurityLevel(level)
		before := pod.DeepCopy()
		super, findings := Translate(in)
		if diff := cmp.Diff(before, pod); diff != "" {
			t.Fatalf("the tenant's pod was changed: %s", diff)
		}
		spec := super.Spec
		if spec.HostNetwork || spec.HostPID || spec.HostIPC || spec.NodeName != "" || spec.PriorityClassName != "" || spec.Priority != nil || spec.RuntimeClassName != nil {
			t.Errorf("a refused field passes: %+v", spec)
		}
		if spec.AutomountServiceAccountToken == nil || *spec.AutomountServiceAccountToken || spec.ServiceAccountName == "default" {
			t.Errorf("service account %q, automount %v", spec.ServiceAccountName, spec.AutomountServiceAccountToken)
		}
		for _, volume := range spec.Volumes {
			if volume.HostPath != nil || volume.CSI != nil || volume.NFS != nil {
				t.Errorf("volume %+v", volume)
			}
			if volume.Projected != nil {
				for _, source := range volume.Projected.Sources {
					if source.ServiceAccountToken != nil {
						t.Error("a token of the super cluster would be mounted")
					}
				}
			}
		}
		for key := range super.Labels {
			if tenancy.Reserved(key) {
				t.Errorf("label %s", key)
			}
		}
		_ = translation.Summary(findings, true)
		Update(demo(), pod, super)
	})
}

func volumes(source corev1.VolumeSource) []corev1.Volume {
	return []corev1.Volume{{Name: "v", VolumeSource: source}}
}

func projected(sources ...corev1.VolumeProjection) corev1.VolumeSource {
	return corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: sources}}
}

func fieldEnv(path string) []corev1.EnvVar {
	return []corev1.EnvVar{{Name: "X", ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: path}}}}
}

func near(terms ...corev1.PodAffinityTerm) *corev1.Affinity {
	return &corev1.Affinity{PodAffinity: &corev1.PodAffinity{RequiredDuringSchedulingIgnoredDuringExecution: terms}}
}
