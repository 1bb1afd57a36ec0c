package kinds

import (
	schedulingv1 "k8s.io/api/scheduling/v1"

	"github.com/bulkhead-dev/bulkhead/syncer/engine"
	"github.com/bulkhead-dev/bulkhead/syncer/translation"
)

// priorityClasses come up where the tenant's class offers them. None of them preempts.
func priorityClasses() engine.Kind {
	return offered("priorityclasses", offer[*schedulingv1.PriorityClass]{
		Offered: translation.Tenant.OffersPriorityClass,
		// The default of the super cluster is for its own pods: tenants' pods take no
		// priority that they do not ask for.
		Translate: func(super *schedulingv1.PriorityClass) *schedulingv1.PriorityClass {
			in := super.DeepCopy()
			return &schedulingv1.PriorityClass{Value: in.Value, PreemptionPolicy: in.PreemptionPolicy, Description: in.Description}
		},
		Merge: func(tenant, desired *schedulingv1.PriorityClass) {
			tenant.Description, tenant.GlobalDefault = desired.Description, desired.GlobalDefault
		},
		Fixed: func(class *schedulingv1.PriorityClass) any { return []any{class.Value, class.PreemptionPolicy} },
	})
}
