package controller

import (
	"context"
	"fmt"
	"sync"

	"golang.org/x/sync/errgroup"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"

	tenancyv1alpha1 "github.com/bulkhead-dev/bulkhead/api/tenancy/v1alpha1"
	"github.com/bulkhead-dev/bulkhead/internal/tenancy"
	"github.com/bulkhead-dev/bulkhead/vc-manager/certificates"
	"github.com/bulkhead-dev/bulkhead/vc-manager/controlplane"
)

// ensureCertificates makes and renews the Secrets.
func (p *pass) ensureCertificates(ctx context.Context) error {
	if p.verifying {
		secrets, err := p.readSecrets(ctx)
		if err != nil {
			return err
		}
		if err := p.makeAuthorities(ctx, secrets); err != nil {
			return err
		}
		changed, err := certificates.Leaves(p.cluster, secrets, p.Now())
		if err != nil {
			return err
		}
		wanted := make([]client.Object, len(changed))
		for i, secret := range changed {
			wanted[i] = secret
			secrets[secret.Name] = secret
		}
		if _, err := p.applier.All(ctx, p.Live, p.tenant, wanted); err != nil {
			return err
		}
		p.known.startupFiles = certificates.StartupFiles(secrets, p.input.NodeAgentCA, hostOf(p.exposure.url))
		p.known.kubeconfig = secrets[certificates.ManagerKubeconfig].Data[tenancy.KubeconfigKey]
		p.known.clusterCA = secrets[certificates.ClusterCA].Data[corev1.TLSCertKey]
		p.known.digest, p.known.verified = p.digest(), p.Now()
	}
	p.input.StartupFiles = p.known.startupFiles
	p.done(tenancyv1alpha1.ConditionCertificatesReady, "all certificates are current")
	return nil
}

// readSecrets reads the Secrets of the table that exist.
func (p *pass) readSecrets(ctx context.Context) (certificates.Secrets, error) {
	var mu sync.Mutex
	secrets := certificates.Secrets{}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(16)
	for _, name := range certificates.SecretNames(p.cluster) {
		group.Go(func() error {
			secret := &corev1.Secret{}
			key := client.ObjectKey{Namespace: p.tenant.ControlPlaneNamespace(), Name: name}
			if err := p.Live.Get(ctx, key, secret); err != nil {
				if apierrors.IsNotFound(err) {
					return nil
				}
				return fmt.Errorf("reading secret %s: %w", key, err)
			}
			if err := tenancy.CheckOwned(secret, p.tenant, tenancy.ManagedByManager, "secret "+key.String()); err != nil {
				return err
			}
			mu.Lock()
			defer mu.Unlock()
			secrets[name] = secret
			return nil
		})
	}
	return secrets, group.Wait()
}

// makeAuthorities adds the authorities that are missing, which is allowed before
// anything was issued or has run.
func (p *pass) makeAuthorities(ctx context.Context, secrets certificates.Secrets) error {
	inUse := p.input.Established || certificates.InUse(p.cluster, secrets)
	if !inUse {
		key := client.ObjectKey{Namespace: p.tenant.ControlPlaneNamespace(), Name: controlplane.Etcd}
		err := p.Live.Get(ctx, key, &appsv1.StatefulSet{})
		if client.IgnoreNotFound(err) != nil {
			return fmt.Errorf("reading statefulset %s: %w", key, err)
		}
		inUse = err == nil
	}
	missing, err := certificates.Authorities(p.cluster, secrets, inUse)
	if err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	for _, secret := range missing {
		secrets[secret.Name] = secret
		group.Go(func() error {
			// Create, and start the pass again if somebody was faster: what is issued
			// next must be signed by the authority that is stored.
			_, err := p.applier.Create(ctx, p.tenant, secret)
			return err
		})
	}
	return group.Wait()
}
