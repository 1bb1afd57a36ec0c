package kinds

import (
	"slices"

	networkingv1 "k8s.io/api/networking/v1"

	"github.com/bulkhead-dev/bulkhead/internal/tenancy"
	"github.com/bulkhead-dev/bulkhead/syncer/engine"
	"github.com/bulkhead-dev/bulkhead/syncer/translation"
)

// opaqueController stands in tenants' clusters for the platform's ingress controllers, so
// that none of the tenant takes their classes for its own.
const opaqueController = tenancy.OpaqueDriver + "/platform"

// ingressClasses come up where the tenant's class offers them.
func ingressClasses() engine.Kind {
	return offered("ingressclasses", offer[*networkingv1.IngressClass]{
		Offered: func(t translation.Tenant, super *networkingv1.IngressClass) bool {
			return slices.Contains(t.IngressClasses, super.Name)
		},
		Translate: func(super *networkingv1.IngressClass) *networkingv1.IngressClass {
			return &networkingv1.IngressClass{
				ObjectMeta: defaultMark(networkingv1.AnnotationIsDefaultIngressClass, super),
				Spec:       networkingv1.IngressClassSpec{Controller: opaqueController},
			}
		},
		Merge: func(_, _ *networkingv1.IngressClass) {},
		Fixed: func(class *networkingv1.IngressClass) any { return class.Spec.Controller },
	})
}
