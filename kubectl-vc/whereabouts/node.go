package whereabouts

import (
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// scheduling is by the super cluster's scheduler, or a tenant's own before it goes down.
func (in Input) scheduling() Step {
	step := Step{Name: stepScheduling, State: Later}
	pod := in.Super.Pod
	if pod == nil {
		return step
	}
	if pod.Spec.NodeName != "" {
		step.State, step.Detail = Done, "on node "+pod.Spec.NodeName
	} else {
		step.State, step.Detail = Waits, "the super cluster's scheduler has not looked at it yet"
		step.Since = &pod.CreationTimestamp.Time
	}
	if condition := conditionOf(pod, corev1.PodScheduled); condition != nil {
		step.Since = &condition.LastTransitionTime.Time
		if condition.Status != corev1.ConditionTrue {
			step.Detail = words(condition.Reason, condition.Message)
		}
	}
	return step
}

// sandbox is what the kubelet does before the first container: volumes, network, sandbox.
func (in Input) sandbox() Step {
	step := Step{Name: stepSandbox, State: Later}
	pod := in.Super.Pod
	if pod == nil || pod.Spec.NodeName == "" {
		return step
	}
	condition := conditionOf(pod, corev1.PodReadyToStartContainers)
	switch {
	case condition != nil && condition.Status == corev1.ConditionTrue, finished(pod), anyStarted(pod):
		step.State = Done
		if condition != nil && condition.Status == corev1.ConditionTrue {
			step.Since = &condition.LastTransitionTime.Time
		}
		return step
	case pod.Status.StartTime == nil:
		step.State, step.Detail = Waits, "the kubelet of "+pod.Spec.NodeName+" has not taken the pod"
		if scheduled := conditionOf(pod, corev1.PodScheduled); scheduled != nil {
			step.Since = &scheduled.LastTransitionTime.Time
		}
		return step
	}
	step.State, step.Since, step.Detail = Waits, &pod.Status.StartTime.Time, "volumes, network and sandbox are being made"
	if event := in.Super.last("FailedCreatePodSandBox", "FailedMount", "FailedAttachVolume", "NetworkNotReady"); event != nil {
		step.State, step.Detail = Failed, words(event.Reason, event.Message)
	}
	return step
}

// rules is the gate at which cri-ext holds containers until the sandbox has the
// tenant's service rules.
func (in Input) rules() Step {
	step := Step{Name: stepRules, State: Later}
	pod := in.Super.Pod
	if pod == nil || pod.Spec.NodeName == "" {
		return step
	}
	event := in.Super.last("RulesPending", "RulesInjected", "RulesInjectionFailed")
	switch {
	case finished(pod), anyStarted(pod):
		step.State = Done
	case event == nil:
		return step
	default:
		step.State = map[string]State{"RulesPending": Waits, "RulesInjected": Done, "RulesInjectionFailed": Failed}[event.Reason]
	}
	if event != nil {
		at := eventTime(event)
		step.Since, step.Detail = &at, words(event.Reason, event.Message)
	}
	return step
}

func (in Input) containers() Step {
	step := Step{Name: stepContainers, State: Later}
	pod := in.Super.Pod
	switch {
	case pod == nil || pod.Spec.NodeName == "":
		return step
	case pod.Status.Phase == corev1.PodSucceeded:
		step.State, step.Detail = Done, "all have ended well"
		return step
	case pod.Status.Phase == corev1.PodFailed:
		step.State, step.Detail = Failed, words(pod.Status.Reason, pod.Status.Message)
		if step.Detail == "" {
			step.Detail = containersIn(pod, failedContainer)
		}
		return step
	}
	var latest time.Time
	for _, container := range slices.Concat(pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses) {
		if running := container.State.Running; running != nil && running.StartedAt.After(latest) {
			latest = running.StartedAt.Time
		}
	}
	if detail := containersIn(pod, waitingContainer); detail != "" {
		step.State, step.Detail = Waits, detail
		if condition := conditionOf(pod, corev1.PodReadyToStartContainers); condition != nil && condition.Status == corev1.ConditionTrue {
			step.Since = &condition.LastTransitionTime.Time
		}
		return step
	}
	if len(pod.Status.ContainerStatuses) == 0 {
		step.State, step.Detail = Waits, "none has been started"
		return step
	}
	step.State, step.Detail = Done, "all run"
	if !latest.IsZero() {
		step.Since = &latest
	}
	return step
}

func (in Input) ready() Step {
	step := Step{Name: stepReady, State: Later}
	pod := in.Super.Pod
	if pod == nil || pod.Spec.NodeName == "" {
		return step
	}
	if finished(pod) {
		step.State = Done
		return step
	}
	condition := conditionOf(pod, corev1.PodReady)
	switch {
	case condition == nil:
		step.State, step.Detail = Waits, "the kubelet has not said that it is ready"
	case condition.Status == corev1.ConditionTrue:
		step.State, step.Since = Done, &condition.LastTransitionTime.Time
	default:
		step.State, step.Since = Waits, &condition.LastTransitionTime.Time
		step.Detail = words(condition.Reason, condition.Message)
	}
	return step
}

// containersIn lists what a function says about each container.
func containersIn(pod *corev1.Pod, say func(corev1.ContainerStatus) string) string {
	var said []string
	for _, container := range pod.Status.InitContainerStatuses {
		if text := say(container); text != "" {
			said = append(said, "init container "+container.Name+" "+text)
		}
	}
	if len(said) > 0 && !anyStarted(pod) {
		return strings.Join(said, "; ") // the others come after these
	}
	for _, container := range pod.Status.ContainerStatuses {
		if text := say(container); text != "" {
			said = append(said, container.Name+" "+text)
		}
	}
	return strings.Join(said, "; ")
}

func waitingContainer(container corev1.ContainerStatus) string {
	switch waiting, terminated := container.State.Waiting, container.State.Terminated; {
	case waiting != nil:
		return "waits: " + words(waiting.Reason, waiting.Message) + restarts(container)
	case terminated != nil && terminated.ExitCode != 0:
		return failedContainer(container) + restarts(container)
	}
	return ""
}

func failedContainer(container corev1.ContainerStatus) string {
	if terminated := container.State.Terminated; terminated != nil && terminated.ExitCode != 0 {
		return fmt.Sprintf("ended with %d: %s", terminated.ExitCode, words(terminated.Reason, terminated.Message))
	}
	return ""
}

func restarts(container corev1.ContainerStatus) string {
	if container.RestartCount == 0 {
		return ""
	}
	return fmt.Sprintf(" (%d restarts)", container.RestartCount)
}

func anyStarted(pod *corev1.Pod) bool {
	return slices.ContainsFunc(slices.Concat(pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses), func(c corev1.ContainerStatus) bool {
		return c.State.Running != nil || c.State.Terminated != nil || c.LastTerminationState.Terminated != nil
	})
}

func finished(pod *corev1.Pod) bool {
	return pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed
}

func conditionOf(pod *corev1.Pod, name corev1.PodConditionType) *corev1.PodCondition {
	for i := range pod.Status.Conditions {
		if pod.Status.Conditions[i].Type == name {
			return &pod.Status.Conditions[i]
		}
	}
	return nil
}

func isTrue(pod *corev1.Pod, name corev1.PodConditionType) bool {
	condition := conditionOf(pod, name)
	return condition != nil && condition.Status == corev1.ConditionTrue
}

func gates(pod *corev1.Pod) string {
	names := make([]string, 0, len(pod.Spec.SchedulingGates))
	for _, gate := range pod.Spec.SchedulingGates {
		names = append(names, gate.Name)
	}
	return strings.Join(names, ", ")
}

// deletion is when the pod is to be gone, or nil.
func (s Side) deletion() *time.Time {
	if s.Pod == nil || s.Pod.DeletionTimestamp == nil {
		return nil
	}
	return &s.Pod.DeletionTimestamp.Time
}

// last returns the latest event with one of the reasons, or nil.
func (s Side) last(reasons ...string) *corev1.Event {
	var last *corev1.Event
	for i := range s.Events {
		event := &s.Events[i]
		if slices.Contains(reasons, event.Reason) && (last == nil || eventTime(event).After(eventTime(last))) {
			last = event
		}
	}
	return last
}

// eventTime is when an event last happened, whichever API it was written by.
func eventTime(event *corev1.Event) time.Time {
	last := event.CreationTimestamp.Time
	if event.Series != nil {
		last = event.Series.LastObservedTime.Time
	}
	for _, other := range []time.Time{event.LastTimestamp.Time, event.EventTime.Time} {
		if other.After(last) {
			last = other
		}
	}
	return last
}

// words joins a reason and a message.
func words(reason, message string) string {
	message = strings.Join(strings.Fields(message), " ")
	switch {
	case reason == "":
		return message
	case message == "":
		return reason
	}
	return reason + ": " + message
}
