package kinds

import (
	"context"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/bulkhead-dev/bulkhead/internal/tenancy"
	"github.com/bulkhead-dev/bulkhead/syncer/engine"
	"github.com/bulkhead-dev/bulkhead/syncer/translation"
)

// indexService finds a tenant's slices by their Service.
const indexService = "service"

// services go down without addresses of the super cluster; load balancers are made
// by the super cluster, and their status comes up (decision D6).
func services() engine.Kind {
	return &engine.Down[*corev1.Service]{
		Name: "services",
		Wanted: func(_ context.Context, _ *engine.Link, tenant *corev1.Service) (bool, error) {
			return serviceGoesDown(tenant), nil
		},
		Translate: func(_ context.Context, _ *engine.Link, tenant *corev1.Service) (*corev1.Service, []translation.Finding, error) {
			super, findings := translateService(tenant)
			return super, findings, nil
		},
		Merge:   mergeService,
		Replace: replaceService,
		Needs: func(tenant *corev1.Service) []engine.Key {
			return []engine.Key{{Resource: "endpoints", Namespace: tenant.Namespace, Name: tenant.Name}}
		},
		Related: func(ctx context.Context, l *engine.Link, tenant *corev1.Service) error {
			of := client.MatchingFields{indexService: tenant.Name}
			return enqueueAll(ctx, l, "endpointslices", &discoveryv1.EndpointSliceList{}, client.InNamespace(tenant.Namespace), of)
		},
		Status: func(_ *engine.Link, super, tenant *corev1.Service) { serviceStatus(super, tenant) },
	}
}

// serviceGoesDown: a name for something outside concerns DNS alone, and the
// apiserver's Service is in each cluster.
func serviceGoesDown(tenant *corev1.Service) bool {
	return tenant.Spec.Type != corev1.ServiceTypeExternalName &&
		(tenant.Namespace != metav1.NamespaceDefault || tenant.Name != "kubernetes")
}

const (
	ruleExternalIPs = "addresses outside the cluster cannot be claimed (CVE-2020-8554)"
	ruleBalancer    = "the platform chooses the load balancer"
)

var serviceFields = translation.NewAllowList[corev1.ServiceSpec]("spec.", translation.Fields{
	"ports[].name":                  translation.Pass,
	"ports[].protocol":              translation.Pass,
	"ports[].appProtocol":           translation.Pass,
	"ports[].port":                  translation.Pass,
	"ports[].targetPort":            translation.Pass,
	"ports[].nodePort":              translation.Handled, // lives in the tenant's sandboxes (D6)
	"selector":                      translation.Pass,
	"publishNotReadyAddresses":      translation.Pass,
	"sessionAffinity":               translation.Pass,
	"sessionAffinityConfig":         translation.Pass,
	"type":                          translation.Handled,
	"clusterIP":                     translation.Handled,
	"clusterIPs":                    translation.Handled,
	"ipFamilies":                    translation.Handled,
	"ipFamilyPolicy":                translation.Handled,
	"internalTrafficPolicy":         translation.Handled,
	"trafficDistribution":           translation.Handled,
	"externalName":                  translation.Handled,
	"externalTrafficPolicy":         translation.Handled,
	"healthCheckNodePort":           translation.Handled,
	"allocateLoadBalancerNodePorts": translation.Handled,
	"loadBalancerSourceRanges":      translation.Handled,
	"externalIPs":                   translation.IgnoreField(ruleExternalIPs),
	"loadBalancerIP":                translation.IgnoreField(ruleExternalIPs),
	"loadBalancerClass":             translation.IgnoreField(ruleBalancer),
})

func translateService(tenant *corev1.Service) (*corev1.Service, []translation.Finding) {
	spec, findings := serviceFields.Copy(*tenant.Spec.DeepCopy())
	super := &corev1.Service{Spec: spec}
	if tenant.Spec.Type == corev1.ServiceTypeLoadBalancer {
		super.Spec.Type = corev1.ServiceTypeLoadBalancer
		super.Spec.ExternalTrafficPolicy = tenant.Spec.ExternalTrafficPolicy
		super.Spec.LoadBalancerSourceRanges = tenant.Spec.LoadBalancerSourceRanges
	} else {
		super.Spec.Type, super.Spec.ClusterIP = corev1.ServiceTypeClusterIP, corev1.ClusterIPNone
	}
	if addresses := strings.Join(tenant.Spec.ClusterIPs, ","); addresses != "" {
		super.Annotations = map[string]string{tenancy.AnnotationClusterIPs: addresses}
	}
	return super, findings
}

// replaceService: another type needs another cluster IP, or none, which takes a new
// Service. So does a selector that comes or goes: the Endpoints under the Service
// are made by the super cluster with one, and by the tenant without.
func replaceService(super, desired *corev1.Service) bool {
	return super.Spec.Type != desired.Spec.Type || (len(super.Spec.Selector) == 0) != (len(desired.Spec.Selector) == 0)
}

// mergeService keeps what the super cluster has allotted.
func mergeService(super, desired *corev1.Service) {
	allotted := super.Spec.DeepCopy()
	super.Spec.Ports = desired.Spec.Ports
	for i := range super.Spec.Ports {
		for _, port := range allotted.Ports {
			if port.Port == super.Spec.Ports[i].Port && port.Protocol == super.Spec.Ports[i].Protocol {
				super.Spec.Ports[i].NodePort = port.NodePort
			}
		}
	}
	super.Spec.Selector = desired.Spec.Selector
	super.Spec.PublishNotReadyAddresses = desired.Spec.PublishNotReadyAddresses
	super.Spec.SessionAffinity = desired.Spec.SessionAffinity
	super.Spec.SessionAffinityConfig = desired.Spec.SessionAffinityConfig
	super.Spec.LoadBalancerSourceRanges = desired.Spec.LoadBalancerSourceRanges
	if desired.Spec.ExternalTrafficPolicy != "" {
		super.Spec.ExternalTrafficPolicy = desired.Spec.ExternalTrafficPolicy
	}
}

// serviceStatus shows the load balancer; a Service that is none any more has none.
func serviceStatus(super, tenant *corev1.Service) {
	tenant.Status.LoadBalancer = corev1.LoadBalancerStatus{}
	if tenant.Spec.Type == corev1.ServiceTypeLoadBalancer {
		tenant.Status.LoadBalancer = *super.Status.LoadBalancer.DeepCopy()
	}
}
