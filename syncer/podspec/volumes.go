package podspec

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"

	"github.com/bulkhead-dev/bulkhead/internal/tenancy"
)

func (t *translator) volumes() {
	for i := range t.out.Volumes {
		out, in := &t.out.Volumes[i], &t.in.Volumes[i]
		if out.ConfigMap != nil {
			out.ConfigMap.Name = tenancy.SuperConfigMap(out.ConfigMap.Name)
		}
		if in.Ephemeral != nil {
			// The tenant's own controller makes the claim, and it goes down like any other.
			out.PersistentVolumeClaim = &corev1.PersistentVolumeClaimVolumeSource{ClaimName: t.Pod.Name + "-" + in.Name}
		}
		if out.Projected != nil {
			for j := range out.Projected.Sources {
				t.projection(out.Name, j, &out.Projected.Sources[j])
			}
		}
	}
	eachDownwardFile(t.out, func(path string, item *corev1.DownwardAPIVolumeFile) {
		if item.FieldRef != nil {
			t.fileField(path+".fieldRef", item.FieldRef)
		}
	})
}

func (t *translator) projection(volume string, index int, source *corev1.VolumeProjection) {
	if source.ConfigMap != nil {
		source.ConfigMap.Name = tenancy.SuperConfigMap(source.ConfigMap.Name)
	}
	if token := source.ServiceAccountToken; token != nil {
		source.ServiceAccountToken = nil
		source.Secret = &corev1.SecretProjection{
			LocalObjectReference: corev1.LocalObjectReference{Name: TokenSecret(t.Pod)},
			Items:                []corev1.KeyToPath{{Key: tokenKey(volume, index), Path: token.Path}},
		}
	}
}

// eachDownwardFile visits the files of all downward API volumes, which may be changed.
func eachDownwardFile(spec *corev1.PodSpec, visit func(path string, item *corev1.DownwardAPIVolumeFile)) {
	for i := range spec.Volumes {
		volume := &spec.Volumes[i]
		if volume.DownwardAPI != nil {
			for j := range volume.DownwardAPI.Items {
				visit(fmt.Sprintf("spec.volumes[%d].downwardAPI.items[%d]", i, j), &volume.DownwardAPI.Items[j])
			}
		}
		if volume.Projected == nil {
			continue
		}
		for j := range volume.Projected.Sources {
			if source := volume.Projected.Sources[j].DownwardAPI; source != nil {
				for k := range source.Items {
					visit(fmt.Sprintf("spec.volumes[%d].projected.sources[%d].downwardAPI.items[%d]", i, j, k), &source.Items[k])
				}
			}
		}
	}
}
