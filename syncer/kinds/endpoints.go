package kinds

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/bulkhead-dev/bulkhead/internal/tenancy"
	"github.com/bulkhead-dev/bulkhead/internal/tenantnetwork"
	"github.com/bulkhead-dev/bulkhead/syncer/engine"
	"github.com/bulkhead-dev/bulkhead/syncer/translation"
)

// endpoints go down where the tenant writes them by hand: for Services without a
// selector. For all others the super cluster's own controller makes them. It also
// mirrors ours into EndpointSlices, as the tenant's controller does those of the tenant.
func endpoints(networks tenantnetwork.Networks) engine.Kind {
	return &engine.Down[*corev1.Endpoints]{
		Name: "endpoints",
		Wanted: func(ctx context.Context, l *engine.Link, tenant *corev1.Endpoints) (bool, error) {
			service, err := engine.Get[*corev1.Service](ctx, l.TenantReader(), tenant.Namespace, tenant.Name)
			return service != nil && serviceGoesDown(service) && len(service.Spec.Selector) == 0, err
		},
		Translate: func(ctx context.Context, l *engine.Link, tenant *corev1.Endpoints) (*corev1.Endpoints, []translation.Finding, error) {
			place, problem := placeOf(ctx, l, networks)
			super, findings := translateEndpoints(place, tenant)
			return super, findings, *problem
		},
		Merge:     func(super, desired *corev1.Endpoints) { super.Subsets = desired.Subsets },
		Indexes:   map[string]client.IndexerFunc{indexAddress: indexEndpoints},
		Lifecycle: clearLeftover,
	}
}

// clearLeftover removes Endpoints that the super cluster's controller has made for the
// Service as it was while it had a selector, and that stand in the way of the tenant's.
// The controller deletes them with that Service, unless it gets to see only the one
// without a selector that comes after, which is none of its business.
func clearLeftover(ctx context.Context, s *engine.Sync[*corev1.Endpoints]) (engine.Verdict, error) {
	if s.Tenant == nil || s.Super == nil || s.Super.Labels[tenancy.LabelTenant] != string(s.Link.Tenant().UID) {
		return engine.Continue, nil
	}
	// The controller copies the Service's labels, but not what tells the origin.
	if _, ours := tenancy.OriginOf(s.Super); ours {
		return engine.Continue, nil
	}
	tenant, err := engine.Get[*corev1.Service](ctx, s.TenantReader(), s.Key.Namespace, s.Key.Name)
	if err != nil || tenant == nil || !serviceGoesDown(tenant) || len(tenant.Spec.Selector) > 0 {
		return engine.Continue, err
	}
	super, err := engine.Get[*corev1.Service](ctx, s.SuperReader(), s.Super.Namespace, s.Super.Name)
	switch {
	case err != nil:
		return engine.Handled, err
	case super == nil || len(super.Spec.Selector) > 0:
		return engine.Handled, engine.Wait("service %s/%s to have no selector", s.Key.Namespace, s.Key.Name)
	}
	uid := s.Super.UID
	err = s.SuperClient().Delete(ctx, s.Super, client.Preconditions{UID: &uid})
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
		return engine.Handled, fmt.Errorf("deleting what is left of endpoints %s/%s in the super cluster: %w", s.Super.Namespace, s.Super.Name, err)
	}
	// Its deletion is no event: it does not say for what it stood.
	return engine.Handled, engine.Wait("the endpoints of an earlier service %s/%s to go", s.Key.Namespace, s.Key.Name)
}

// translateEndpoints copies ports and the addresses that may be endpoints; what stands
// behind an address is known to the tenant's cluster only.
func translateEndpoints(place place, tenant *corev1.Endpoints) (*corev1.Endpoints, []translation.Finding) {
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
				node, rule := place(address.IP)
				if rule != "" {
					findings = append(findings, translation.Ignore(fmt.Sprintf("subsets[%d].%s[%d].ip", i, list.name, j), rule))
					continue
				}
				*list.to = append(*list.to, corev1.EndpointAddress{IP: address.IP, Hostname: address.Hostname, NodeName: node})
			}
		}
		if len(out.Addresses)+len(out.NotReadyAddresses) > 0 {
			super.Subsets = append(super.Subsets, out)
		}
	}
	return super, findings
}

func indexEndpoints(o client.Object) []string {
	var addresses []string
	for _, subset := range o.(*corev1.Endpoints).Subsets {
		for _, address := range append(subset.Addresses[:len(subset.Addresses):len(subset.Addresses)], subset.NotReadyAddresses...) {
			addresses = append(addresses, canonical(address.IP))
		}
	}
	return addresses
}
