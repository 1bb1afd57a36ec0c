package engine

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	abmv1alpha1 "github.com/bulkhead-dev/bulkhead/api/abm/v1alpha1"
)

// intervene carries out what people decided about a step, each decision once: the
// audit in the step's record tells which are done.
func (p *pass) intervene(record *abmv1alpha1.StepRecord) {
	for _, intervention := range p.instance.Spec.Interventions {
		if intervention.Step != record.Step || slices.ContainsFunc(record.Audit, func(entry abmv1alpha1.AuditEntry) bool { return entry.ID == intervention.ID }) {
			continue
		}
		record.Audit = append(record.Audit, abmv1alpha1.AuditEntry{Intervention: intervention, At: metav1.NewTime(p.now), During: record.Phase})
		undoing := record.Phase == abmv1alpha1.StepUndoing
		switch intervention.Action {
		case abmv1alpha1.ActionApprove:
			record.NotBefore = nil
		case abmv1alpha1.ActionRetry:
			record.Failures, record.NotBefore = 0, nil
			if !undoing {
				started := metav1.NewTime(p.now)
				record.Phase, record.StartedAt = abmv1alpha1.StepWorking, &started
			}
		case abmv1alpha1.ActionSkip:
			if !undoing {
				finished := metav1.NewTime(p.now)
				record.Phase, record.FinishedAt, record.NotBefore = abmv1alpha1.StepSkipped, &finished, nil
			}
		}
		p.event(corev1.EventTypeNormal, "Intervention", string(intervention.Action), "%s by %s on step %s: %s", intervention.Action, intervention.By, record.Step, intervention.Reason)
	}
}

// skippedUndoing tells whether somebody decided that a step is not taken back.
func skippedUndoing(record *abmv1alpha1.StepRecord) bool {
	return slices.ContainsFunc(record.Audit, func(entry abmv1alpha1.AuditEntry) bool {
		return entry.Action == abmv1alpha1.ActionSkip && entry.During == abmv1alpha1.StepUndoing
	})
}
