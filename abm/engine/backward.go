package engine

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"

	"github.com/bulkhead-dev/bulkhead/abm/cluster"
	"github.com/bulkhead-dev/bulkhead/abm/service"
	"github.com/bulkhead-dev/bulkhead/abm/step"
	abmv1alpha1 "github.com/bulkhead-dev/bulkhead/api/abm/v1alpha1"
)

// defaultUndoTimeout is for how long a virtual cluster that does not answer is waited for.
const defaultUndoTimeout = 5 * time.Minute

// maxNotes bounds what an instance's status tells of its release.
const maxNotes = 64

// release takes back all that was done for an instance, and lets it go.
func (p *pass) release(ctx context.Context) error {
	if !controllerutil.ContainsFinalizer(p.instance, abmv1alpha1.Finalizer) {
		return nil
	}
	if len(p.records) > 0 {
		if _, err := p.grant(ctx, nil); err != nil {
			return p.blocked(err)
		}
		_, err := p.undoHighest(ctx, p.records)
		if err != nil || len(p.records) > 0 {
			return err
		}
	}
	if err := p.revoke(ctx); err != nil {
		return p.blocked(err)
	}
	patch := client.MergeFromWithOptions(p.instance.DeepCopy(), client.MergeFromWithOptimisticLock{})
	controllerutil.RemoveFinalizer(p.instance, abmv1alpha1.Finalizer)
	if err := p.Client.Patch(ctx, p.instance, patch); client.IgnoreNotFound(err) != nil {
		return fmt.Errorf("removing the finalizer of instance %s/%s: %w", p.instance.Namespace, p.instance.Name, err)
	}
	p.event(corev1.EventTypeNormal, "Released", "Release", "Nothing is left of the instance")
	p.before = nil
	return nil
}

// undoRemoved takes back the steps that the revision does not have any more. It
// tells whether they are gone.
func (p *pass) undoRemoved(ctx context.Context) (bool, error) {
	removed := map[string]*abmv1alpha1.StepRecord{}
	for name, record := range p.records {
		if _, found := p.service.Step(name); !found {
			removed[name] = record
		}
	}
	gone, err := p.undoHighest(ctx, removed)
	return gone, err
}

// undoHighest takes back those of the records that nothing else depends on, until it
// has to wait. What is left of them is shown. It tells whether none is left.
func (p *pass) undoHighest(ctx context.Context, records map[string]*abmv1alpha1.StepRecord) (bool, error) {
	ordered := make([]*abmv1alpha1.StepRecord, 0, len(records))
	for _, record := range records {
		ordered = append(ordered, record)
	}
	slices.SortFunc(ordered, func(a, b *abmv1alpha1.StepRecord) int {
		if a.Order != b.Order {
			return int(b.Order - a.Order)
		}
		return int(b.CreationTimestamp.Sub(a.CreationTimestamp.Time))
	})
	waiting := false
	for i, record := range ordered {
		if i > 0 && waiting && record.Order < ordered[i-1].Order {
			for _, later := range ordered[i:] {
				p.showRecord(later, abmv1alpha1.StepPending, "is taken back after the steps that came after it")
			}
			break
		}
		gone, err := p.undo(ctx, record)
		if err != nil {
			return false, err
		}
		if !gone {
			waiting = true
			p.showRecord(record, abmv1alpha1.StepUndoing, record.Message)
		}
	}
	return !waiting, nil
}

// undo takes back a step by its record alone. It tells whether it is gone, the
// record too.
func (p *pass) undo(ctx context.Context, record *abmv1alpha1.StepRecord) (bool, error) {
	before := record.DeepCopy()
	if record.Phase != abmv1alpha1.StepUndoing {
		started := metav1.NewTime(p.now)
		record.Phase, record.Message, record.StartedAt, record.FinishedAt = abmv1alpha1.StepUndoing, "", &started, nil
		record.Failures, record.NotBefore, record.UnreachableSince = 0, nil, nil
	}
	p.intervene(record)
	if err := p.store(ctx, record, before); err != nil {
		return false, err
	}
	if skippedUndoing(record) {
		p.note(record, "was skipped by hand: what it made may be left")
		return true, p.strike(ctx, record)
	}
	if record.NotBefore != nil && record.NotBefore.After(p.now) {
		p.stalled = append(p.stalled, fmt.Sprintf("step %s cannot be taken back: %s", record.Step, record.Message))
		p.again(record.NotBefore.Sub(p.now))
		return false, nil
	}
	before = record.DeepCopy()
	progress, err := p.takeBack(ctx, record)
	var unreachable *cluster.UnreachableError
	switch {
	case errors.Is(err, cluster.ErrGone):
		p.note(record, "its virtual cluster is gone, and with it what the step made")
		return true, p.strike(ctx, record)
	case err == nil && progress.Done:
		p.metrics.observe(p.instance.Spec.ServiceName, record, p.now, "backward")
		if progress.Note != "" {
			p.note(record, progress.Note)
		}
		p.event(corev1.EventTypeNormal, "StepUndone", "Release", "Step %s is taken back", record.Step)
		return true, p.strike(ctx, record)
	case p.overdue(record) && p.goesWithCluster(record):
		why := progress.Message
		if err != nil {
			why = err.Error()
		}
		p.note(record, "was left to the deletion of its virtual cluster: "+why)
		return true, p.strike(ctx, record)
	case err != nil:
		record.Failures++
		next := metav1.NewTime(p.now.Add(backoff(abmv1alpha1.Retry{}, record.Failures)))
		record.Message, record.NotBefore = err.Error(), &next
		if errors.As(err, &unreachable) && record.UnreachableSince == nil {
			since := metav1.NewTime(p.now)
			record.UnreachableSince = &since
		}
		p.stalled = append(p.stalled, fmt.Sprintf("step %s cannot be taken back: %v", record.Step, err))
		if before.Message != record.Message {
			p.event(corev1.EventTypeWarning, "UndoFailed", "Release", "Step %s: %v", record.Step, err)
		}
		p.again(record.NotBefore.Sub(p.now))
	default:
		record.Message, record.Failures, record.NotBefore, record.UnreachableSince = progress.Message, 0, nil, nil
		if p.overdue(record) {
			p.stalled = append(p.stalled, fmt.Sprintf("step %s takes long to be taken back: %s", record.Step, progress.Message))
		}
		p.again(pollInterval)
	}
	return false, p.store(ctx, record, before)
}

func (p *pass) takeBack(ctx context.Context, record *abmv1alpha1.StepRecord) (step.Progress, error) {
	stepType, known := step.TypeNamed(record.Type)
	if !known {
		return step.Progress{}, fmt.Errorf("this version of ABM knows no steps of type %q", record.Type)
	}
	if record.Undo.Policy == abmv1alpha1.UndoRetain {
		return step.Progress{Done: true, Note: fmt.Sprintf("what it made is retained: %s", objectNames(record))}, nil
	}
	if len(record.Objects) == 0 && record.Call == nil {
		return step.Progress{Done: true}, nil
	}
	run, err := p.run(ctx, record)
	if err != nil {
		return step.Progress{}, err
	}
	return stepType.Undo(ctx, run)
}

func objectNames(record *abmv1alpha1.StepRecord) []string {
	names := make([]string, 0, len(record.Objects))
	for _, object := range record.Objects {
		names = append(names, object.Kind+" "+object.Name)
	}
	return names
}

// overdue tells whether undoing a step has taken longer than it may.
func (p *pass) overdue(record *abmv1alpha1.StepRecord) bool {
	limit := defaultUndoTimeout
	if record.Undo.Timeout != nil {
		limit = record.Undo.Timeout.Duration
	}
	return record.StartedAt != nil && p.now.Sub(record.StartedAt.Time) >= limit
}

// goesWithCluster tells whether what a step made is in a virtual cluster that a
// later undo deletes, whether or not it answers.
func (p *pass) goesWithCluster(record *abmv1alpha1.StepRecord) bool {
	if record.Target == nil || p.instance.DeletionTimestamp.IsZero() {
		return false
	}
	for _, maker := range p.records {
		ref, found := service.VirtualCluster(maker)
		if found && maker.Target == nil && ref.UID == record.Target.UID {
			return maker.Undo.Policy != abmv1alpha1.UndoRetain
		}
	}
	return false
}

// note tells people what a release left to others.
func (p *pass) note(record *abmv1alpha1.StepRecord, text string) {
	text = "step " + record.Step + ": " + text
	if !slices.Contains(p.instance.Status.Notes, text) && len(p.instance.Status.Notes) < maxNotes {
		p.instance.Status.Notes = append(p.instance.Status.Notes, text)
	}
	p.event(corev1.EventTypeWarning, "StepLeft", "Release", "%s", text)
}
