package kinds

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/bulkhead-dev/bulkhead/internal/tenantnetwork"
	"github.com/bulkhead-dev/bulkhead/syncer/engine"
	"github.com/bulkhead-dev/bulkhead/syncer/translation"
)

// endpointSlices go down where the tenant, or a controller of its own, writes them for
// a Service that goes down. Those that Kubernetes makes from Services and Endpoints do
// not: the super cluster makes its own from what it has of these.
func endpointSlices(networks tenantnetwork.Networks) engine.Kind {
	return &engine.Down[*discoveryv1.EndpointSlice]{
		Name:   "endpointslices",
		Cached: manualSlice,
		Wanted: func(ctx context.Context, l *engine.Link, tenant *discoveryv1.EndpointSlice) (bool, error) {
			name := tenant.Labels[discoveryv1.LabelServiceName]
			if name == "" || !manualSlice(tenant) {
				return false, nil
			}
			service, err := engine.Get[*corev1.Service](ctx, l.TenantReader(), tenant.Namespace, name)
			return service != nil && serviceGoesDown(service), err
		},
		Metadata: func(tenant *discoveryv1.EndpointSlice) (own, annotations map[string]string, _ []translation.Finding) {
			own, findings := translation.Labels(tenant)
			delete(own, discoveryv1.LabelManagedBy)
			return own, nil, findings
		},
		Translate: func(ctx context.Context, l *engine.Link, tenant *discoveryv1.EndpointSlice) (*discoveryv1.EndpointSlice, []translation.Finding, error) {
			place, problem := placeOf(ctx, l, networks)
			super, findings := translateSlice(place, tenant)
			return super, findings, *problem
		},
		Merge: func(super, desired *discoveryv1.EndpointSlice) {
			super.Endpoints, super.Ports = desired.Endpoints, desired.Ports
		},
		Indexes: map[string]client.IndexerFunc{
			indexService: func(o client.Object) []string { return []string{o.GetLabels()[discoveryv1.LabelServiceName]} },
			indexAddress: func(o client.Object) (addresses []string) {
				for _, endpoint := range o.(*discoveryv1.EndpointSlice).Endpoints {
					for _, address := range endpoint.Addresses {
						addresses = append(addresses, canonical(address))
					}
				}
				return addresses
			},
		},
	}
}

func manualSlice(tenant *discoveryv1.EndpointSlice) bool {
	return engine.ManualSlices().Matches(labels.Set(tenant.Labels))
}

var sliceFields = translation.NewAllowList[discoveryv1.EndpointSlice]("", translation.Fields{
	"kind":                           translation.Handled,
	"apiVersion":                     translation.Handled,
	"metadata":                       translation.Handled,
	"addressType":                    translation.Pass,
	"ports":                          translation.Pass,
	"endpoints[].addresses":          translation.Pass, // checked below
	"endpoints[].conditions":         translation.Pass,
	"endpoints[].hostname":           translation.Pass,
	"endpoints[].targetRef":          translation.Handled, // known to the tenant's cluster only
	"endpoints[].nodeName":           translation.Handled, // where the pod really is
	"endpoints[].zone":               translation.Handled,
	"endpoints[].hints":              translation.Handled, // by which the tenant's own proxies choose
	"endpoints[].deprecatedTopology": translation.Handled,
})

func translateSlice(place place, tenant *discoveryv1.EndpointSlice) (*discoveryv1.EndpointSlice, []translation.Finding) {
	super, findings := sliceFields.Copy(*tenant.DeepCopy())
	super.ObjectMeta = metav1.ObjectMeta{Labels: map[string]string{discoveryv1.LabelManagedBy: engine.SliceManager}}
	given := super.Endpoints
	super.Endpoints = []discoveryv1.Endpoint{}
	for i, endpoint := range given {
		addresses := endpoint.Addresses
		endpoint.Addresses = nil
		for j, address := range addresses {
			node, rule := place(address)
			if rule != "" {
				findings = append(findings, translation.Ignore(fmt.Sprintf("endpoints[%d].addresses[%d]", i, j), rule))
				continue
			}
			endpoint.Addresses, endpoint.NodeName = append(endpoint.Addresses, address), node
		}
		if len(endpoint.Addresses) > 0 {
			super.Endpoints = append(super.Endpoints, endpoint)
		}
	}
	return &super, findings
}
