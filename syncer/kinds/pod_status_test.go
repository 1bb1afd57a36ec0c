package kinds

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/bulkhead-dev/bulkhead/syncer/translation"
)

// The tenant's apiserver writes with the binding that a pod is scheduled. When that was in
// the super cluster is no reason for another write.
func TestWhenAPodWasBoundIsTheTenants(t *testing.T) {
	at := func(second int64) metav1.Time { return metav1.NewTime(time.Unix(second, 0)) }
	scheduled := func(status corev1.ConditionStatus, reason string, second int64) corev1.PodCondition {
		return corev1.PodCondition{Type: corev1.PodScheduled, Status: status, Reason: reason, LastTransitionTime: at(second)}
	}
	ready := func(second int64) corev1.PodCondition {
		return corev1.PodCondition{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: at(second)}
	}
	for name, test := range map[string]struct {
		super, tenant, want []corev1.PodCondition
	}{
		"the same, later": {
			[]corev1.PodCondition{scheduled("True", "", 1)}, []corev1.PodCondition{scheduled("True", "", 2)}, []corev1.PodCondition{scheduled("True", "", 2)},
		},
		"another status": {
			[]corev1.PodCondition{scheduled("True", "", 3)}, []corev1.PodCondition{scheduled("False", "", 2)}, []corev1.PodCondition{scheduled("True", "", 3)},
		},
		"another reason": {
			[]corev1.PodCondition{scheduled("False", "Unschedulable", 1)}, []corev1.PodCondition{scheduled("False", "SchedulingGated", 2)}, []corev1.PodCondition{scheduled("False", "Unschedulable", 1)},
		},
		"none yet": {
			[]corev1.PodCondition{scheduled("True", "", 1)}, nil, []corev1.PodCondition{scheduled("True", "", 1)},
		},
		"other conditions are the super pod's": {
			[]corev1.PodCondition{ready(1)}, []corev1.PodCondition{ready(2)}, []corev1.PodCondition{ready(1)},
		},
	} {
		t.Run(name, func(t *testing.T) {
			super, tenant := &corev1.Pod{}, &corev1.Pod{}
			super.Status.Conditions, tenant.Status.Conditions = test.super, test.tenant
			upPodStatus(translation.NewMessage(demo(), "web", "s", "t"), super, tenant)
			if diff := cmp.Diff(test.want, tenant.Status.Conditions); diff != "" {
				t.Error(diff)
			}
		})
	}
}
