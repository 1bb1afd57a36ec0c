package podspec

import (
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"

	"github.com/bulkhead-dev/bulkhead/internal/tenancy"
)

func environment(t *testing.T, in Input) map[string]string {
	t.Helper()
	super, _ := Translate(in)
	values := map[string]string{}
	for _, variable := range super.Spec.Containers[0].Env {
		if _, twice := values[variable.Name]; twice {
			t.Errorf("%s is set twice", variable.Name)
		}
		values[variable.Name] = variable.Value
	}
	return values
}

// The variables are those that a kubelet of the tenant's own cluster would set.
func TestServiceVariables(t *testing.T) {
	in := input(tenantPod())
	in.Services = append(in.Services,
		service("web", "redis-main", "10.96.7.7", corev1.ServicePort{Name: "client", Port: 6379, Protocol: corev1.ProtocolTCP}, corev1.ServicePort{Name: "bus", Port: 16379, Protocol: corev1.ProtocolUDP}),
		service("web", "headless", "None", corev1.ServicePort{Port: 1}),
		service("web", "outside", ""),
		service("other", "elsewhere", "10.96.8.8", corev1.ServicePort{Port: 1}),
	)
	want := map[string]string{
		"KUBERNETES_SERVICE_HOST": "10.96.0.1", "KUBERNETES_SERVICE_PORT": "443", "KUBERNETES_SERVICE_PORT_HTTPS": "443",
		"KUBERNETES_PORT": "tcp://10.96.0.1:443", "KUBERNETES_PORT_443_TCP": "tcp://10.96.0.1:443",
		"KUBERNETES_PORT_443_TCP_PROTO": "tcp", "KUBERNETES_PORT_443_TCP_PORT": "443", "KUBERNETES_PORT_443_TCP_ADDR": "10.96.0.1",
		"REDIS_MAIN_SERVICE_HOST": "10.96.7.7", "REDIS_MAIN_SERVICE_PORT": "6379",
		"REDIS_MAIN_SERVICE_PORT_CLIENT": "6379", "REDIS_MAIN_SERVICE_PORT_BUS": "16379",
		"REDIS_MAIN_PORT": "tcp://10.96.7.7:6379", "REDIS_MAIN_PORT_6379_TCP": "tcp://10.96.7.7:6379",
		"REDIS_MAIN_PORT_6379_TCP_PROTO": "tcp", "REDIS_MAIN_PORT_6379_TCP_PORT": "6379", "REDIS_MAIN_PORT_6379_TCP_ADDR": "10.96.7.7",
		"REDIS_MAIN_PORT_16379_UDP": "udp://10.96.7.7:16379", "REDIS_MAIN_PORT_16379_UDP_PROTO": "udp",
		"REDIS_MAIN_PORT_16379_UDP_PORT": "16379", "REDIS_MAIN_PORT_16379_UDP_ADDR": "10.96.7.7",
	}
	if diff := cmp.Diff(want, environment(t, in)); diff != "" {
		t.Error(diff)
	}
	no := false
	in.Pod.Spec.EnableServiceLinks = &no
	if got := environment(t, in); got["REDIS_MAIN_SERVICE_HOST"] != "" || got["KUBERNETES_SERVICE_HOST"] != "10.96.0.1" {
		t.Errorf("without links: %v", got)
	}
}

func TestOwnVariablesWin(t *testing.T) {
	in := input(tenantPod())
	in.ConfigMapKeys = map[string][]string{"kube-root-ca.crt": {"SERVICE_HOST"}}
	in.SecretKeys = map[string][]string{"s": {"KUBERNETES_PORT"}}
	c := &in.Pod.Spec.Containers[0]
	c.Env = []corev1.EnvVar{{Name: "KUBERNETES_SERVICE_PORT", Value: "1"}}
	c.EnvFrom = []corev1.EnvFromSource{
		{Prefix: "KUBERNETES_", ConfigMapRef: &corev1.ConfigMapEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: "kube-root-ca.crt"}}},
		{SecretRef: &corev1.SecretEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: "s"}}},
	}
	got := environment(t, in)
	for _, name := range []string{"KUBERNETES_SERVICE_HOST", "KUBERNETES_PORT"} {
		if _, set := got[name]; set {
			t.Errorf("%s hides the container's own", name)
		}
	}
	if got["KUBERNETES_SERVICE_PORT"] != "1" || got["KUBERNETES_SERVICE_PORT_HTTPS"] != "443" {
		t.Errorf("environment %v", got)
	}
}

// Values that differ between the two pods are the tenant's (the ancestor showed the
// super namespace in files: virtualcluster.md 2.2).
func TestDownwardAPI(t *testing.T) {
	pod := tenantPod()
	pod.Annotations = map[string]string{"note": "n"}
	c := &pod.Spec.Containers[0]
	for _, path := range []string{"metadata.namespace", "metadata.uid", "spec.serviceAccountName", "metadata.name", "metadata.labels['app']", "status.podIP"} {
		c.Env = append(c.Env, corev1.EnvVar{Name: path, ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: path}}})
	}
	item := func(path string) corev1.DownwardAPIVolumeFile {
		return corev1.DownwardAPIVolumeFile{Path: path, FieldRef: &corev1.ObjectFieldSelector{FieldPath: path}}
	}
	items := []corev1.DownwardAPIVolumeFile{item("metadata.namespace"), item("metadata.uid"), item("metadata.labels"), item("metadata.annotations"), item("metadata.name")}
	pod.Spec.Volumes = []corev1.Volume{
		{Name: "info", VolumeSource: corev1.VolumeSource{DownwardAPI: &corev1.DownwardAPIVolumeSource{Items: items}}},
		{Name: "more", VolumeSource: projected(corev1.VolumeProjection{DownwardAPI: &corev1.DownwardAPIProjection{Items: items[:1]}})},
	}
	super, findings := Translate(input(pod))
	if len(findings) > 0 {
		t.Fatal(findings)
	}
	got := map[string]string{}
	for _, variable := range super.Spec.Containers[0].Env {
		if variable.ValueFrom != nil {
			got[variable.Name] = "->" + variable.ValueFrom.FieldRef.FieldPath
		} else {
			got[variable.Name] = variable.Value
		}
	}
	for name, want := range map[string]string{
		"metadata.namespace": "web", "metadata.uid": "pod-uid", "spec.serviceAccountName": "app",
		"metadata.name": "->metadata.name", "metadata.labels['app']": "->metadata.labels['app']", "status.podIP": "->status.podIP",
	} {
		if got[name] != want {
			t.Errorf("variable of %s is %q", name, got[name])
		}
	}
	var paths []string
	for _, file := range super.Spec.Volumes[0].DownwardAPI.Items {
		paths = append(paths, file.FieldRef.FieldPath)
	}
	mark := func(key string) string { return "metadata.annotations['" + key + "']" }
	want := []string{mark(tenancy.AnnotationNamespace), mark(tenancy.AnnotationUID), mark(tenancy.AnnotationLabels), mark(tenancy.AnnotationAnnotations), "metadata.name"}
	if diff := cmp.Diff(want, paths); diff != "" {
		t.Error(diff)
	}
	if super.Annotations[tenancy.AnnotationLabels] != `app="front"` || super.Annotations[tenancy.AnnotationAnnotations] != `note="n"` {
		t.Errorf("annotations %v", super.Annotations)
	}
	if path := super.Spec.Volumes[1].Projected.Sources[0].DownwardAPI.Items[0].FieldRef.FieldPath; path != mark(tenancy.AnnotationNamespace) {
		t.Errorf("projected: %s", path)
	}
}

func TestServiceLinksAreBounded(t *testing.T) {
	in := input(tenantPod())
	for i := range 5000 {
		in.Services = append(in.Services, service("web", fmt.Sprintf("s%d", i), "10.96.1.1", corev1.ServicePort{Port: 1}))
	}
	super, findings := Translate(in)
	size := 0
	for _, variable := range super.Spec.Containers[0].Env {
		size += len(variable.Name) + len(variable.Value)
	}
	if size > 2*maxServiceLinks || len(findings) != 1 || findings[0].Field != "spec.enableServiceLinks" {
		t.Errorf("%d bytes, findings %v", size, findings)
	}
	if super.Spec.Containers[0].Env[0].Name != "KUBERNETES_SERVICE_HOST" {
		t.Error("the apiserver's address was left out")
	}
}
