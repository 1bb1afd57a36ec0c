package podspec

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
)

// eachContainer visits containers of all three sorts, which may be changed.
func eachContainer(spec *corev1.PodSpec, visit func(path string, c *corev1.Container)) {
	for i := range spec.InitContainers {
		visit(fmt.Sprintf("spec.initContainers[%d]", i), &spec.InitContainers[i])
	}
	for i := range spec.Containers {
		visit(fmt.Sprintf("spec.containers[%d]", i), &spec.Containers[i])
	}
	for i := range spec.EphemeralContainers {
		// They have the fields of other containers, and one more.
		visit(fmt.Sprintf("spec.ephemeralContainers[%d]", i), (*corev1.Container)(&spec.EphemeralContainers[i].EphemeralContainerCommon))
	}
}

// sameResources compares what a tenant asks for with what its super pod has. The
// super cluster may add requests where the tenant has none, from a LimitRange.
func sameResources(tenant, super corev1.ResourceRequirements) bool {
	return contains(super.Requests, tenant.Requests) && contains(super.Limits, tenant.Limits)
}

func contains(all, part corev1.ResourceList) bool {
	for name, quantity := range part {
		if other, ok := all[name]; !ok || other.Cmp(quantity) != 0 {
			return false
		}
	}
	return true
}
