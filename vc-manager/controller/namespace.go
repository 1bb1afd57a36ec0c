package controller

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"

	tenancyv1alpha1 "github.com/bulkhead-dev/bulkhead/api/tenancy/v1alpha1"
	"github.com/bulkhead-dev/bulkhead/vc-manager/controlplane"
)

// ensureNamespace makes the control-plane namespace.
func (p *pass) ensureNamespace(ctx context.Context) error {
	wanted := controlplane.Namespace(p.input)
	if p.input.Established {
		// An empty namespace in place of one that held a tenant's data would look
		// like a tenant who deleted everything.
		err := p.Client.Get(ctx, client.ObjectKeyFromObject(wanted), &corev1.Namespace{})
		if apierrors.IsNotFound(err) {
			err = p.Live.Get(ctx, client.ObjectKeyFromObject(wanted), &corev1.Namespace{})
		}
		if apierrors.IsNotFound(err) {
			return p.lost(wanted.Name, "was deleted")
		}
	}
	stored, err := p.applier.One(ctx, p.Client, p.tenant, wanted)
	if err != nil {
		return err
	}
	if !stored.GetDeletionTimestamp().IsZero() {
		if p.input.Established {
			return p.lost(wanted.Name, "is being deleted")
		}
		return &blockedError{reason: reasonTerminating, message: fmt.Sprintf("waiting until namespace %s is gone, which somebody deleted", wanted.Name)}
	}
	return nil
}

func (p *pass) lost(namespace, how string) error {
	p.tenants.Forget(p.vc.UID)
	return &blockedError{
		reason: reasonControlPlaneLost, warn: true,
		message: fmt.Sprintf("namespace %s %s, and with it the tenant's control plane and data: restore it from a backup, or delete this virtual cluster", namespace, how),
	}
}

// ensureFoundations makes what the workloads refer to, but for the Secrets. The
// Service comes first: its addresses go into certificates.
func (p *pass) ensureFoundations(ctx context.Context) error {
	var err error
	if p.input.NodeAgentCA, err = p.NodeAgentCA(ctx); err != nil {
		return err
	}
	service, err := p.applier.One(ctx, p.Client, p.tenant, controlplane.APIServerService(p.input))
	if err != nil {
		return err
	}
	if err := p.expose(ctx, service.(*corev1.Service)); err != nil {
		return err
	}
	if p.cluster, err = p.certificateInput(); err != nil {
		return err
	}
	p.verifying = p.verificationDue()
	if p.verifying {
		record, err := controlplane.ClassRecord(p.input)
		if err != nil {
			return err
		}
		foundations := append(controlplane.Foundations(p.input), record)
		if _, err := p.applier.All(ctx, p.Live, p.tenant, foundations); err != nil {
			return err
		}
	}
	p.done(tenancyv1alpha1.ConditionNamespaceReady, "namespace "+p.status.ControlPlaneNamespace+" is ours")
	return nil
}
