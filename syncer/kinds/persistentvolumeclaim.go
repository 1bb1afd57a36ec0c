package kinds

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"

	"github.com/bulkhead-dev/bulkhead/syncer/engine"
	"github.com/bulkhead-dev/bulkhead/syncer/translation"
)

// persistentVolumeClaims all go down, and are provisioned there. The volume comes
// up as a PersistentVolume, which the tenant's own controller binds.
func persistentVolumeClaims() engine.Kind {
	return &engine.Down[*corev1.PersistentVolumeClaim]{
		Name: "persistentvolumeclaims",
		Translate: func(ctx context.Context, l *engine.Link, tenant *corev1.PersistentVolumeClaim) (*corev1.PersistentVolumeClaim, []translation.Finding, error) {
			super, findings := translateClaim(tenant)
			if name := tenant.Spec.StorageClassName; name != nil && *name != "" {
				class, err := engine.Get[*storagev1.StorageClass](ctx, l.SuperReader(), "", *name)
				if err != nil {
					return nil, nil, err
				}
				if class == nil || !offersStorageClass(l.Tenant(), class) {
					findings = append(findings, translation.Refuse("spec.storageClassName", "the class of the virtual cluster does not offer this StorageClass"))
				}
			}
			return super, findings, nil
		},
		Merge: mergeClaim,
		Status: func(l *engine.Link, super, tenant *corev1.PersistentVolumeClaim) {
			claimStatus(translation.NewMessage(l.Tenant(), tenant.Namespace, super.UID, tenant.UID), super, tenant)
		},
	}
}

var claimFields = translation.NewAllowList[corev1.PersistentVolumeClaimSpec]("spec.", translation.Fields{
	"accessModes":               translation.Pass,
	"resources.requests":        translation.Pass,
	"resources.limits":          translation.Pass,
	"storageClassName":          translation.Handled,
	"volumeMode":                translation.Pass,
	"volumeName":                translation.Handled, // names a volume of the tenant's cluster
	"selector":                  translation.RefuseField("volumes of the platform cannot be selected"),
	"dataSource":                translation.RefuseField("volumes filled from a source are not offered yet"),
	"dataSourceRef":             translation.RefuseField("volumes filled from a source are not offered yet"),
	"volumeAttributesClassName": translation.IgnoreField("volume attributes are not offered yet"),
})

func translateClaim(tenant *corev1.PersistentVolumeClaim) (*corev1.PersistentVolumeClaim, []translation.Finding) {
	spec, findings := claimFields.Copy(*tenant.Spec.DeepCopy())
	class := tenant.Spec.StorageClassName
	if class == nil || *class == "" {
		// Without a class it could bind to any volume of the super cluster.
		findings = append(findings, translation.Refuse("spec.storageClassName", "a StorageClass of the platform is needed"))
	} else {
		name := *class
		spec.StorageClassName = &name
	}
	return &corev1.PersistentVolumeClaim{Spec: spec}, findings
}

// mergeClaim carries a grown request; nothing else of a claim may change.
func mergeClaim(super, desired *corev1.PersistentVolumeClaim) {
	wanted := desired.Spec.Resources.Requests[corev1.ResourceStorage]
	if has := super.Spec.Resources.Requests[corev1.ResourceStorage]; wanted.Cmp(has) > 0 {
		super.Spec.Resources.Requests = desired.Spec.Resources.Requests
	}
}

// claimStatus leaves the phase to the tenant's own volume controller, and waits for
// it: until it has bound the claim, it would undo the rest.
func claimStatus(message translation.Message, super, tenant *corev1.PersistentVolumeClaim) {
	if super.Status.Phase != corev1.ClaimBound || tenant.Status.Phase != corev1.ClaimBound {
		return
	}
	in := super.Status.DeepCopy()
	tenant.Status.Capacity = in.Capacity
	tenant.Status.AllocatedResources = in.AllocatedResources
	tenant.Status.AllocatedResourceStatuses = in.AllocatedResourceStatuses
	tenant.Status.Conditions = nil
	for _, condition := range in.Conditions {
		condition.Message = message.Clean(condition.Message)
		tenant.Status.Conditions = append(tenant.Status.Conditions, condition)
	}
}
