//go:build churn

package churn

import (
	"encoding/base64"
	"encoding/json"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/bulkhead-dev/bulkhead/internal/tenancy"
)

// reference is an object that a pod names.
type reference struct{ kind, name string }

// referencesOf are what a pod names, as far as the churn makes such pods.
func referencesOf(pod *corev1.Pod) []reference {
	all := []reference{{"serviceaccounts", pod.Spec.ServiceAccountName}}
	for _, secret := range pod.Spec.ImagePullSecrets {
		all = append(all, reference{"secrets", secret.Name})
	}
	for _, container := range slices.Concat(pod.Spec.InitContainers, pod.Spec.Containers, ephemeral(pod.Spec.EphemeralContainers)) {
		for _, variable := range container.Env {
			switch from := variable.ValueFrom; {
			case from == nil:
			case from.ConfigMapKeyRef != nil:
				all = append(all, reference{"configmaps", from.ConfigMapKeyRef.Name})
			case from.SecretKeyRef != nil:
				all = append(all, reference{"secrets", from.SecretKeyRef.Name})
			}
		}
		for _, from := range container.EnvFrom {
			switch {
			case from.ConfigMapRef != nil:
				all = append(all, reference{"configmaps", from.ConfigMapRef.Name})
			case from.SecretRef != nil:
				all = append(all, reference{"secrets", from.SecretRef.Name})
			}
		}
	}
	for _, volume := range pod.Spec.Volumes {
		if volume.ConfigMap != nil {
			all = append(all, reference{"configmaps", volume.ConfigMap.Name})
		}
		if volume.Secret != nil {
			all = append(all, reference{"secrets", volume.Secret.SecretName})
		}
		if volume.Projected == nil {
			continue
		}
		for _, source := range volume.Projected.Sources {
			if source.ConfigMap != nil {
				all = append(all, reference{"configmaps", source.ConfigMap.Name})
			}
			if source.Secret != nil {
				all = append(all, reference{"secrets", source.Secret.Name})
			}
		}
	}
	return all
}

// referred is what is down because of pods: it must be while one that runs names it,
// and may be while one does that waits or has ended.
func (m *model) referred(kind string, objects []client.Object, pods wants, name func(string) string, fields func(tenant client.Object) func(*differences, client.Object)) wants {
	must, may := map[string]bool{}, map[string]bool{}
	for i := range m.tenant.Pods.Items {
		pod := &m.tenant.Pods.Items[i]
		for _, to := range referencesOf(pod) {
			if to.kind == kind && !refusedPod(pod) {
				key := join(pod.Namespace, to.name)
				may[key] = true
				must[key] = must[key] || pods[keyOf(pod)].must
			}
		}
	}
	expected := wants{}
	for _, object := range objects {
		if key := keyOf(object); may[key] {
			expected[key] = want{must: must[key], from: object, at: m.superKey(object.GetNamespace(), name(object.GetName())), fields: fields(object)}
		}
	}
	return expected
}

func (m *model) configMaps(pods wants) wants {
	return m.referred("configmaps", m.tenant.objects("configmaps"), pods, tenancy.SuperConfigMap, func(tenant client.Object) func(*differences, client.Object) {
		return func(d *differences, object client.Object) {
			in, out := tenant.(*corev1.ConfigMap), object.(*corev1.ConfigMap)
			d.carried("metadata.labels", in.Labels, out.Labels)
			d.same("data", in.Data, out.Data)
			d.same("binaryData", in.BinaryData, out.BinaryData)
			d.same("immutable", in.Immutable, out.Immutable)
		}
	})
}

func (m *model) secrets(pods wants) wants {
	return m.referred("secrets", m.tenant.objects("secrets"), pods, func(name string) string { return name }, func(tenant client.Object) func(*differences, client.Object) {
		return func(d *differences, object client.Object) {
			in, out := tenant.(*corev1.Secret), object.(*corev1.Secret)
			d.carried("metadata.labels", in.Labels, out.Labels)
			d.same("data", in.Data, out.Data)
			d.same("type", in.Type, out.Type)
			d.same("immutable", in.Immutable, out.Immutable)
		}
	})
}

func (m *model) serviceAccounts(pods wants) wants {
	return m.referred("serviceaccounts", m.tenant.objects("serviceaccounts"), pods, tenancy.SuperServiceAccount, func(tenant client.Object) func(*differences, client.Object) {
		return func(d *differences, object client.Object) {
			in, out := tenant.(*corev1.ServiceAccount), object.(*corev1.ServiceAccount)
			d.carried("metadata.labels", in.Labels, out.Labels)
			d.same("imagePullSecrets", in.ImagePullSecrets, out.ImagePullSecrets)
			d.that("automountServiceAccountToken", out.AutomountServiceAccountToken != nil && !*out.AutomountServiceAccountToken, "not false")
		}
	})
}

// boundTo reads from a service account token for which pod it was issued.
func boundTo(token []byte) types.UID {
	var claims struct {
		Kubernetes struct {
			Pod struct {
				UID types.UID `json:"uid"`
			} `json:"pod"`
		} `json:"kubernetes.io"`
	}
	parts := strings.Split(string(token), ".")
	if len(parts) != 3 {
		return "no token"
	}
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil || json.Unmarshal(payload, &claims) != nil {
		return "no token"
	}
	return claims.Kubernetes.Pod.UID
}
