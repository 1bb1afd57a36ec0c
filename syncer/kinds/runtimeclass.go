package kinds

import (
	nodev1 "k8s.io/api/node/v1"

	"github.com/bulkhead-dev/bulkhead/syncer/engine"
	"github.com/bulkhead-dev/bulkhead/syncer/translation"
)

// opaqueHandler stands in tenants' clusters for the handlers of the nodes' runtimes.
const opaqueHandler = "platform"

// runtimeClasses come up where the tenant's class offers them for its pods to choose.
func runtimeClasses() engine.Kind {
	return offered("runtimeclasses", offer[*nodev1.RuntimeClass]{
		Offered: func(t translation.Tenant, super *nodev1.RuntimeClass) bool { return t.OffersRuntimeClass(super.Name) },
		// The overhead counts in the tenant's quotas, and for its scheduler. To which nodes
		// the pod has to go is the super cluster's to add, by labels that tenants do not see.
		Translate: func(super *nodev1.RuntimeClass) *nodev1.RuntimeClass {
			return &nodev1.RuntimeClass{Handler: opaqueHandler, Overhead: super.DeepCopy().Overhead}
		},
		Merge: func(tenant, desired *nodev1.RuntimeClass) { tenant.Overhead = desired.Overhead },
		Fixed: func(class *nodev1.RuntimeClass) any { return class.Handler },
	})
}
