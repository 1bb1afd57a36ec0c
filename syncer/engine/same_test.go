package engine

import (
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// aPod is about as large as pods are.
func aPod() *corev1.Pod {
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "web", Name: "a", Labels: map[string]string{}, Annotations: map[string]string{}}}
	for i := range 8 {
		pod.Labels[fmt.Sprint("label-", i)] = "value"
		pod.Annotations[fmt.Sprint("annotation-", i)] = "value"
	}
	container := corev1.Container{Name: "main", Image: "registry.k8s.io/pause:3.10", Resources: corev1.ResourceRequirements{
		Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("1")},
	}}
	for i := range 20 {
		container.Env = append(container.Env, corev1.EnvVar{Name: fmt.Sprint("VARIABLE_", i), Value: "value"})
	}
	pod.Spec.Containers = []corev1.Container{container, container}
	return pod
}

func TestSame(t *testing.T) {
	yes := true
	for name, tc := range map[string]struct {
		edit func(*corev1.Pod)
		want bool
	}{
		"nothing":              {func(*corev1.Pod) {}, true},
		"empty, not nil":       {func(p *corev1.Pod) { p.Spec.Volumes, p.Finalizers = []corev1.Volume{}, []string{} }, true},
		"written differently":  {func(p *corev1.Pod) { p.Spec.Containers[0].Resources.Requests["cpu"] = resource.MustParse("1000m") }, true},
		"another amount":       {func(p *corev1.Pod) { p.Spec.Containers[0].Resources.Requests["cpu"] = resource.MustParse("2") }, false},
		"a label":              {func(p *corev1.Pod) { p.Labels["label-1"] = "other" }, false},
		"one more label":       {func(p *corev1.Pod) { p.Labels["more"] = "" }, false},
		"a pointer":            {func(p *corev1.Pod) { p.Spec.HostUsers = &yes }, false},
		"a pointer to nothing": {func(p *corev1.Pod) { p.Spec.SecurityContext = &corev1.PodSecurityContext{} }, false},
		"the order":            {func(p *corev1.Pod) { e := p.Spec.Containers[0].Env; e[0], e[1] = e[1], e[0] }, false},
		"the status":           {func(p *corev1.Pod) { p.Status.PodIP = "10.0.0.1" }, false},
	} {
		changed := aPod()
		tc.edit(changed)
		if got := same(aPod(), changed); got != tc.want {
			t.Errorf("%s: %v", name, got)
		}
		if walk := equality.Semantic.DeepEqual(aPod(), changed); walk != tc.want {
			t.Errorf("%s: the walk says %v", name, walk)
		}
	}
}

func BenchmarkSame(b *testing.B) {
	one := aPod()
	two := one.DeepCopy()
	b.Run("same", func(b *testing.B) {
		for b.Loop() {
			same(one, two)
		}
	})
	b.Run("walk", func(b *testing.B) {
		for b.Loop() {
			equality.Semantic.DeepEqual(one, two)
		}
	})
}
