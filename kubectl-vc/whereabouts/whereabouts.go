// Package whereabouts derives from both sides of a tenant's pod where it is on its way
// from the tenant's cluster into a container and back, what it waits for, and since
// when. It reads nothing itself.
package whereabouts

import (
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	tenancyv1alpha1 "github.com/bulkhead-dev/bulkhead/api/tenancy/v1alpha1"
	"github.com/bulkhead-dev/bulkhead/syncer/report"
)

// Input is what is known. Where something may not be read, its error stands for it.
type Input struct {
	VirtualCluster *tenancyv1alpha1.VirtualCluster
	// Pod is the tenant's, SuperPod the one in the super cluster.
	Pod, SuperPod types.NamespacedName
	Tenant, Super Side
	// Syncer is what the syncer says of the pod.
	Syncer    *report.Object
	SyncerErr error
}

// Side is a pod in one of the two clusters. A pod that is nil without an error is not
// there.
type Side struct {
	Pod       *corev1.Pod
	PodErr    error
	Events    []corev1.Event
	EventsErr error
}

// State of a step.
type State string

const (
	// Done steps are behind the pod.
	Done State = "done"
	// Waits is where the pod is.
	Waits State = "waits"
	// Failed steps end it, or are tried again and again.
	Failed State = "failed"
	// Unknown steps cannot be seen by who asks.
	Unknown State = "unknown"
	// Later steps are before it.
	Later State = "later"
)

// Step is one on the pod's way.
type Step struct {
	Name  string `json:"step"`
	State State  `json:"state"`
	// Since when it is so, where that is known.
	Since  *time.Time `json:"since,omitempty"`
	Detail string     `json:"detail,omitempty"`
}

// Explanation says where a pod is.
type Explanation struct {
	VirtualCluster string `json:"virtualCluster"`
	Pod            string `json:"pod"`
	SuperPod       string `json:"superPod"`
	Node           string `json:"node,omitempty"`
	Phase          string `json:"phase,omitempty"`
	// WaitsFor is empty where it waits for nothing, and Since is since when it does.
	WaitsFor string     `json:"waitsFor"`
	Since    *time.Time `json:"since,omitempty"`
	Steps    []Step     `json:"steps"`
}

// The steps, in their order.
const (
	stepPod        = "pod"
	stepLink       = "link"
	stepSyncer     = "syncer"
	stepSuperPod   = "super pod"
	stepScheduling = "scheduling"
	stepSandbox    = "sandbox"
	stepRules      = "service rules"
	stepContainers = "containers"
	stepReady      = "ready"
	stepStatus     = "status"
)

// Explain derives an explanation.
func Explain(in Input) Explanation {
	e := Explanation{
		VirtualCluster: in.VirtualCluster.Namespace + "/" + in.VirtualCluster.Name,
		Pod:            in.Pod.String(), SuperPod: in.SuperPod.String(),
	}
	pod := in.Super.Pod
	if pod == nil {
		pod = in.Tenant.Pod
	}
	if pod != nil {
		e.Phase, e.Node = string(pod.Status.Phase), pod.Spec.NodeName
	}
	e.Steps = []Step{
		in.pod(), in.link(), in.syncer(), in.superPod(), in.scheduling(), in.sandbox(), in.rules(), in.containers(), in.ready(), in.status(),
	}
	e.conclude(pod)
	return e
}

// conclude finds the first step that is not behind the pod, and puts off what comes
// after it.
func (e *Explanation) conclude(pod *corev1.Pod) {
	waits := -1
	for i := range e.Steps {
		step := &e.Steps[i]
		switch {
		case waits < 0 && (step.State == Waits || step.State == Failed):
			waits = i
		case waits >= 0 && step.State == Waits && step.Name != stepStatus:
			step.State, step.Since = Later, nil
		}
	}
	switch {
	case waits >= 0:
		step := e.Steps[waits]
		e.WaitsFor, e.Since = step.Name+": "+step.Detail, step.Since
	case pod == nil && e.Steps[0].State == Unknown:
		e.WaitsFor = "unknown: neither the tenant's pod nor the super pod can be read"
	}
}

func (in Input) pod() Step {
	pod := in.Tenant.Pod
	step := Step{Name: stepPod, State: Done}
	switch {
	case in.Tenant.PodErr != nil:
		step.State, step.Detail = Unknown, in.Tenant.PodErr.Error()
	case pod == nil && in.Super.Pod != nil:
		step.State, step.Detail = Waits, "it is gone from the tenant's cluster, and the super pod is to go"
		step.Since = in.Super.deletion()
	case pod == nil:
		step.State, step.Detail = Failed, "there is no such pod in the tenant's cluster"
	case pod.DeletionTimestamp != nil:
		step.State, step.Since, step.Detail = Waits, &pod.DeletionTimestamp.Time, "it is being deleted; its containers may have until then to end"
	case len(pod.Spec.SchedulingGates) > 0:
		step.State, step.Since = Waits, &pod.CreationTimestamp.Time
		step.Detail = "scheduling gates that the tenant has to remove: " + gates(pod)
	default:
		step.Since, step.Detail = &pod.CreationTimestamp.Time, "created in the tenant's cluster"
	}
	return step
}

func (in Input) link() Step {
	step := Step{Name: stepLink, State: Waits, Detail: "the syncer has not said anything about this virtual cluster yet"}
	for _, condition := range in.VirtualCluster.Status.Conditions {
		if condition.Type != tenancyv1alpha1.ConditionSynced {
			continue
		}
		at := condition.LastTransitionTime.Time
		step.Since, step.Detail = &at, condition.Reason+": "+condition.Message
		if condition.Status == "True" {
			step.State = Done
		}
	}
	return step
}

func (in Input) superPod() Step {
	pod := in.Super.Pod
	step := Step{Name: stepSuperPod, State: Done}
	switch {
	case in.Super.PodErr != nil:
		step.State, step.Detail = Unknown, in.Super.PodErr.Error()
	case pod == nil:
		step.State, step.Detail = Waits, in.SuperPod.String()+" is not there"
	case pod.DeletionTimestamp != nil:
		step.State, step.Since = Waits, &pod.DeletionTimestamp.Time
		step.Detail = "it is being deleted in the super cluster; its containers may have until then to end"
	default:
		step.Since, step.Detail = &pod.CreationTimestamp.Time, "created as "+in.SuperPod.String()
	}
	return step
}

// status is whether what the super cluster says has come up.
func (in Input) status() Step {
	step := Step{Name: stepStatus, State: Unknown}
	tenant, super := in.Tenant.Pod, in.Super.Pod
	switch {
	case tenant == nil || super == nil:
		step.State, step.Detail = Later, ""
		return step
	case tenant.Spec.NodeName != super.Spec.NodeName:
		step.State, step.Detail = Waits, fmt.Sprintf("the tenant does not see yet that it is on node %s", super.Spec.NodeName)
	case tenant.Status.Phase != super.Status.Phase:
		step.State, step.Detail = Waits, fmt.Sprintf("the tenant sees phase %s, and it is %s", tenant.Status.Phase, super.Status.Phase)
	case isTrue(tenant, corev1.PodReady) != isTrue(super, corev1.PodReady):
		step.State, step.Detail = Waits, "the tenant sees another readiness than it has"
	default:
		step.State, step.Detail = Done, "the tenant sees it as it is"
		return step
	}
	if in.Syncer != nil && in.Syncer.Since != nil {
		step.Since = in.Syncer.Since
	}
	return step
}
