package kinds

import (
	"context"
	"errors"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/bulkhead-dev/bulkhead/internal/tenancy"
	"github.com/bulkhead-dev/bulkhead/internal/tenantnetwork"
	"github.com/bulkhead-dev/bulkhead/syncer/engine"
	"github.com/bulkhead-dev/bulkhead/syncer/tokens"
)

// orphanGrace is how long, in seconds, the containers of a pod have whose tenant
// object is gone already, or is being deleted by force. It is never 0: that would
// take away the super pod, and not its containers.
const orphanGrace = 1

type podSync = engine.Sync[*corev1.Pod]

// podLifecycle decides by the present state of both pods alone. A pod is never made
// twice: once it was bound, its disappearance in the super cluster ends it.
func podLifecycle(ctx context.Context, s *podSync) (engine.Verdict, error) {
	tenant, super := s.Tenant, s.Super
	switch {
	case tenant == nil && super == nil:
		return engine.Handled, nil
	case tenant == nil, super != nil && !standsFor(super, tenant):
		return engine.Handled, deleteSuperPod(ctx, s, orphanGrace)
	case tenant.DeletionTimestamp != nil && super == nil:
		return engine.Handled, endTenantPod(ctx, s)
	case tenant.DeletionTimestamp != nil:
		if err := s.PushStatus(ctx); err != nil && !apierrors.IsConflict(err) {
			return engine.Handled, err
		}
		return engine.Handled, deleteSuperPod(ctx, s, graceOf(tenant))
	case super == nil && (finished(tenant) || len(tenant.Spec.SchedulingGates) > 0):
		return engine.Handled, nil
	case super == nil && s.Link.Tenant().SchedulesItself && !started(tenant):
		if tenant.Spec.NodeName == "" {
			return engine.Handled, nil // a scheduler of the tenant's has it
		}
		return engine.Continue, nil
	case super == nil && wasBound(tenant):
		return engine.Handled, deleteVanished(ctx, s)
	case super == nil:
		return engine.Continue, nil
	case super.DeletionTimestamp != nil:
		// Drained, evicted or preempted: the tenant sees it as on any node.
		if err := s.PushStatus(ctx); err != nil && !apierrors.IsConflict(err) {
			return engine.Handled, err
		}
		return engine.Handled, deleteTenantPod(ctx, s, graceOf(super))
	case tenant.Spec.NodeName != "" && tenant.Spec.NodeName != super.Spec.NodeName:
		return engine.Handled, endMisplaced(ctx, s)
	}
	return engine.Continue, nil
}

// preparePod makes the namespace's fence, without which no pod may run, and what the
// super cluster's admission and the kubelet ask for.
func preparePod(ctx context.Context, s *podSync, networks tenantnetwork.Networks) error {
	namespace, err := engine.Get[*corev1.Namespace](ctx, s.TenantReader(), "", s.Key.Namespace)
	switch {
	case err != nil:
		return err
	case namespace == nil:
		return engine.Wait("namespace %s", s.Key.Namespace)
	}
	if err := ensureFence(ctx, s.Link, networks, namespace); err != nil {
		return err
	}
	for _, key := range append(podNeeds(s.Tenant), podClaims(s.Tenant)...) {
		err := s.Ensure(ctx, key)
		var wait *engine.WaitError
		if errors.As(err, &wait) && !wait.Earlier && key.Resource != "serviceaccounts" {
			// The kubelet waits for it, as it does on any node: the tenant may not have
			// made it yet, or it may be refused, and says so itself. It would not wait
			// for what only has the name: the pod would run with what is deleted.
			continue
		}
		if err != nil {
			return fmt.Errorf("carrying what the pod needs: %w", err)
		}
	}
	return nil
}

// finishPod binds the tenant's pod where the super pod is, carries what goes on up,
// and keeps its tokens.
func finishPod(ctx context.Context, s *podSync) (time.Duration, error) {
	keeper := tokens.Keeper{
		Tenant: s.Link.Tenant().Tenant, TenantClient: s.TenantClient(), SuperClient: s.SuperClient(), SuperReader: s.SuperReader(),
	}
	again, problem := keeper.Ensure(ctx, s.Tenant, s.Super)
	switch {
	case apierrors.IsAlreadyExists(problem):
		problem = engine.Wait("the cache to show the pod's tokens")
	case apierrors.IsNotFound(problem):
		// The pod is gone, which comes as an event, or its ServiceAccount is.
		s.Warn(ctx, s.Tenant, "TokenNotIssued", problem.Error())
		problem = engine.Wait("the pod's tokens")
	}
	// A pod without its tokens waits on its node, and the tenant sees it wait.
	if s.Super.Spec.NodeName != "" && s.Tenant.Spec.NodeName == "" {
		return again, errors.Join(problem, bind(ctx, s))
	}
	return again, errors.Join(problem, pushSubresources(ctx, s), pushGates(ctx, s), s.PushStatus(ctx))
}

// bind tells the tenant's apiserver where its pod runs. The node comes first: a
// pod on a node that does not exist would be collected as an orphan.
func bind(ctx context.Context, s *podSync) error {
	node := s.Super.Spec.NodeName
	if err := s.Ensure(ctx, engine.Key{Resource: "nodes", Name: node}); err != nil {
		var foreign *tenancy.ForeignError
		if errors.As(err, &foreign) {
			s.Warn(ctx, s.Tenant, engine.ReasonNameTaken, foreign.Error())
		}
		return err
	}
	binding := &corev1.Binding{
		ObjectMeta: metav1.ObjectMeta{Namespace: s.Tenant.Namespace, Name: s.Tenant.Name, UID: s.Tenant.UID},
		Target:     corev1.ObjectReference{Kind: "Node", Name: node},
	}
	if err := s.TenantClient().SubResource("binding").Create(ctx, s.Tenant, binding); err != nil {
		return fmt.Errorf("binding %s to node %s: %w", s.Key, node, err)
	}
	return nil // the pod's new state comes as an event, and its status follows
}

// endMisplaced deletes the super pod of a tenant's pod that somebody has put on another
// node, after asking the super cluster itself: the cache may show the pod as it was before it
// was bound, and the tenant's pod as it is since.
func endMisplaced(ctx context.Context, s *podSync) error {
	live, err := engine.Get[*corev1.Pod](ctx, s.SuperClient(), s.Super.Namespace, s.Super.Name)
	if err != nil {
		return err
	}
	if live == nil || live.UID != s.Super.UID || live.Spec.NodeName == s.Tenant.Spec.NodeName {
		return engine.Wait("the cache to show where %s is", s.Key)
	}
	s.Warn(ctx, s.Tenant, engine.ReasonRefused, "spec.nodeName: pods are placed by the scheduler only")
	return deleteSuperPod(ctx, s, orphanGrace)
}

// deleteSuperPod deletes the super pod with a grace period, or shortens the one it has.
func deleteSuperPod(ctx context.Context, s *podSync, grace int64) error {
	grace = max(grace, orphanGrace)
	if s.Super.DeletionTimestamp != nil && graceOf(s.Super) <= grace {
		return nil
	}
	return s.DeleteSuper(ctx, client.GracePeriodSeconds(grace))
}

// deleteVanished deletes a tenant's pod whose super pod is gone, after asking the
// super cluster itself.
func deleteVanished(ctx context.Context, s *podSync) error {
	gone, err := superPodGone(ctx, s)
	if err != nil {
		return err
	}
	if !gone {
		return engine.Wait("the cache to show %s", s.Key)
	}
	s.Warn(ctx, s.Tenant, "PodVanished", "the pod is gone from the platform; it is deleted so that its controller can replace it")
	return deleteTenantPod(ctx, s, 0)
}

// endTenantPod does the kubelet's last act: the containers are gone, so the object
// may go. A pod with finalizers stays until their owners have seen that it ended.
func endTenantPod(ctx context.Context, s *podSync) error {
	if graceOf(s.Tenant) == 0 && len(s.Tenant.Finalizers) > 0 && (finished(s.Tenant) || !wasBound(s.Tenant)) {
		return nil
	}
	gone, err := superPodGone(ctx, s)
	if err != nil {
		return err
	}
	if !gone {
		return engine.Wait("the cache to show %s", s.Key)
	}
	if len(s.Tenant.Finalizers) > 0 && !finished(s.Tenant) {
		failed := s.Tenant.DeepCopy()
		failed.Status.Phase = corev1.PodFailed
		if err := s.TenantClient().Status().Patch(ctx, failed, client.MergeFrom(s.Tenant)); err != nil {
			return fmt.Errorf("marking %s as ended: %w", s.Key, err)
		}
	}
	return deleteTenantPod(ctx, s, 0)
}

func deleteTenantPod(ctx context.Context, s *podSync, grace int64) error {
	uid := s.Tenant.UID
	err := s.TenantClient().Delete(ctx, s.Tenant, client.GracePeriodSeconds(grace), client.Preconditions{UID: &uid})
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
		return fmt.Errorf("deleting %s in the tenant's cluster: %w", s.Key, err)
	}
	return nil
}

// superPodGone asks the super cluster itself: a cache may show the past.
func superPodGone(ctx context.Context, s *podSync) (bool, error) {
	live, err := engine.Get[*corev1.Pod](ctx, s.SuperClient(), s.Link.Tenant().SuperNamespace(s.Key.Namespace), s.Key.Name)
	if err != nil {
		return false, err
	}
	return live == nil || !standsFor(live, s.Tenant), nil
}

func standsFor(super, tenant *corev1.Pod) bool {
	origin, ok := tenancy.OriginOf(super)
	return ok && origin.UID == tenant.UID
}

// graceOf is the grace period of a pod that is being deleted, in seconds.
func graceOf(pod *corev1.Pod) int64 {
	if grace := pod.DeletionGracePeriodSeconds; grace != nil {
		return *grace
	}
	return corev1.DefaultTerminationGracePeriodSeconds
}

func finished(pod *corev1.Pod) bool {
	return pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed
}

// started tells whether a kubelet has had the pod: it says so in its first status.
func started(tenant *corev1.Pod) bool { return tenant.Status.StartTime != nil }

// wasBound tells a pod that the syncer has bound from one that its author put on a
// node: only a binding makes the apiserver write this condition.
func wasBound(tenant *corev1.Pod) bool {
	if tenant.Spec.NodeName == "" {
		return false
	}
	for _, condition := range tenant.Status.Conditions {
		if condition.Type == corev1.PodScheduled {
			return condition.Status == corev1.ConditionTrue
		}
	}
	return false
}
