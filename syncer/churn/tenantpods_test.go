//go:build churn

package churn

import (
	"context"
	"fmt"
	"math/rand/v2"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// gate is a readiness gate of some pods, schedulingGate what holds some back.
const (
	gate           = corev1.PodConditionType("churn.example/gate")
	schedulingGate = "churn.example/wait"
)

// podsPerNamespace bounds how many pods there are.
const podsPerNamespace = 5

func (u user) pod(r *rand.Rand) *corev1.Pod {
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: u.namespace(r), Name: fmt.Sprintf("pod-%d", r.IntN(podsPerNamespace))}}
}

func (u user) podOperations() []operation {
	return []operation{
		{"pod create", 30, func(ctx context.Context, r *rand.Rand) error {
			pod := u.pod(r)
			somePod(r, pod)
			return u.create(ctx, pod)
		}},
		{"pod delete", 14, func(ctx context.Context, r *rand.Rand) error {
			return u.client.Delete(ctx, u.pod(r), client.GracePeriodSeconds(r.Int64N(3)))
		}},
		{"pod relabel", 8, func(ctx context.Context, r *rand.Rand) error {
			return change(ctx, u.client, u.pod(r), func(pod *corev1.Pod) {
				pod.Labels = someLabels(r)
				pod.Annotations = map[string]string{churnPrefix + "note": one(r, "a", "b", "c")}
			})
		}},
		{"pod image", 5, func(ctx context.Context, r *rand.Rand) error {
			return change(ctx, u.client, u.pod(r), func(pod *corev1.Pod) {
				pod.Spec.Containers[0].Image = one(r, "example/a:1", "example/a:2", "example/a:3")
			})
		}},
		{"pod ungate", 5, func(ctx context.Context, r *rand.Rand) error {
			return change(ctx, u.client, u.pod(r), func(pod *corev1.Pod) { pod.Spec.SchedulingGates = nil })
		}},
		{"pod gate condition", 3, func(ctx context.Context, r *rand.Rand) error {
			pod := u.pod(r)
			if err := u.client.Get(ctx, client.ObjectKeyFromObject(pod), pod); err != nil {
				return err
			}
			before := pod.DeepCopy()
			status := one(r, corev1.ConditionTrue, corev1.ConditionFalse)
			for i := range pod.Status.Conditions {
				if pod.Status.Conditions[i].Type == gate {
					pod.Status.Conditions[i].Status = status
					return u.client.Status().Patch(ctx, pod, client.StrategicMergeFrom(before))
				}
			}
			pod.Status.Conditions = append(pod.Status.Conditions, corev1.PodCondition{Type: gate, Status: status})
			return u.client.Status().Patch(ctx, pod, client.StrategicMergeFrom(before))
		}},
		{"pod resize", 4, func(ctx context.Context, r *rand.Rand) error {
			pod := u.pod(r)
			if err := u.client.Get(ctx, client.ObjectKeyFromObject(pod), pod); err != nil {
				return err
			}
			before := pod.DeepCopy()
			pod.Spec.Containers[0].Resources.Requests = corev1.ResourceList{corev1.ResourceCPU: resource.MustParse(one(r, "100m", "200m", "300m"))}
			return u.client.SubResource("resize").Patch(ctx, pod, client.StrategicMergeFrom(before))
		}},
		{"pod debug", 2, func(ctx context.Context, r *rand.Rand) error {
			pod := u.pod(r)
			if err := u.client.Get(ctx, client.ObjectKeyFromObject(pod), pod); err != nil {
				return err
			}
			before := pod.DeepCopy()
			pod.Spec.EphemeralContainers = append(pod.Spec.EphemeralContainers, corev1.EphemeralContainer{EphemeralContainerCommon: corev1.EphemeralContainerCommon{
				Name: fmt.Sprintf("debug-%d", len(pod.Spec.EphemeralContainers)), Image: "example/debug:1", ImagePullPolicy: corev1.PullIfNotPresent, TerminationMessagePolicy: corev1.TerminationMessageReadFile,
			}})
			return u.client.SubResource("ephemeralcontainers").Patch(ctx, pod, client.StrategicMergeFrom(before))
		}},
		{"pod evict", 2, func(ctx context.Context, r *rand.Rand) error { return evict(ctx, u.client, u.pod(r)) }},
	}
}

// somePod is a pod that refers to some of the other objects.
func somePod(r *rand.Rand, pod *corev1.Pod) {
	name := func(prefix string, n int) string { return fmt.Sprintf("%s-%d", prefix, r.IntN(n)) }
	grace := one(r, int64(0), 1, 5)
	optional := true
	pod.Labels = someLabels(r)
	pod.Spec = corev1.PodSpec{
		TerminationGracePeriodSeconds: &grace,
		Containers: []corev1.Container{{
			Name: "main", Image: "example/a:1", Ports: []corev1.ContainerPort{{Name: "http", ContainerPort: 80}},
			Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("50m")}},
		}},
		RestartPolicy: one(r, corev1.RestartPolicyAlways, corev1.RestartPolicyNever),
	}
	main := &pod.Spec.Containers[0]
	mount := func(volume string, source corev1.VolumeSource) {
		pod.Spec.Volumes = append(pod.Spec.Volumes, corev1.Volume{Name: volume, VolumeSource: source})
		main.VolumeMounts = append(main.VolumeMounts, corev1.VolumeMount{Name: volume, MountPath: "/" + volume})
	}
	if chance(r, 50) {
		mount("config", corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: name("config", 3)}}})
	}
	if chance(r, 50) {
		mount("secret", corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: name("secret", 3)}})
	}
	if chance(r, 20) {
		mount("claim", corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: name("claim", 2)}})
	}
	if chance(r, 30) {
		main.Env = append(main.Env, corev1.EnvVar{Name: "FROM_CONFIG", ValueFrom: &corev1.EnvVarSource{ConfigMapKeyRef: &corev1.ConfigMapKeySelector{
			LocalObjectReference: corev1.LocalObjectReference{Name: name("config", 3)}, Key: "a", Optional: &optional,
		}}})
	}
	if chance(r, 20) {
		main.EnvFrom = append(main.EnvFrom, corev1.EnvFromSource{SecretRef: &corev1.SecretEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: name("secret", 3)}, Optional: &optional}})
	}
	if chance(r, 40) {
		pod.Spec.ServiceAccountName = name("account", 2)
	}
	if chance(r, 10) {
		pod.Spec.SchedulingGates = []corev1.PodSchedulingGate{{Name: schedulingGate}}
	}
	if chance(r, 20) {
		pod.Spec.ReadinessGates = []corev1.PodReadinessGate{{ConditionType: gate}}
	}
	if chance(r, 20) {
		pod.Spec.InitContainers = []corev1.Container{{Name: "init", Image: "example/init:1"}}
	}
	if chance(r, 5) {
		pod.Spec.HostNetwork = true // which the platform refuses
	}
}

func storageClass() *storagev1.StorageClass {
	return &storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: offeredClass}}
}

func nodeLease(node string) *coordinationv1.Lease {
	return &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Namespace: corev1.NamespaceNodeLease, Name: node}}
}
