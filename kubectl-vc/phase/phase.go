// Package phase tells how far a virtual cluster is on its way to Ready, from the
// conditions in its status.
package phase

import (
	"fmt"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/bulkhead-dev/bulkhead/api/tenancy/v1alpha1"
	"github.com/bulkhead-dev/bulkhead/internal/tenancy"
)

// Order lists the conditions in the order in which they come true. Synced is not
// among them: the syncer sets it beside Ready.
var Order = []string{
	v1alpha1.ConditionNamespaceReady,
	v1alpha1.ConditionCertificatesReady,
	v1alpha1.ConditionEtcdReady,
	v1alpha1.ConditionAPIServerReady,
	v1alpha1.ConditionControllerManagerReady,
	v1alpha1.ConditionBootstrapped,
	v1alpha1.ConditionReady,
}

// Ready tells whether the virtual cluster can be used.
func Ready(vc *v1alpha1.VirtualCluster) bool {
	return meta.IsStatusConditionTrue(vc.Status.Conditions, v1alpha1.ConditionReady)
}

// Waits says what keeps the virtual cluster from being Ready or, when it is being
// deleted, from being gone, as words that go behind "it waits": "for EtcdReady
// (PodPending: no room)". That is the first condition that is not true, with the
// reason and message of whoever sets it. It is empty for one that is Ready.
func Waits(vc *v1alpha1.VirtualCluster) string {
	if vc.DeletionTimestamp != nil {
		return deletionWaits(vc)
	}
	if Ready(vc) {
		return ""
	}
	if len(vc.Status.Conditions) == 0 {
		return "for vc-manager to begin with it (`kubectl get deployment vc-manager -A` shows whether that runs)"
	}
	for _, name := range Order {
		if condition := meta.FindStatusCondition(vc.Status.Conditions, name); condition == nil || condition.Status != metav1.ConditionTrue {
			return "for " + name + explanation(vc, condition)
		}
	}
	return "for " + v1alpha1.ConditionReady
}

func deletionWaits(vc *v1alpha1.VirtualCluster) string {
	condition := meta.FindStatusCondition(vc.Status.Conditions, v1alpha1.ConditionReady)
	if condition == nil || condition.Reason != v1alpha1.ReasonDeleting || condition.Message == "" {
		return fmt.Sprintf("for its finalizers %v", vc.Finalizers)
	}
	// The platform's messages begin "waiting for" and "waiting until".
	words, ok := strings.CutPrefix(condition.Message, "waiting ")
	if !ok {
		words = "for " + condition.Message
	}
	// The syncer's part comes first, and it counts what is left of it.
	if synced := meta.FindStatusCondition(vc.Status.Conditions, v1alpha1.ConditionSynced); synced != nil &&
		synced.Reason == v1alpha1.ReasonDeleting && slices.Contains(vc.Finalizers, tenancy.FinalizerSyncer) {
		words += " (" + synced.Message + ")"
	}
	return words
}

// explanation is a condition's reason and message, or those of Ready, which sums
// up, where the condition itself was not set yet.
func explanation(vc *v1alpha1.VirtualCluster, condition *metav1.Condition) string {
	if condition == nil {
		condition = meta.FindStatusCondition(vc.Status.Conditions, v1alpha1.ConditionReady)
	}
	switch {
	case condition == nil || condition.Reason == "" && condition.Message == "":
		return ""
	case condition.Message == "":
		return " (" + condition.Reason + ")"
	}
	return fmt.Sprintf(" (%s: %s)", condition.Reason, condition.Message)
}
