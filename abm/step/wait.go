package step

import (
	"context"
	"fmt"

	"github.com/bulkhead-dev/bulkhead/abm/expression"
	abmv1alpha1 "github.com/bulkhead-dev/bulkhead/api/abm/v1alpha1"
)

// wait waits until an object that something else makes is as an expression says.
type wait struct{}

func (wait) Name() string { return "wait" }

func (wait) Is(spec *abmv1alpha1.Step) bool { return spec.Wait != nil }

type waitAction struct {
	object abmv1alpha1.ObjectName
	name   *expression.Text
	until  *expression.Expression
}

func (wait) Compile(spec *abmv1alpha1.Step, scope *Scope) Action {
	path, object := scope.Path.Child("object"), spec.Wait.Object
	checkKind(object.APIVersion, object.Kind, path, scope)
	checkNamespace(object.Namespace, path.Child("namespace"), scope)
	scope.Outputs = append(scope.Outputs, expression.Variable{Name: "self", Type: expression.Any})
	return &waitAction{
		object: object, name: scope.text(object.Name, path.Child("name")),
		until: compileSelf(spec.Wait.Until, scope.Path.Child("until"), scope),
	}
}

func (a *waitAction) Plan(ctx context.Context, values expression.Values) (*Plan, error) {
	name, err := a.name.String(ctx, values)
	if err != nil {
		return nil, err
	}
	object := abmv1alpha1.ObjectRecord{APIVersion: a.object.APIVersion, Kind: a.object.Kind, Namespace: a.object.Namespace, Name: name}
	return &Plan{
		Input: object, Lasting: true,
		// It makes nothing, so there is nothing to take back.
		Intend: func(*abmv1alpha1.StepRecord) {},
		Do: func(ctx context.Context, run *Run) (Progress, error) {
			present, err := get(ctx, run, object)
			if err != nil {
				return Progress{}, err
			}
			if present == nil {
				return Progress{Message: fmt.Sprintf("%s is not there yet", describe(object.Kind, object.Namespace, name))}, nil
			}
			visible := withoutSecrets(present)
			ready, why, err := readiness(ctx, a.until, present, visible, values)
			if !ready && why != "" {
				why = describe(object.Kind, object.Namespace, name) + ": " + why
			}
			return Progress{Done: ready, Message: why, Seen: expression.Values{"self": visible}}, err
		},
	}, nil
}

func (wait) Undo(context.Context, *Run) (Progress, error) { return Progress{Done: true}, nil }
