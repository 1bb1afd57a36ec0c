package kinds

import (
	"context"
	"errors"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/bulkhead-dev/bulkhead/syncer/engine"
	"github.com/bulkhead-dev/bulkhead/syncer/podspec"
	"github.com/bulkhead-dev/bulkhead/syncer/translation"
)

// pushSubresources carries what the API takes through subresources of a pod alone.
func pushSubresources(ctx context.Context, s *podSync) error {
	return errors.Join(resize(ctx, s), debug(ctx, s))
}

// resize gives the containers of a running pod other resources.
func resize(ctx context.Context, s *podSync) error {
	changed := s.Super.DeepCopy()
	podspec.Resize(s.Tenant, changed)
	if equality.Semantic.DeepEqual(s.Super.Spec, changed.Spec) {
		return nil
	}
	return patchSubresource(ctx, s, "resize", changed)
}

// debug adds the ephemeral containers that the super pod does not have yet. They are
// held against the same rules as all others.
func debug(ctx context.Context, s *podSync) error {
	has := func(wanted corev1.EphemeralContainer) bool {
		return slices.ContainsFunc(s.Super.Spec.EphemeralContainers, func(c corev1.EphemeralContainer) bool { return c.Name == wanted.Name })
	}
	changed, added := s.Super.DeepCopy(), false
	// Each by itself: one that is refused cannot be taken off the tenant's pod again, and
	// must not stand in the way of the next.
	for _, wanted := range s.Tenant.Spec.EphemeralContainers {
		if has(wanted) {
			continue
		}
		tenant := s.Tenant.DeepCopy()
		tenant.Spec.EphemeralContainers = []corev1.EphemeralContainer{wanted}
		// The node is where the super pod is: what placed it is no question any more.
		tenant.Spec.NodeName = ""
		desired, findings, err := translatePod(ctx, s.Link, tenant)
		if err != nil {
			return err
		}
		if translation.Refused(findings) {
			s.Warn(ctx, s.Tenant, engine.ReasonRefused, translation.Summary(findings, true))
			continue
		}
		changed.Spec.EphemeralContainers, added = append(changed.Spec.EphemeralContainers, desired.Spec.EphemeralContainers...), true
	}
	if !added {
		return nil
	}
	return patchSubresource(ctx, s, "ephemeralcontainers", changed)
}

// patchSubresource tells the tenant where the super cluster does not take it.
func patchSubresource(ctx context.Context, s *podSync, name string, changed *corev1.Pod) error {
	err := s.SuperClient().SubResource(name).Patch(ctx, changed, client.StrategicMergeFrom(s.Super, client.MergeFromWithOptimisticLock{}))
	switch {
	case err == nil:
		return nil
	case engine.RefusesObject(err):
		message := translation.NewMessage(s.Link.Tenant(), s.Key.Namespace, s.Super.UID, s.Tenant.UID)
		s.Warn(ctx, s.Tenant, engine.ReasonNotAccepted, fmt.Sprintf("the platform does not accept the %s now: %s", name, message.Clean(err.Error())))
	}
	return fmt.Errorf("changing the %s of %s in the super cluster: %w", name, s.Key, err)
}
