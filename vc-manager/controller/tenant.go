package controller

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	tenancyv1alpha1 "github.com/bulkhead-dev/bulkhead/api/tenancy/v1alpha1"
	"github.com/bulkhead-dev/bulkhead/internal/tenancy"
	"github.com/bulkhead-dev/bulkhead/vc-manager/bootstrap"
	"github.com/bulkhead-dev/bulkhead/vc-manager/controlplane"
	"github.com/bulkhead-dev/bulkhead/vc-manager/tenantcluster"
)

// observeTenant reports what is seen through the tenant's apiserver.
func (p *pass) observeTenant(ctx context.Context) error {
	target, known, err := p.target(ctx)
	if err != nil {
		return err
	}
	if !known {
		p.wait(tenancyv1alpha1.ConditionAPIServerReady, "waiting for the service of kube-apiserver to get an address")
		return nil
	}
	if err := p.tenants.Watch(p.vc.UID, client.ObjectKeyFromObject(p.vc), target); err != nil {
		return err
	}
	seen, ok := p.tenants.Observation(p.vc.UID)
	if !ok {
		// What was true stays so while a vc-manager that has just started looks.
		if !p.isTrue(tenancyv1alpha1.ConditionAPIServerReady) {
			p.wait(tenancyv1alpha1.ConditionAPIServerReady, cmp.Or(p.apiServerTrouble, "kube-apiserver is starting"))
		}
		return nil
	}
	switch {
	case seen.Read != nil:
		// Its pod's trouble says more than a connection that was refused.
		p.wait(tenancyv1alpha1.ConditionAPIServerReady, cmp.Or(p.apiServerTrouble, "kube-apiserver does not answer: "+seen.Read.Error()))
		return nil //nolint:nilerr // the condition says it
	case seen.External != nil:
		p.wait(tenancyv1alpha1.ConditionAPIServerReady, seen.External.Error())
	default:
		p.done(tenancyv1alpha1.ConditionAPIServerReady, "a read through kube-apiserver succeeded")
	}
	if !p.isTrue(tenancyv1alpha1.ConditionEtcdReady) {
		// Its probe comes around seldom, and that read went down to etcd.
		p.done(tenancyv1alpha1.ConditionEtcdReady, "a read through kube-apiserver succeeded")
	}
	if p.status.Version != seen.Version {
		p.status.Version = seen.Version
		p.again = true // what depends on there being data waits for this
	}
	if seen.Bootstrapped == nil {
		p.done(tenancyv1alpha1.ConditionBootstrapped, "roles and add-ons are in place")
	} else {
		p.wait(tenancyv1alpha1.ConditionBootstrapped, seen.Bootstrapped.Error())
	}
	if seen.Controllers != nil && p.isTrue(tenancyv1alpha1.ConditionControllerManagerReady) {
		p.wait(tenancyv1alpha1.ConditionControllerManagerReady, seen.Controllers.Error())
	}
	return nil
}

// target is known once the Services have addresses.
func (p *pass) target(ctx context.Context) (target tenantcluster.Target, known bool, err error) {
	apiServer, err := p.serviceAddress(ctx, tenancy.APIServerService)
	if err != nil || !apiServer.IsValid() {
		return target, false, err
	}
	target = tenantcluster.Target{
		Kubeconfig: p.known.kubeconfig,
		Address:    netip.AddrPortFrom(apiServer, tenancy.APIServerPort),
		External:   hostOf(p.exposure.url),
		Bootstrap: bootstrap.Input{
			ClusterCA: string(p.known.clusterCA),
			DNS: bootstrap.DNS{
				Address: tenancy.DNSAddress(p.cluster.ServiceCIDR), Domain: p.cluster.ClusterDomain, Image: p.Platform.Images.CoreDNS,
			},
		},
	}
	if controlplane.MetricsServerWanted(p.input) {
		if target.Bootstrap.MetricsServer, err = p.serviceAddress(ctx, controlplane.MetricsServer); err != nil {
			return target, false, err
		}
		if !target.Bootstrap.MetricsServer.IsValid() {
			return target, false, nil
		}
	}
	return target, true, nil
}

// serviceAddress is the zero address where the Service has none yet.
func (p *pass) serviceAddress(ctx context.Context, name string) (netip.Addr, error) {
	service := &corev1.Service{}
	key := client.ObjectKey{Namespace: p.tenant.ControlPlaneNamespace(), Name: name}
	if err := p.Client.Get(ctx, key, service); err != nil {
		return netip.Addr{}, client.IgnoreNotFound(err) // the cache has not seen it yet
	}
	if service.Spec.ClusterIP == "" {
		return netip.Addr{}, nil
	}
	address, err := netip.ParseAddr(service.Spec.ClusterIP)
	if err != nil {
		return netip.Addr{}, fmt.Errorf("address of service %s: %w", key, err)
	}
	return address, nil
}
