package controlplane

import (
	"fmt"

	"sigs.k8s.io/controller-runtime/pkg/client"

	tenancyv1alpha1 "github.com/bulkhead-dev/bulkhead/api/tenancy/v1alpha1"
)

// Unwanted are the objects that a control plane with every option has and this one
// does not, without Secrets: what an option leaves behind when its class drops it.
// Workloads are last, for whoever removes them may be interrupted and finds them again.
func Unwanted(in Input) []client.Object {
	every := in
	every.Class.Scheduling, every.Class.MetricsServer.Disabled, every.Established = tenancyv1alpha1.ScheduledByTenant, false, true
	wanted := map[string]bool{}
	in.Established = true // what only waits for its time is wanted
	for _, object := range append(Foundations(in), Workloads(in)...) {
		wanted[kindAndName(object)] = true
	}
	var unwanted []client.Object
	for _, object := range append(Foundations(every), Workloads(every)...) {
		if !wanted[kindAndName(object)] {
			unwanted = append(unwanted, object)
		}
	}
	return unwanted
}

func kindAndName(object client.Object) string { return fmt.Sprintf("%T %s", object, object.GetName()) }
