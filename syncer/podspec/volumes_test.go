package podspec

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
)

// The volume that the tenant's admission puts into every pod: its token comes from
// our Secret, its CA from the renamed ConfigMap.
func TestTokenVolume(t *testing.T) {
	seconds := int64(3607)
	pod := tenantPod()
	pod.Spec.Volumes = []corev1.Volume{{Name: "kube-api-access-x", VolumeSource: projected(
		corev1.VolumeProjection{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{ExpirationSeconds: &seconds, Path: "token"}},
		corev1.VolumeProjection{ConfigMap: &corev1.ConfigMapProjection{LocalObjectReference: corev1.LocalObjectReference{Name: "kube-root-ca.crt"}}},
		corev1.VolumeProjection{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{Audience: "vault", Path: "vault"}},
	)}}
	super, _ := Translate(input(pod))
	sources := super.Spec.Volumes[0].Projected.Sources
	want := &corev1.SecretProjection{
		LocalObjectReference: corev1.LocalObjectReference{Name: "tokens-pod-uid"},
		Items:                []corev1.KeyToPath{{Key: "kube-api-access-x.0", Path: "token"}},
	}
	if diff := cmp.Diff(want, sources[0].Secret); diff != "" || sources[0].ServiceAccountToken != nil {
		t.Error(diff)
	}
	if name := sources[1].ConfigMap.Name; name != "kube-root-ca.crt-tenant" {
		t.Errorf("config map %s", name)
	}
	if diff := cmp.Diff([]Token{{Key: "kube-api-access-x.0", ExpirationSeconds: 3607}, {Key: "kube-api-access-x.2", Audience: "vault", ExpirationSeconds: 3600}}, Tokens(pod)); diff != "" {
		t.Error(diff)
	}
}

// A user's volume whose name looks like the token volume's is an ordinary one (the
// ancestor crashed on it: virtualcluster.md 2.2).
func TestVolumeNamedLikeTheTokenVolume(t *testing.T) {
	pod := tenantPod()
	pod.Spec.Volumes = []corev1.Volume{{Name: "kube-api-access-x", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}}}
	super, findings := Translate(input(pod))
	if len(findings) > 0 || super.Spec.Volumes[0].EmptyDir == nil || len(Tokens(pod)) != 0 {
		t.Errorf("volume %+v, findings %v", super.Spec.Volumes[0], findings)
	}
}

func TestEphemeralVolumeIsTheTenantsClaim(t *testing.T) {
	pod := tenantPod()
	pod.Spec.Volumes = volumes(corev1.VolumeSource{Ephemeral: &corev1.EphemeralVolumeSource{}})
	super, findings := Translate(input(pod))
	if claim := super.Spec.Volumes[0].PersistentVolumeClaim; len(findings) > 0 || claim == nil || claim.ClaimName != "front-v" {
		t.Errorf("volume %+v, findings %v", super.Spec.Volumes[0], findings)
	}
}

func TestReferencesOf(t *testing.T) {
	pod := tenantPod()
	name := func(n string) corev1.LocalObjectReference { return corev1.LocalObjectReference{Name: n} }
	pod.Spec.ImagePullSecrets = []corev1.LocalObjectReference{name("pull")}
	pod.Spec.InitContainers = []corev1.Container{{EnvFrom: []corev1.EnvFromSource{
		{ConfigMapRef: &corev1.ConfigMapEnvSource{LocalObjectReference: name("cm-from")}}, {SecretRef: &corev1.SecretEnvSource{LocalObjectReference: name("s-from")}},
	}}}
	pod.Spec.Containers[0].Env = []corev1.EnvVar{
		{ValueFrom: &corev1.EnvVarSource{ConfigMapKeyRef: &corev1.ConfigMapKeySelector{LocalObjectReference: name("cm-env")}}},
		{ValueFrom: &corev1.EnvVarSource{SecretKeyRef: &corev1.SecretKeySelector{LocalObjectReference: name("s-env")}}},
	}
	pod.Spec.Volumes = []corev1.Volume{
		{VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: name("cm-vol")}}},
		{VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "s-vol"}}},
		{VolumeSource: projected(corev1.VolumeProjection{ConfigMap: &corev1.ConfigMapProjection{LocalObjectReference: name("cm-proj")}},
			corev1.VolumeProjection{Secret: &corev1.SecretProjection{LocalObjectReference: name("s-proj")}})},
	}
	set := func(names ...string) map[string]bool {
		out := map[string]bool{}
		for _, n := range names {
			out[n] = true
		}
		return out
	}
	want := References{
		Secrets: set("pull", "s-from", "s-env", "s-vol", "s-proj"), ConfigMaps: set("cm-from", "cm-env", "cm-vol", "cm-proj"),
		EnvSecrets: set("s-from"), EnvConfigMaps: set("cm-from"), ServiceAccount: "app",
	}
	if diff := cmp.Diff(want, ReferencesOf(pod)); diff != "" {
		t.Error(diff)
	}
}
