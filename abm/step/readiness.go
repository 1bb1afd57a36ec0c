package step

import (
	"context"
	"fmt"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/bulkhead-dev/bulkhead/abm/expression"
)

// readiness tells whether an object is ready, or why not. An expression that cannot
// be evaluated yet, such as one over a status that is not there, says "not yet".
func readiness(ctx context.Context, readyWhen *expression.Expression, object *unstructured.Unstructured, visible map[string]any, values expression.Values) (bool, string, error) {
	if readyWhen == nil {
		ready, why := ready(object)
		return ready, why, nil
	}
	all := expression.Values{"self": visible}
	for name, value := range values {
		all[name] = value
	}
	truth, err := readyWhen.True(ctx, all)
	switch {
	case ctx.Err() != nil:
		return false, "", ctx.Err()
	case err != nil:
		return false, "not ready yet: " + err.Error(), nil //nolint:nilerr // a status that is not there yet is no failure
	case !truth:
		return false, "not ready yet" + conditionText(object), nil
	}
	return true, "", nil
}

// ready is ABM's own knowledge: what controllers report of the well-known workloads,
// and the condition Ready of anything else that has one.
func ready(object *unstructured.Unstructured) (bool, string) {
	number := func(fields ...string) int64 {
		value, _, _ := unstructured.NestedInt64(object.Object, fields...)
		return value
	}
	observed, reports, _ := unstructured.NestedInt64(object.Object, "status", "observedGeneration")
	if reports && observed < object.GetGeneration() {
		return false, "its controller has not seen the change yet"
	}
	kind := object.GroupVersionKind().GroupKind().String()
	switch kind {
	case "Deployment.apps", "StatefulSet.apps":
		wanted, found, _ := unstructured.NestedInt64(object.Object, "spec", "replicas")
		if !found {
			wanted = 1
		}
		current := min(number("status", "readyReplicas"), number("status", "updatedReplicas"))
		if !reports || current < wanted || number("status", "replicas") > wanted {
			return false, fmt.Sprintf("%d of %d pods are ready%s", current, wanted, conditionText(object))
		}
		return true, ""
	case "DaemonSet.apps":
		wanted, current := number("status", "desiredNumberScheduled"), number("status", "numberReady")
		if !reports || current < wanted || number("status", "updatedNumberScheduled") < wanted {
			return false, fmt.Sprintf("%d of %d pods are ready", current, wanted)
		}
		return true, ""
	case "Job.batch":
		return conditionTrue(object, "Complete")
	case "Pod":
		return conditionTrue(object, "Ready")
	case "VirtualCluster.tenancy.bulkhead.dev":
		return conditionTrue(object, "Ready")
	case "CustomResourceDefinition.apiextensions.k8s.io":
		return conditionTrue(object, "Established")
	case "PersistentVolumeClaim":
		// Many are bound when a pod uses them first.
		phase, _, _ := unstructured.NestedString(object.Object, "status", "phase")
		return phase != "Lost", "its volume is lost"
	}
	if status, _, found := condition(object, "Ready"); found && status != "True" {
		return conditionTrue(object, "Ready")
	}
	return true, ""
}

func conditionTrue(object *unstructured.Unstructured, wanted string) (bool, string) {
	status, message, _ := condition(object, wanted)
	if status == "True" {
		return true, ""
	}
	if message == "" {
		message = "there is no such condition yet"
	}
	return false, fmt.Sprintf("it is not %s: %s", wanted, message)
}

// conditionText is what conditions say that are not good.
func conditionText(object *unstructured.Unstructured) string {
	for _, kind := range []string{"ReplicaFailure", "Progressing", "Available", "Ready"} {
		status, message, found := condition(object, kind)
		if found && message != "" && (status == "True") == (kind == "ReplicaFailure") {
			return ": " + message
		}
	}
	return ""
}

func condition(object *unstructured.Unstructured, wanted string) (status, message string, found bool) {
	conditions, _, _ := unstructured.NestedSlice(object.Object, "status", "conditions")
	for _, entry := range conditions {
		fields, ok := entry.(map[string]any)
		if ok && fields["type"] == wanted {
			status, _ = fields["status"].(string)
			message, _ = fields["message"].(string)
			return status, message, true
		}
	}
	return "", "", false
}
