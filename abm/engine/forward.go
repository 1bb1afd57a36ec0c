package engine

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/bulkhead-dev/bulkhead/abm/expression"
	"github.com/bulkhead-dev/bulkhead/abm/service"
	"github.com/bulkhead-dev/bulkhead/abm/step"
	abmv1alpha1 "github.com/bulkhead-dev/bulkhead/api/abm/v1alpha1"
)

// What steps are given where the definition says nothing.
const (
	defaultTimeout = 10 * time.Minute
	defaultInitial = time.Second
	defaultMax     = time.Minute
)

// forward does what is to be done for an instance.
func (p *pass) forward(ctx context.Context) error {
	if err := p.chooseRevision(ctx); err != nil {
		return p.blocked(err)
	}
	var err error
	if p.service, err = p.load(ctx, p.instance.Status.Revision); err != nil {
		return p.blocked(err)
	}
	parameters, problems := p.service.Check(ctx, &p.instance.Spec, nil, field.NewPath("spec"))
	if len(problems) > 0 {
		// Admission refuses them; this is for what came past it, and for revisions whose
		// schema is another.
		return p.blocked(problems.ToAggregate())
	}
	changed, err := p.grant(ctx, p.service.Spec.Access.Super)
	if err != nil {
		return p.blocked(err)
	}
	if changed {
		// Authorizers learn of it a moment later.
		p.again(rightsDelay)
		return nil
	}
	values := p.service.Values(p.instance, parameters)
	outputs := values["steps"].(map[string]any)
	for _, s := range p.service.Steps {
		if err := p.step(ctx, s, values); err != nil {
			return err
		}
		if record := p.records[s.Spec.Name]; p.settled[s.Spec.Name] && record != nil {
			seen, err := decodeOutputs(record)
			if err != nil {
				return err
			}
			outputs[s.Spec.Name] = map[string]any{"outputs": seen}
		} else if p.settled[s.Spec.Name] {
			outputs[s.Spec.Name] = map[string]any{"outputs": map[string]any{}}
		}
	}
	if len(p.settled) < len(p.service.Steps) {
		return nil
	}
	if gone, err := p.undoRemoved(ctx); err != nil || !gone {
		return err
	}
	return p.showOutputs(ctx, values)
}

// blocked shows why nothing can be done, and has it tried again.
func (p *pass) blocked(err error) error {
	p.stalled = append(p.stalled, err.Error())
	p.again(blockedInterval)
	if apierrors.IsNotFound(err) || apierrors.IsInvalid(err) {
		return nil
	}
	var aggregate interface{ Errors() []error }
	if errors.As(err, &aggregate) {
		return nil
	}
	return err
}

// chooseRevision decides which revision the instance has, and stores that before
// anything is done by it.
func (p *pass) chooseRevision(ctx context.Context) error {
	status := &p.instance.Status
	wanted := p.instance.Spec.Revision
	if wanted == "" {
		wanted = status.Revision
	}
	if wanted == "" {
		definition := &abmv1alpha1.ServiceDefinition{}
		if err := p.Live.Get(ctx, client.ObjectKey{Name: p.instance.Spec.ServiceName}, definition); err != nil {
			return fmt.Errorf("reading ServiceDefinition %s: %w", p.instance.Spec.ServiceName, err)
		}
		if wanted = definition.Status.LatestRevision; wanted == "" {
			return apierrors.NewNotFound(abmv1alpha1.GroupVersion.WithResource("servicerevisions").GroupResource(), p.instance.Spec.ServiceName)
		}
	}
	if wanted == status.Revision {
		return nil
	}
	revision := &abmv1alpha1.ServiceRevision{}
	if err := p.Live.Get(ctx, client.ObjectKey{Name: wanted}, revision); err != nil {
		return fmt.Errorf("reading ServiceRevision %s: %w", wanted, err)
	}
	if revision.ServiceName != p.instance.Spec.ServiceName {
		return apierrors.NewInvalid(abmv1alpha1.GroupVersion.WithKind("ServiceInstance").GroupKind(), p.instance.Name, field.ErrorList{
			field.Invalid(field.NewPath("spec", "revision"), wanted, fmt.Sprintf("is one of service %s", revision.ServiceName)),
		})
	}
	if status.Revision != "" {
		p.event(corev1.EventTypeNormal, "Upgrading", "Upgrade", "From revision %s to %s", status.Revision, wanted)
	}
	status.Revision = wanted
	return p.storeStatus(ctx)
}

// step looks at one step.
func (p *pass) step(ctx context.Context, s *service.Step, values expression.Values) error {
	name := s.Spec.Name
	record := p.records[name]
	var waiting []string
	for _, need := range s.Needs {
		if !p.settled[need] {
			waiting = append(waiting, need)
		}
	}
	if len(waiting) > 0 {
		p.show(s, record, abmv1alpha1.StepPending, "waits for "+strings.Join(waiting, ", "))
		return nil
	}
	if s.When != nil {
		take, err := s.When.True(ctx, values)
		if err != nil {
			return p.attempt(ctx, s, nil, fmt.Errorf("when: %w", err), values)
		}
		if !take {
			return p.leaveOut(ctx, s, record)
		}
	}
	plan, err := s.Action.Plan(ctx, values)
	return p.attempt(ctx, s, plan, err, values)
}

// leaveOut takes back a step whose condition has become false.
func (p *pass) leaveOut(ctx context.Context, s *service.Step, record *abmv1alpha1.StepRecord) error {
	if record != nil {
		if gone, err := p.undo(ctx, record); err != nil || !gone {
			p.show(s, record, abmv1alpha1.StepUndoing, record.Message)
			return err
		}
	}
	p.settled[s.Spec.Name] = true
	p.show(s, nil, abmv1alpha1.StepLeftOut, "")
	return nil
}

// attempt records what a step is about to do, does it, and records what came of it.
// A step that could not be planned has its failure recorded.
func (p *pass) attempt(ctx context.Context, s *service.Step, plan *step.Plan, problem error, values expression.Values) error {
	target, err := p.target(s)
	if err != nil {
		p.stalled = append(p.stalled, err.Error())
		p.show(s, p.records[s.Spec.Name], abmv1alpha1.StepPending, err.Error())
		p.again(pollInterval)
		return nil
	}
	record, err := p.intend(ctx, s, target, plan, problem)
	if err != nil {
		return err
	}
	switch {
	case record.Phase == abmv1alpha1.StepSkipped:
		p.settle(s, record)
		return nil
	case record.Phase == abmv1alpha1.StepFailed:
		p.show(s, record, record.Phase, record.Message)
		return nil
	case record.NotBefore != nil && record.NotBefore.After(p.now):
		p.again(record.NotBefore.Sub(p.now))
		p.show(s, record, record.Phase, record.Message)
		return nil
	case problem == nil && record.Phase == abmv1alpha1.StepDone && !plan.Lasting:
		p.settle(s, record)
		return nil
	}
	before := record.DeepCopy()
	progress := step.Progress{}
	if problem == nil {
		progress, problem = p.do(ctx, plan, record)
	}
	if problem == nil && progress.Done {
		problem = p.keepOutputs(ctx, s, record, progress, values)
	}
	p.judge(s, record, progress, problem)
	if err := p.store(ctx, record, before); err != nil {
		return err
	}
	p.announce(s.Spec.Name, record, before.Phase)
	if record.Phase == abmv1alpha1.StepDone {
		p.settle(s, record)
		return nil
	}
	p.show(s, record, record.Phase, record.Message)
	if record.NotBefore != nil {
		p.again(record.NotBefore.Sub(p.now))
	}
	p.again(pollInterval)
	return nil
}

func (p *pass) do(ctx context.Context, plan *step.Plan, record *abmv1alpha1.StepRecord) (step.Progress, error) {
	run, err := p.run(ctx, record)
	if err != nil {
		return step.Progress{}, err
	}
	return plan.Do(ctx, run)
}

// intend stores what a step is about to do, where that is not stored yet, and what
// people decided about it.
func (p *pass) intend(ctx context.Context, s *service.Step, target *abmv1alpha1.ClusterReference, plan *step.Plan, problem error) (*abmv1alpha1.StepRecord, error) {
	name := s.Spec.Name
	before := p.records[name]
	record := p.newRecord(name)
	if before != nil {
		record = before.DeepCopy()
	}
	hash := ""
	if problem == nil {
		var err error
		if hash, err = plan.Hash(); err != nil {
			return nil, err
		}
	}
	retarget := before != nil && (target == nil) != (record.Target == nil) || target != nil && record.Target != nil && target.UID != record.Target.UID
	anew := before == nil || problem == nil && hash != record.InputHash || retarget || record.Phase == abmv1alpha1.StepUndoing
	if retarget {
		// What was in the cluster that is gone went with it.
		record.Objects = nil
	}
	record.Type, record.Order, record.Target = s.Type.Name(), s.Order, target
	record.Undo, record.Revision = s.Spec.Undo, p.instance.Status.Revision
	if problem == nil {
		// Also where nothing changed: it may be that another step's objects stand here
		// no more, since somebody pruned the record.
		plan.Intend(record)
		record.InputHash = hash
	}
	if anew {
		started := metav1.NewTime(p.now)
		record.Phase, record.Message, record.StartedAt, record.FinishedAt = abmv1alpha1.StepWorking, "", &started, nil
		record.Failures, record.NotBefore, record.UnreachableSince = 0, nil, nil
	}
	p.intervene(record)
	if err := p.store(ctx, record, before); err != nil {
		return nil, err
	}
	p.records[name] = record
	return record, nil
}

// target is the virtual cluster that a step works in.
func (p *pass) target(s *service.Step) (*abmv1alpha1.ClusterReference, error) {
	if s.Spec.Target == nil {
		return nil, nil
	}
	maker := p.records[s.Spec.Target.VirtualCluster]
	if maker != nil {
		if ref, found := service.VirtualCluster(maker); found && ref.UID != "" {
			return &ref, nil
		}
	}
	return nil, fmt.Errorf("step %s: step %s has recorded no virtual cluster", s.Spec.Name, s.Spec.Target.VirtualCluster)
}

// judge makes of what an attempt brought the step's phase.
func (p *pass) judge(s *service.Step, record *abmv1alpha1.StepRecord, progress step.Progress, problem error) {
	now := metav1.NewTime(p.now)
	switch {
	case problem != nil:
		record.Failures++
		record.Message = problem.Error()
		record.Phase = abmv1alpha1.StepFailing
		record.FinishedAt = nil
		if limit := s.Spec.Retry.Limit; limit > 0 && record.Failures >= limit {
			record.Phase, record.NotBefore = abmv1alpha1.StepFailed, nil
			record.Message = fmt.Sprintf("%d attempts failed, add an intervention Retry or Skip: %v", record.Failures, problem)
			return
		}
		next := metav1.NewTime(p.now.Add(backoff(s.Spec.Retry, record.Failures)))
		record.NotBefore = &next
	case progress.Done:
		if record.Phase != abmv1alpha1.StepDone {
			record.FinishedAt = &now
		}
		record.Phase, record.Message, record.Failures, record.NotBefore = abmv1alpha1.StepDone, "", 0, nil
	default:
		if record.Phase == abmv1alpha1.StepDone {
			record.StartedAt = &now
		}
		record.Phase, record.Message, record.Failures, record.NotBefore, record.FinishedAt = abmv1alpha1.StepWorking, progress.Message, 0, nil, nil
	}
}

// backoff is the time after a number of failures in a row.
func backoff(retry abmv1alpha1.Retry, failures int32) time.Duration {
	initial, limit := defaultInitial, defaultMax
	if retry.Initial != nil && retry.Initial.Duration > 0 {
		initial = retry.Initial.Duration
	}
	if retry.Max != nil && retry.Max.Duration > 0 {
		limit = retry.Max.Duration
	}
	for ; failures > 1 && initial < limit; failures-- {
		initial *= 2
	}
	return min(initial, limit)
}
