//go:build e2e

package e2e

import "testing"

// TestTenants runs side by side what tenants and their platform team do and what
// disturbs no one else. Each has virtual clusters of its own. The tests that kill
// what all tenants share run one after the other, in the order of their files.
func TestTenants(t *testing.T) {
	for name, test := range map[string]func(*testing.T){
		"application":     application,
		"phases":          createPrintsPhases,
		"namespace-taken": namespaceThatIsNotOurs,
		"identical-names": twoTenantsWithIdenticalNames,
		"colliding-names": namesThatCollideOnceJoined,
		"refused-pods":    refusedPods,
		"own-scheduler":   ownScheduler,
		"service":         boughtService,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t)
		})
	}
}
