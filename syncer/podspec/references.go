package podspec

import (
	corev1 "k8s.io/api/core/v1"
)

// References are the objects of its namespace that a pod needs in order to run, by
// the tenant's names.
type References struct {
	Secrets    map[string]bool
	ConfigMaps map[string]bool
	// EnvSecrets and EnvConfigMaps are those of them that a container takes its
	// whole environment from.
	EnvSecrets, EnvConfigMaps map[string]bool
	ServiceAccount            string
}

// ReferencesOf lists what a tenant's pod refers to.
func ReferencesOf(pod *corev1.Pod) References {
	r := References{
		Secrets: map[string]bool{}, ConfigMaps: map[string]bool{}, EnvSecrets: map[string]bool{}, EnvConfigMaps: map[string]bool{},
		ServiceAccount: accountOf(&pod.Spec),
	}
	for _, secret := range pod.Spec.ImagePullSecrets {
		r.Secrets[secret.Name] = true
	}
	eachContainer(&pod.Spec, func(_ string, c *corev1.Container) {
		for _, source := range c.EnvFrom {
			if ref := source.ConfigMapRef; ref != nil {
				r.ConfigMaps[ref.Name], r.EnvConfigMaps[ref.Name] = true, true
			}
			if ref := source.SecretRef; ref != nil {
				r.Secrets[ref.Name], r.EnvSecrets[ref.Name] = true, true
			}
		}
		for _, variable := range c.Env {
			if source := variable.ValueFrom; source != nil && source.ConfigMapKeyRef != nil {
				r.ConfigMaps[source.ConfigMapKeyRef.Name] = true
			} else if source != nil && source.SecretKeyRef != nil {
				r.Secrets[source.SecretKeyRef.Name] = true
			}
		}
	})
	for _, volume := range pod.Spec.Volumes {
		if volume.ConfigMap != nil {
			r.ConfigMaps[volume.ConfigMap.Name] = true
		}
		if volume.Secret != nil {
			r.Secrets[volume.Secret.SecretName] = true
		}
		if volume.Projected == nil {
			continue
		}
		for _, source := range volume.Projected.Sources {
			if source.ConfigMap != nil {
				r.ConfigMaps[source.ConfigMap.Name] = true
			}
			if source.Secret != nil {
				r.Secrets[source.Secret.Name] = true
			}
		}
	}
	return r
}
