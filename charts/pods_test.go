package charts_test

import (
	"regexp"
	"slices"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/pod-security-admission/api"
	"k8s.io/pod-security-admission/policy"
)

// pinned is an image name with a tag that is not "latest", or a digest.
var pinned = regexp.MustCompile(`(:[^/:@]+(@sha256:[0-9a-f]{64})?|@sha256:[0-9a-f]{64})$`)

// podTemplates finds all pods of a manifest by the name of what makes them.
func podTemplates(t *testing.T, manifest string) map[string]corev1.PodTemplateSpec {
	t.Helper()
	found := map[string]corev1.PodTemplateSpec{}
	for _, object := range objects(t, manifest) {
		switch object.GetKind() {
		case "Deployment":
			found[object.GetName()] = typed[appsv1.Deployment](t, object).Spec.Template
		case "DaemonSet":
			found[object.GetName()] = typed[appsv1.DaemonSet](t, object).Spec.Template
		case "StatefulSet", "Job", "CronJob", "Pod":
			t.Fatalf("%s %s: tell this test how to find its pods", object.GetKind(), object.GetName())
		}
	}
	return found
}

// The pods that may do what the Pod Security Standard "restricted" forbids, and what
// that is.
var exceptions = map[string][]string{
	// It answers at the node's address in the kubelet's place, and its health is
	// asked for on the node's loopback.
	"vn-agent": {"host namespaces", "hostPort", "probe or lifecycle host"},
	// cri-ext's socket is in a directory of the node, and lets in its root alone.
	"tenant-proxy": {"restricted volume types", "runAsNonRoot != true", "runAsUser=0"},
	// It writes the rules of the node's network, and cri-ext reaches it by a socket.
	"fence": {"restricted volume types", "host namespaces", "hostPort", "probe or lifecycle host", "unrestricted capabilities", "runAsNonRoot != true", "runAsUser=0"},
}

func TestPodsAreRestricted(t *testing.T) {
	for name, values := range map[string]map[string]any{"default": nil, "local": localValues(t), "fence": {"fence": map[string]any{"enabled": true}}, "abm": {"abm": map[string]any{"enabled": true}}} {
		templates := podTemplates(t, mustTemplate(t, values))
		want := 4
		for _, optional := range []string{"fence", "abm"} {
			if component, is := values[optional].(map[string]any); is && component["enabled"] == true {
				want++
			}
		}
		if len(templates) != want {
			t.Fatalf("%s: %d workloads, want %d", name, len(templates), want)
		}
		for workload, template := range templates {
			checkPodSecurity(t, name+" "+workload, template, exceptions[workload])
			for _, container := range append(template.Spec.InitContainers, template.Spec.Containers...) {
				checkContainer(t, name+" "+workload+"/"+container.Name, container)
			}
			user := int64(65532) // the images' own
			if slices.Contains(exceptions[workload], "runAsUser=0") {
				user = 0
			}
			if template.Spec.SecurityContext.RunAsUser == nil || *template.Spec.SecurityContext.RunAsUser != user {
				t.Errorf("%s %s: does not run as user %d", name, workload, user)
			}
		}
	}
}

func checkPodSecurity(t *testing.T, name string, template corev1.PodTemplateSpec, allowed []string) {
	t.Helper()
	evaluator, err := policy.NewEvaluator(policy.DefaultChecks(), nil)
	if err != nil {
		t.Fatal(err)
	}
	forbidden := map[string]bool{}
	for _, result := range evaluator.EvaluatePod(api.LevelVersion{Level: api.LevelRestricted, Version: api.LatestVersion()}, &template.ObjectMeta, &template.Spec) {
		if !result.Allowed {
			forbidden[result.ForbiddenReason] = true
		}
	}
	for _, reason := range allowed {
		if !forbidden[reason] {
			t.Errorf("%s no longer needs its exception %q", name, reason)
		}
		delete(forbidden, reason)
	}
	for reason := range forbidden {
		t.Errorf("%s breaks the Pod Security Standard \"restricted\": %s", name, reason)
	}
}

func checkContainer(t *testing.T, name string, container corev1.Container) {
	t.Helper()
	security := container.SecurityContext
	if security == nil || security.ReadOnlyRootFilesystem == nil || !*security.ReadOnlyRootFilesystem {
		t.Errorf("%s: root file system can be written", name)
	}
	if !pinned.MatchString(container.Image) || regexp.MustCompile(`:latest$`).MatchString(container.Image) {
		t.Errorf("%s: image %s is not pinned", name, container.Image)
	}
	for _, list := range []corev1.ResourceList{container.Resources.Requests, container.Resources.Limits} {
		if list.Memory().IsZero() {
			t.Errorf("%s: memory is not bounded", name)
		}
	}
	if container.Resources.Requests.Cpu().IsZero() {
		t.Errorf("%s: requests no CPU", name)
	}
	if container.LivenessProbe == nil || container.ReadinessProbe == nil || container.StartupProbe == nil {
		t.Errorf("%s: lacks a probe", name)
	}
}

func TestEveryDeploymentSelectsItsOwnPods(t *testing.T) {
	for _, object := range objects(t, mustTemplate(t, nil)) {
		if object.GetKind() != "Deployment" {
			continue
		}
		deployment := typed[appsv1.Deployment](t, object)
		selector, err := metav1.LabelSelectorAsSelector(deployment.Spec.Selector)
		if err != nil {
			t.Fatal(err)
		}
		for name, template := range podTemplates(t, mustTemplate(t, nil)) {
			if selector.Matches(labels.Set(template.Labels)) != (name == deployment.Name) {
				t.Errorf("the selector of %s and the pods of %s: wrong match", deployment.Name, name)
			}
		}
	}
}
