package kinds

import (
	"context"
	"fmt"
	"net/netip"

	corev1 "k8s.io/api/core/v1"

	"github.com/bulkhead-dev/bulkhead/syncer/engine"
	"github.com/bulkhead-dev/bulkhead/syncer/translation"
)

// endpoints go down where the tenant writes them by hand: for Services without a
// selector. For all others the super cluster's own controller makes them.
func endpoints() engine.Kind {
	return &engine.Down[*corev1.Endpoints]{
		Name: "endpoints",
		Wanted: func(ctx context.Context, l *engine.Link, tenant *corev1.Endpoints) (bool, error) {
			service, err := engine.Get[*corev1.Service](ctx, l.TenantReader(), tenant.Namespace, tenant.Name)
			return service != nil && serviceGoesDown(service) && len(service.Spec.Selector) == 0, err
		},
		Translate: func(_ context.Context, _ *engine.Link, tenant *corev1.Endpoints) (*corev1.Endpoints, []translation.Finding, error) {
			super, findings := translateEndpoints(tenant)
			return super, findings, nil
		},
		Merge: func(super, desired *corev1.Endpoints) { super.Subsets = desired.Subsets },
	}
}

// translateEndpoints copies addresses and ports; what stands behind an address is
// known to the tenant's cluster only.
func translateEndpoints(tenant *corev1.Endpoints) (*corev1.Endpoints, []translation.Finding) {
	super := &corev1.Endpoints{}
	var findings []translation.Finding
	for i, subset := range tenant.DeepCopy().Subsets {
		out := corev1.EndpointSubset{Ports: subset.Ports}
		for _, list := range []struct {
			name     string
			from, to *[]corev1.EndpointAddress
		}{
			{"addresses", &subset.Addresses, &out.Addresses},
			{"notReadyAddresses", &subset.NotReadyAddresses, &out.NotReadyAddresses},
		} {
			for j, address := range *list.from {
				if rule := refusedAddress(address.IP); rule != "" {
					findings = append(findings, translation.Refuse(fmt.Sprintf("subsets[%d].%s[%d].ip", i, list.name, j), rule))
				}
				*list.to = append(*list.to, corev1.EndpointAddress{IP: address.IP, Hostname: address.Hostname})
			}
		}
		super.Subsets = append(super.Subsets, out)
	}
	return super, findings
}

// refusedAddress gives the rule against an address, or "": those that mean the node
// itself to whoever forwards to them, and the metadata service of clouds.
func refusedAddress(text string) string {
	address, err := netip.ParseAddr(text)
	switch {
	case err != nil:
		return "not an IP address"
	case address.Unmap().IsLoopback(), address.Unmap().IsLinkLocalUnicast(), address.IsLinkLocalMulticast(), address.IsUnspecified():
		return "addresses of the node itself cannot be endpoints"
	}
	return ""
}
