package controller

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"

	tenancyv1alpha1 "github.com/bulkhead-dev/bulkhead/api/tenancy/v1alpha1"
	"github.com/bulkhead-dev/bulkhead/internal/tenancy"
	"github.com/bulkhead-dev/bulkhead/vc-manager/controlplane"
)

// readClass finds the class. A control plane whose class was deleted is looked
// after as the class last said: tenants must not suffer from a slip of the platform
// team, and certificates have to be renewed.
func (p *pass) readClass(ctx context.Context) error {
	class := &tenancyv1alpha1.VirtualClusterClass{}
	err := p.Client.Get(ctx, client.ObjectKey{Name: p.vc.Spec.ClassName}, class)
	if err == nil {
		p.input.Class = class.Spec
		return nil
	}
	if !apierrors.IsNotFound(err) {
		return fmt.Errorf("reading class %s: %w", p.vc.Spec.ClassName, err)
	}
	record := &corev1.ConfigMap{}
	key := client.ObjectKey{Namespace: p.tenant.ControlPlaneNamespace(), Name: controlplane.ClassRecordName}
	err = p.Live.Get(ctx, key, record)
	if apierrors.IsNotFound(err) {
		return &blockedError{
			reason: tenancyv1alpha1.ReasonClassNotFound, warn: true,
			message: fmt.Sprintf("there is no VirtualClusterClass %q: create it, or delete this virtual cluster and name another class", p.vc.Spec.ClassName),
		}
	}
	if err != nil {
		return fmt.Errorf("reading configmap %s: %w", key, err)
	}
	if err := tenancy.CheckOwned(record, p.tenant, tenancy.ManagedByManager, "configmap "+key.String()); err != nil {
		return err
	}
	if p.input.Class, err = controlplane.ReadClassRecord(record); err != nil {
		return err
	}
	p.classErr = fmt.Errorf("VirtualClusterClass %q was deleted: the control plane goes on as the class last said", p.vc.Spec.ClassName)
	p.announce(corev1.EventTypeWarning, tenancyv1alpha1.ReasonClassNotFound, p.classErr.Error())
	return nil
}
