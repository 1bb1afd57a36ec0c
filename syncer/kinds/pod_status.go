package kinds

import (
	"context"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/bulkhead-dev/bulkhead/syncer/engine"
	"github.com/bulkhead-dev/bulkhead/syncer/translation"
)

// podStatus writes the super pod's status into the tenant's pod.
func podStatus(l *engine.Link, super, tenant *corev1.Pod) {
	message := translation.NewMessage(l.Tenant(), tenant.Namespace, super.UID, tenant.UID)
	upPodStatus(message, super, tenant)
}

// upPodStatus is built from what a tenant may see. Conditions that are the tenant's
// own, of its readiness gates, stay.
func upPodStatus(message translation.Message, super, tenant *corev1.Pod) {
	in := super.Status.DeepCopy()
	out := corev1.PodStatus{
		ObservedGeneration:         observed(super.Generation, in.ObservedGeneration, tenant.Generation, tenant.Status.ObservedGeneration),
		Phase:                      in.Phase,
		Message:                    message.Clean(in.Message),
		Reason:                     in.Reason,
		HostIP:                     in.HostIP,
		HostIPs:                    in.HostIPs,
		PodIP:                      in.PodIP,
		PodIPs:                     in.PodIPs,
		StartTime:                  in.StartTime,
		QOSClass:                   in.QOSClass,
		InitContainerStatuses:      cleanStatuses(message, tenant, in.InitContainerStatuses),
		ContainerStatuses:          cleanStatuses(message, tenant, in.ContainerStatuses),
		EphemeralContainerStatuses: cleanStatuses(message, tenant, in.EphemeralContainerStatuses),
		AllocatedResources:         in.AllocatedResources,
		Resources:                  in.Resources,
	}
	for _, condition := range in.Conditions {
		if gated(tenant, condition.Type) {
			continue
		}
		condition.Message = message.Clean(condition.Message)
		condition.ObservedGeneration = observed(super.Generation, condition.ObservedGeneration, tenant.Generation, 0)
		out.Conditions = append(out.Conditions, boundBefore(tenant, condition))
	}
	for _, condition := range tenant.Status.Conditions {
		if gated(tenant, condition.Type) || (ofTenant(condition.Type) && !hasCondition(out.Conditions, condition.Type)) {
			out.Conditions = append(out.Conditions, condition)
		}
	}
	tenant.Status = out
}

// boundBefore returns the tenant's condition that a pod is scheduled where it says the same:
// its own apiserver has written it with the binding, a moment later than the super
// cluster's, and that moment is not worth a write for each pod.
func boundBefore(tenant *corev1.Pod, super corev1.PodCondition) corev1.PodCondition {
	for _, own := range tenant.Status.Conditions {
		if own.Type == corev1.PodScheduled && super.Type == own.Type && own.Status == super.Status && own.Reason == super.Reason && own.Message == super.Message {
			return own
		}
	}
	return super
}

// observed translates a generation: the super pod counts its own changes.
func observed(super, superObserved, tenant, before int64) int64 {
	if superObserved == 0 {
		return 0
	}
	if superObserved >= super {
		return tenant
	}
	return before
}

// cleanStatuses leaves out containers that only the super cluster knows.
func cleanStatuses(message translation.Message, tenant *corev1.Pod, statuses []corev1.ContainerStatus) []corev1.ContainerStatus {
	statuses = slices.DeleteFunc(statuses, func(status corev1.ContainerStatus) bool {
		named := func(c corev1.Container) bool { return c.Name == status.Name }
		return !slices.ContainsFunc(tenant.Spec.Containers, named) && !slices.ContainsFunc(tenant.Spec.InitContainers, named) &&
			!slices.ContainsFunc(tenant.Spec.EphemeralContainers, func(c corev1.EphemeralContainer) bool { return c.Name == status.Name })
	})
	for i := range statuses {
		for _, state := range []*corev1.ContainerState{&statuses[i].State, &statuses[i].LastTerminationState} {
			if state.Waiting != nil {
				state.Waiting.Message = message.Clean(state.Waiting.Message)
			}
		}
	}
	return statuses
}

// ofTenant are the conditions that the tenant's own control plane writes too: where a
// pod is placed by its scheduler, and why it is evicted by its users.
func ofTenant(condition corev1.PodConditionType) bool {
	return condition == corev1.PodScheduled || condition == corev1.DisruptionTarget
}

func hasCondition(conditions []corev1.PodCondition, kind corev1.PodConditionType) bool {
	return slices.ContainsFunc(conditions, func(c corev1.PodCondition) bool { return c.Type == kind })
}

// gated tells whether a condition is one of the pod's readiness gates, which the
// tenant's own controllers write.
func gated(pod *corev1.Pod, condition corev1.PodConditionType) bool {
	return slices.ContainsFunc(pod.Spec.ReadinessGates, func(gate corev1.PodReadinessGate) bool { return gate.ConditionType == condition })
}

// pushGates carries the conditions of the pod's readiness gates down, where the
// kubelet decides by them whether the pod is ready.
func pushGates(ctx context.Context, s *podSync) error {
	changed := s.Super.DeepCopy()
	if !mergeGates(s.Tenant, changed) {
		return nil
	}
	err := s.SuperClient().Status().Patch(ctx, changed, client.MergeFromWithOptions(s.Super, client.MergeFromWithOptimisticLock{}))
	if err != nil {
		return fmt.Errorf("writing the readiness gates of %s in the super cluster: %w", s.Key, err)
	}
	return nil
}

// mergeGates writes the tenant's readiness gates into the super pod's conditions
// and tells whether that has changed any.
func mergeGates(tenant, super *corev1.Pod) (changed bool) {
	for _, condition := range tenant.Status.Conditions {
		if !gated(tenant, condition.Type) {
			continue
		}
		i := slices.IndexFunc(super.Status.Conditions, func(c corev1.PodCondition) bool { return c.Type == condition.Type })
		switch {
		case i < 0:
			super.Status.Conditions = append(super.Status.Conditions, condition)
			changed = true
		case super.Status.Conditions[i].Status != condition.Status:
			super.Status.Conditions[i] = condition
			changed = true
		}
	}
	return changed
}
