package whereabouts

import (
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/bulkhead-dev/bulkhead/syncer/report"
)

// The reasons of events by which the syncer tells tenants that a pod does not go down.
var refusals = []string{"RefusedByPlatform", "NotAcceptedByPlatform", "NameTaken"}

// syncer is the way down: refused, queued, handled, or failed and tried again.
func (in Input) syncer() Step {
	step := Step{Name: stepSyncer, State: Done}
	if in.Super.Pod != nil {
		step.Detail = "carried down"
		if in.Syncer != nil {
			step.Detail += "; now " + where(in.Syncer)
		}
		return step
	}
	if in.Tenant.Pod != nil && finished(in.Tenant.Pod) {
		step.Detail = "it has ended, and is not carried down"
		return step
	}
	if refused := in.Tenant.last(refusals...); refused != nil && in.Tenant.about(refused) {
		at := eventTime(refused)
		step.State, step.Since, step.Detail = Failed, &at, words(refused.Reason, refused.Message)
		if in.Syncer != nil {
			step.Detail += "; " + where(in.Syncer)
		}
		return step
	}
	if scheduled := in.ofTenantsScheduler(); scheduled != nil {
		step.State, step.Since = Waits, &scheduled.LastTransitionTime.Time
		step.Detail = "a scheduler of the tenant's: " + words(scheduled.Reason, scheduled.Message)
		return step
	}
	switch {
	case in.Syncer == nil && in.SyncerErr != nil:
		step.State, step.Detail = Unknown, in.SyncerErr.Error()
	case in.Syncer == nil:
		step.State, step.Detail = Unknown, "the syncer was not asked"
	default:
		step.State, step.Since, step.Detail = Waits, in.Syncer.Since, where(in.Syncer)
	}
	return step
}

// ofTenantsScheduler is what a scheduler in the tenant's cluster says of a pod that has
// not gone down: otherwise there is no such condition without a super pod.
func (in Input) ofTenantsScheduler() *corev1.PodCondition {
	if in.Tenant.Pod == nil || in.Tenant.Pod.Spec.NodeName != "" {
		return nil
	}
	condition := conditionOf(in.Tenant.Pod, corev1.PodScheduled)
	if condition == nil || condition.Status == corev1.ConditionTrue {
		return nil
	}
	return condition
}

// about tells whether an event is about this pod, and not one of its name before.
func (s Side) about(event *corev1.Event) bool {
	return s.Pod != nil && (event.InvolvedObject.UID == "" || event.InvolvedObject.UID == s.Pod.UID)
}

// where puts the syncer's answer into words.
func where(object *report.Object) string {
	var said []string
	switch object.State {
	case report.Queued:
		said = append(said, "it waits for a worker")
		if queue := queueOf(object); queue.Paused {
			said = append(said, "of which the tenant gets none as long as its apiserver does not answer")
		} else if queue.Waiting > 1 {
			said = append(said, fmt.Sprintf("with %d others of the tenant", queue.Waiting-1))
		}
	case report.Handled:
		said = append(said, "it is being handled")
	case report.Retrying:
		said = append(said, "it is tried again"+until(object.Until))
	case report.Delayed:
		said = append(said, "it is looked at again"+until(object.Until))
	case report.Idle:
		said = append(said, "nothing is to be done")
	}
	if object.LastError != "" {
		said = append(said, fmt.Sprintf("it failed %d times: %s", object.Failures, strings.Join(strings.Fields(object.LastError), " ")))
	}
	if object.Last != nil {
		said = append(said, object.Last.Findings...)
	}
	return strings.Join(said, "; ")
}

func queueOf(object *report.Object) report.Queue {
	if object.Direction == "up" {
		return object.Tenant.Up
	}
	return object.Tenant.Down
}

func until(at *time.Time) string {
	if at == nil {
		return ""
	}
	return " at " + at.UTC().Format(time.TimeOnly) + " UTC"
}
