package engine

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/bulkhead-dev/bulkhead/abm/service"
	abmv1alpha1 "github.com/bulkhead-dev/bulkhead/api/abm/v1alpha1"
)

// Reasons of conditions.
const (
	reasonReady     = "Ready"
	reasonSuspended = "Suspended"
	reasonWorking   = "Working"
	reasonStalled   = "Stalled"
	reasonReleasing = "Releasing"
	reasonSettled   = "Settled"
	reasonDone      = "StepsDone"
	reasonPending   = "StepsPending"
)

// maxMessage bounds messages in conditions; the API allows 32768 bytes.
const maxMessage = 4000

// stepCondition is what one step says about a condition of its instance.
type stepCondition struct {
	name    string
	done    bool
	message string
}

// settle lets the steps that need this one begin.
func (p *pass) settle(s *service.Step, record *abmv1alpha1.StepRecord) {
	p.settled[s.Spec.Name] = true
	p.show(s, record, record.Phase, "")
}

// show tells people how far a step is.
func (p *pass) show(s *service.Step, record *abmv1alpha1.StepRecord, phase abmv1alpha1.StepPhase, message string) {
	status := abmv1alpha1.StepStatus{Name: s.Spec.Name, Type: s.Type.Name(), Needs: s.Needs, Phase: phase, Message: shortened(message)}
	if record != nil {
		status.StartedAt, status.FinishedAt = record.StartedAt, record.FinishedAt
	}
	p.steps = append(p.steps, status)
	if s.Spec.Condition != "" {
		p.conditions = append(p.conditions, stepCondition{name: s.Spec.Condition, done: p.settled[s.Spec.Name], message: message})
	}
	if phase == abmv1alpha1.StepFailing || phase == abmv1alpha1.StepFailed {
		p.stalled = append(p.stalled, fmt.Sprintf("step %s: %s", s.Spec.Name, message))
		return
	}
	limit := defaultTimeout
	if s.Spec.Timeout != nil {
		limit = s.Spec.Timeout.Duration
	}
	if phase == abmv1alpha1.StepWorking && record != nil && record.StartedAt != nil && p.now.Sub(record.StartedAt.Time) >= limit {
		p.stalled = append(p.stalled, fmt.Sprintf("step %s has not been done within %s: %s", s.Spec.Name, limit, message))
	}
}

// showRecord tells people of a step that is taken back.
func (p *pass) showRecord(record *abmv1alpha1.StepRecord, phase abmv1alpha1.StepPhase, message string) {
	p.steps = append(p.steps, abmv1alpha1.StepStatus{
		Name: record.Step, Type: record.Type, Phase: phase, Message: shortened(message), StartedAt: record.StartedAt, FinishedAt: record.FinishedAt,
	})
}

func shortened(text string) string {
	if len(text) <= maxMessage {
		return text
	}
	return strings.ToValidUTF8(text[:maxMessage], "") + "..."
}

// announce writes an event where a step comes into another phase.
func (p *pass) announce(name string, record *abmv1alpha1.StepRecord, before abmv1alpha1.StepPhase) {
	if record.Phase == before {
		return
	}
	switch record.Phase {
	case abmv1alpha1.StepDone:
		p.event(corev1.EventTypeNormal, "StepDone", "Provision", "Step %s is done", name)
		p.metrics.observe(p.instance.Spec.ServiceName, record, p.now, "forward")
	case abmv1alpha1.StepFailing, abmv1alpha1.StepFailed:
		p.event(corev1.EventTypeWarning, "StepFailed", "Provision", "Step %s: %s", name, shortened(record.Message))
		p.metrics.failed(p.instance.Spec.ServiceName, name)
	case abmv1alpha1.StepWorking:
		p.event(corev1.EventTypeWarning, "StepNotReady", "Provision", "Step %s was done and is not any more: %s", name, shortened(record.Message))
	}
}

func (p *pass) event(eventType, reason, action, format string, args ...any) {
	p.Recorder.Eventf(p.instance, nil, eventType, reason, action, format, args...)
}

// finish writes the status of the instance, and says when to look again.
func (p *pass) finish(ctx context.Context, problem error) (ctrl.Result, error) {
	if p.before == nil {
		return ctrl.Result{}, problem
	}
	if problem != nil {
		p.stalled = append(p.stalled, problem.Error())
	}
	p.sumUp()
	if err := p.storeStatus(ctx); err != nil && problem == nil {
		return ctrl.Result{}, err
	}
	if problem != nil {
		return ctrl.Result{}, problem
	}
	if p.requeue == 0 {
		p.requeue = resyncInterval
	}
	return ctrl.Result{RequeueAfter: p.requeue}, nil
}

// sumUp makes of what the pass saw the instance's phase and conditions.
func (p *pass) sumUp() {
	status := &p.instance.Status
	if p.steps != nil || !p.instance.DeletionTimestamp.IsZero() {
		status.Steps = p.steps
	}
	p.stepConditions()
	wasReady := meta.IsStatusConditionTrue(p.before.Status.Conditions, abmv1alpha1.ConditionReady)
	releasing := !p.instance.DeletionTimestamp.IsZero()
	settled := !releasing && p.service != nil && len(p.settled) == len(p.service.Steps) && len(p.stalled) == 0 && p.requeue == 0
	suspended := p.instance.Spec.State == abmv1alpha1.StateSuspended
	ready, reconciling, stalled := metav1.ConditionFalse, metav1.ConditionTrue, metav1.ConditionFalse
	reason, message := reasonWorking, p.unfinished()
	switch {
	case releasing:
		status.Phase, reason = abmv1alpha1.PhaseReleasing, reasonReleasing
	case settled && suspended:
		status.Phase, reason, message, reconciling = abmv1alpha1.PhaseSuspended, reasonSuspended, "the service is suspended; its data is kept", metav1.ConditionFalse
	case settled:
		status.Phase, reason, message = abmv1alpha1.PhaseReady, reasonReady, "all steps are done"
		ready, reconciling = metav1.ConditionTrue, metav1.ConditionFalse
	case suspended:
		status.Phase = abmv1alpha1.PhaseSuspending
	case p.before.Status.Phase == "" || p.before.Status.Phase == abmv1alpha1.PhaseProvisioning:
		status.Phase = abmv1alpha1.PhaseProvisioning
	case p.before.Status.Phase == abmv1alpha1.PhaseStalled && !slices.ContainsFunc(status.Steps, func(s abmv1alpha1.StepStatus) bool { return s.Phase == abmv1alpha1.StepDone }):
		status.Phase = abmv1alpha1.PhaseProvisioning
	default:
		status.Phase = abmv1alpha1.PhaseUpdating
	}
	if len(p.stalled) > 0 {
		message, stalled = shortened(strings.Join(p.stalled, "; ")), metav1.ConditionTrue
		if !releasing {
			status.Phase, reason = abmv1alpha1.PhaseStalled, reasonStalled
		}
	}
	p.set(abmv1alpha1.ConditionReady, ready, reason, message)
	p.set(abmv1alpha1.ConditionReconciling, reconciling, reason, message)
	if stalled == metav1.ConditionTrue {
		p.set(abmv1alpha1.ConditionStalled, stalled, reasonStalled, message)
	} else {
		p.set(abmv1alpha1.ConditionStalled, stalled, reasonSettled, "")
	}
	if isReady := ready == metav1.ConditionTrue; isReady && !wasReady {
		p.event(corev1.EventTypeNormal, "Ready", "Provision", "Service %s is ready", p.instance.Spec.ServiceName)
	}
}

// stepConditions sets the conditions that steps name. An event tells when one comes true.
func (p *pass) stepConditions() {
	state := map[string]stepCondition{}
	var order []string
	for _, c := range p.conditions {
		sum, known := state[c.name]
		if !known {
			order = append(order, c.name)
			sum = stepCondition{name: c.name, done: true}
		}
		if !c.done {
			sum.done = false
			sum.message = strings.TrimPrefix(sum.message+"; "+c.message, "; ")
		}
		state[c.name] = sum
	}
	for _, name := range order {
		if !state[name].done {
			p.set(name, metav1.ConditionFalse, reasonPending, shortened(state[name].message))
			continue
		}
		if p.set(name, metav1.ConditionTrue, reasonDone, "") {
			p.event(corev1.EventTypeNormal, name, "Provision", "%s", name)
		}
	}
	if len(order) == 0 {
		return
	}
	for _, present := range slices.Clone(p.instance.Status.Conditions) {
		if _, named := state[present.Type]; !named && !slices.Contains([]string{abmv1alpha1.ConditionReady, abmv1alpha1.ConditionReconciling, abmv1alpha1.ConditionStalled}, present.Type) {
			meta.RemoveStatusCondition(&p.instance.Status.Conditions, present.Type)
		}
	}
}

// set sets a condition and tells whether its status changed.
func (p *pass) set(condition string, status metav1.ConditionStatus, reason, message string) bool {
	before := meta.FindStatusCondition(p.instance.Status.Conditions, condition)
	changed := before == nil || before.Status != status
	meta.SetStatusCondition(&p.instance.Status.Conditions, metav1.Condition{
		Type: condition, Status: status, Reason: reason, Message: message, ObservedGeneration: p.instance.Generation,
		LastTransitionTime: metav1.NewTime(p.now),
	})
	return changed
}

// unfinished says in one line what is waited for.
func (p *pass) unfinished() string {
	var left []string
	for _, s := range p.instance.Status.Steps {
		switch s.Phase {
		case abmv1alpha1.StepDone, abmv1alpha1.StepSkipped, abmv1alpha1.StepLeftOut, abmv1alpha1.StepPending:
		default:
			left = append(left, strings.TrimSuffix(fmt.Sprintf("%s: %s", s.Name, s.Message), ": "))
		}
	}
	if len(left) == 0 && !p.instance.DeletionTimestamp.IsZero() {
		return "what was made is being taken back"
	}
	return shortened(strings.Join(left, "; "))
}

// storeStatus writes the status where it differs from what is stored.
func (p *pass) storeStatus(ctx context.Context) error {
	if equality.Semantic.DeepEqual(p.before.Status, p.instance.Status) {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	if err := p.Client.Status().Patch(ctx, p.instance, client.MergeFrom(p.before)); client.IgnoreNotFound(err) != nil {
		return fmt.Errorf("writing the status of instance %s/%s: %w", p.instance.Namespace, p.instance.Name, err)
	}
	p.before = p.instance.DeepCopy()
	return nil
}
