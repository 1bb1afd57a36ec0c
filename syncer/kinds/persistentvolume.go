package kinds

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/bulkhead-dev/bulkhead/internal/tenancy"
	"github.com/bulkhead-dev/bulkhead/syncer/engine"
)

// annotationProvisionedBy makes the tenant's volume controller leave the deletion of
// a volume to whoever provisioned it.
const annotationProvisionedBy = "pv.kubernetes.io/provisioned-by"

// persistentVolumes come up when they are bound to a tenant's claim.
func persistentVolumes() engine.Kind {
	return &engine.Up[*corev1.PersistentVolume]{
		Name: "persistentvolumes",
		Targets: func(ctx context.Context, e *engine.Engine, super *corev1.PersistentVolume, to func(*engine.Link, engine.Key)) error {
			if super.Spec.ClaimRef == nil {
				return nil
			}
			link, _, err := linkOf(ctx, e, super.Spec.ClaimRef.Namespace)
			if link != nil {
				to(link, engine.Key{Resource: "persistentvolumes", Name: super.Name})
			}
			return err
		},
		Translate: func(ctx context.Context, l *engine.Link, _ engine.Key, super, present *corev1.PersistentVolume) (*corev1.PersistentVolume, error) {
			claim, err := claimOf(ctx, l, super)
			if err != nil {
				return nil, err
			}
			if claim == nil && present != nil {
				claim = present.Spec.ClaimRef // released: it stays the claim's it was
			}
			if claim == nil {
				return nil, nil
			}
			return translateVolume(super, claim), nil
		},
		Merge: func(tenant, desired *corev1.PersistentVolume) {
			tenant.Spec.Capacity = desired.Spec.Capacity
			tenant.Spec.PersistentVolumeReclaimPolicy = desired.Spec.PersistentVolumeReclaimPolicy
		},
	}
}

// linkOf finds the tenant, and its namespace, behind a super namespace.
func linkOf(ctx context.Context, e *engine.Engine, superNamespace string) (*engine.Link, string, error) {
	namespace, err := engine.Get[*corev1.Namespace](ctx, e.Super(), "", superNamespace)
	if err != nil || namespace == nil {
		return nil, "", err
	}
	origin, ok := tenancy.OriginOf(namespace)
	if !ok {
		return nil, "", nil
	}
	return e.Link(origin.Tenant), origin.Name, nil
}

// claimOf returns a reference to the tenant's claim that a super volume is bound
// to, or nil if there is none any more.
func claimOf(ctx context.Context, l *engine.Link, super *corev1.PersistentVolume) (*corev1.ObjectReference, error) {
	ref := super.Spec.ClaimRef
	if ref == nil {
		return nil, nil
	}
	claim, err := engine.Get[*corev1.PersistentVolumeClaim](ctx, l.SuperReader(), ref.Namespace, ref.Name)
	if err != nil || claim == nil || claim.UID != ref.UID || claim.Labels[tenancy.LabelTenant] != string(l.Tenant().UID) {
		return nil, err
	}
	origin, ok := tenancy.OriginOf(claim)
	if !ok {
		return nil, nil
	}
	tenant, err := engine.Get[*corev1.PersistentVolumeClaim](ctx, l.TenantReader(), origin.Namespace, origin.Name)
	if err != nil || tenant == nil || tenant.UID != origin.UID {
		return nil, err
	}
	return &corev1.ObjectReference{APIVersion: "v1", Kind: "PersistentVolumeClaim", Namespace: tenant.Namespace, Name: tenant.Name, UID: tenant.UID}, nil
}

// translateVolume hides where the volume really is.
func translateVolume(super *corev1.PersistentVolume, claim *corev1.ObjectReference) *corev1.PersistentVolume {
	in := super.DeepCopy()
	return &corev1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{Annotations: map[string]string{annotationProvisionedBy: tenancy.OpaqueDriver}},
		Spec: corev1.PersistentVolumeSpec{
			Capacity: in.Spec.Capacity, AccessModes: in.Spec.AccessModes, VolumeMode: in.Spec.VolumeMode,
			StorageClassName: in.Spec.StorageClassName, PersistentVolumeReclaimPolicy: in.Spec.PersistentVolumeReclaimPolicy,
			NodeAffinity: in.Spec.NodeAffinity, ClaimRef: claim,
			PersistentVolumeSource: corev1.PersistentVolumeSource{CSI: &corev1.CSIPersistentVolumeSource{
				Driver: tenancy.OpaqueDriver, VolumeHandle: string(super.UID),
			}},
		},
	}
}
