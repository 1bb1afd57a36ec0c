// Package kinds says, kind by kind, what is carried and how. A kind is one file
// with a value of engine.Down or engine.Up and the pure functions it refers to;
// pods have three. To add a kind, copy the file of one that is like it, and add a
// line to All and, for a new kind of the API, to rbac and to the engine's mapper.
package kinds

import (
	"github.com/bulkhead-dev/bulkhead/internal/tenantnetwork"
	"github.com/bulkhead-dev/bulkhead/syncer/engine"
)

// All kinds that are carried, for tenants that reach these networks.
func All(networks tenantnetwork.Networks) []engine.Kind {
	return []engine.Kind{
		// Down.
		namespaces(networks),
		pods(networks),
		services(),
		endpoints(networks),
		endpointSlices(networks),
		secrets(),
		configMaps(),
		serviceAccounts(),
		persistentVolumeClaims(),
		networkPolicies(networks),
		// Up.
		nodes(),
		leases(),
		persistentVolumes(),
		storageClasses(),
		runtimeClasses(),
		priorityClasses(),
		ingressClasses(),
		events(),
	}
}
