package step

import (
	"context"
	"slices"

	"github.com/bulkhead-dev/bulkhead/abm/expression"
	abmv1alpha1 "github.com/bulkhead-dev/bulkhead/api/abm/v1alpha1"
)

// approval waits until somebody approves.
type approval struct{}

func (approval) Name() string { return "approval" }

func (approval) Is(spec *abmv1alpha1.Step) bool { return spec.Approval != nil }

type approvalAction struct{ question *expression.Text }

func (approval) Compile(spec *abmv1alpha1.Step, scope *Scope) Action {
	return &approvalAction{question: scope.text(spec.Approval.Question, scope.Path.Child("question"))}
}

func (a *approvalAction) Plan(ctx context.Context, values expression.Values) (*Plan, error) {
	question, err := a.question.String(ctx, values)
	if err != nil {
		return nil, err
	}
	return &Plan{
		// Another question does not need another approval: which steps come after it
		// decides a revision, not the words.
		Input:  "approval",
		Intend: func(*abmv1alpha1.StepRecord) {},
		Do: func(_ context.Context, run *Run) (Progress, error) {
			approved := slices.ContainsFunc(run.Record.Audit, func(entry abmv1alpha1.AuditEntry) bool {
				return entry.Action == abmv1alpha1.ActionApprove
			})
			return Progress{Done: approved, Message: "waits for an approval: " + question}, nil
		},
	}, nil
}

func (approval) Undo(context.Context, *Run) (Progress, error) { return Progress{Done: true}, nil }
