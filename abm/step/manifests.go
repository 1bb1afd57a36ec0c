package step

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	utiljson "k8s.io/apimachinery/pkg/util/json"
	"k8s.io/apimachinery/pkg/util/validation/field"
	apiservercel "k8s.io/apiserver/pkg/cel"

	"github.com/bulkhead-dev/bulkhead/abm/expression"
	abmv1alpha1 "github.com/bulkhead-dev/bulkhead/api/abm/v1alpha1"
	"github.com/bulkhead-dev/bulkhead/internal/tenancy"
)

// manifests applies objects and waits until they are ready.
type manifests struct{}

func (manifests) Name() string { return "manifests" }

func (manifests) Is(spec *abmv1alpha1.Step) bool { return spec.Manifests != nil }

// manifestsAction is a compiled step of objects.
type manifestsAction struct {
	objects []compiledManifest
}

type compiledManifest struct {
	id        string
	when      *expression.Expression
	template  *expression.Template
	readyWhen *expression.Expression
}

func (manifests) Compile(spec *abmv1alpha1.Step, scope *Scope) Action {
	action := &manifestsAction{}
	seen := map[string]*apiservercel.DeclType{}
	for i, manifest := range spec.Manifests.Objects {
		path := scope.Path.Child("objects").Index(i)
		compiled := compiledManifest{id: manifest.ID, template: compileObject(manifest.Template.Raw, path.Child("template"), scope)}
		if manifest.When != "" {
			var err error
			if compiled.when, err = scope.Environment.CompileBool(manifest.When); err != nil {
				scope.invalid(path.Child("when"), manifest.When, err)
			}
		}
		if manifest.ReadyWhen != "" {
			compiled.readyWhen = compileSelf(manifest.ReadyWhen, path.Child("readyWhen"), scope)
		}
		seen[manifest.ID] = expression.Any
		action.objects = append(action.objects, compiled)
	}
	scope.Outputs = append(scope.Outputs, expression.Variable{Name: "objects", Type: expression.Object("objects", seen)})
	return action
}

// compileSelf compiles an expression that sees an object as self.
func compileSelf(text string, path *field.Path, scope *Scope) *expression.Expression {
	env, err := scope.Environment.With(expression.Variable{Name: "self", Type: expression.Any})
	if err != nil {
		scope.invalid(path, text, err)
		return nil
	}
	compiled, err := env.CompileBool(text)
	if err != nil {
		scope.invalid(path, text, err)
	}
	return compiled
}

// compileObject compiles an object's template. What and where the object is stands
// in plain text, so that it is known now whether the definition opens it.
func compileObject(raw []byte, path *field.Path, scope *Scope) *expression.Template {
	var content map[string]any
	if err := utiljson.Unmarshal(raw, &content); err != nil {
		scope.invalid(path, "", fmt.Errorf("is no object: %w", err))
		return nil
	}
	apiVersion, _, _ := unstructured.NestedString(content, "apiVersion")
	kind, _, _ := unstructured.NestedString(content, "kind")
	checkKind(apiVersion, kind, path, scope)
	namespace, _, err := unstructured.NestedString(content, "metadata", "namespace")
	if err != nil {
		scope.invalid(path.Child("metadata", "namespace"), "", err)
	}
	checkNamespace(namespace, path.Child("metadata", "namespace"), scope)
	if name, found, err := unstructured.NestedString(content, "metadata", "name"); err != nil || !found || name == "" {
		scope.Problems = append(scope.Problems, field.Required(path.Child("metadata", "name"), "an object needs a name"))
	}
	metadata, _, _ := unstructured.NestedMap(content, "metadata")
	for key := range metadata {
		if !slices.Contains([]string{"name", "namespace", "labels", "annotations"}, key) {
			scope.Problems = append(scope.Problems, field.Forbidden(path.Child("metadata", key), "is not a definition's to set"))
		}
	}
	for _, marks := range []string{"labels", "annotations"} {
		if _, computed := metadata[marks].(string); computed {
			continue // Plan looks at what comes out
		}
		keys, _, err := unstructured.NestedMap(content, "metadata", marks)
		if err != nil {
			scope.invalid(path.Child("metadata", marks), "", err)
		}
		for key := range keys {
			if tenancy.Reserved(key) {
				scope.Problems = append(scope.Problems, field.Forbidden(path.Child("metadata", marks).Key(key), "is Bulkhead's own"))
			}
		}
	}
	if _, found := content["status"]; found {
		scope.Problems = append(scope.Problems, field.Forbidden(path.Child("status"), "is not a definition's to set"))
	}
	template, problems := scope.Environment.Parse(content, path)
	scope.Problems = append(scope.Problems, problems...)
	return template
}

func checkKind(apiVersion, kind string, path *field.Path, scope *Scope) {
	if strings.Contains(apiVersion, "${") || strings.Contains(kind, "${") {
		scope.Problems = append(scope.Problems, field.Forbidden(path, "apiVersion and kind are plain text, they cannot be computed"))
		return
	}
	group, err := schema.ParseGroupVersion(apiVersion)
	if err != nil || group.Version == "" {
		scope.Problems = append(scope.Problems, field.Invalid(path.Child("apiVersion"), apiVersion, "is no API version"))
		return
	}
	if kind == "" {
		scope.Problems = append(scope.Problems, field.Required(path.Child("kind"), "an object needs a kind"))
		return
	}
	if !scope.Allowed[abmv1alpha1.Kind{Group: group.Group, Kind: kind}] {
		where := "access.super"
		if scope.Virtual {
			where = "access.tenant"
		}
		scope.Problems = append(scope.Problems, field.Forbidden(path, fmt.Sprintf("kind %s of group %q is not among the kinds that spec.%s opens", kind, group.Group, where)))
	}
}

func checkNamespace(namespace string, path *field.Path, scope *Scope) {
	switch {
	case strings.Contains(namespace, "${"):
		scope.Problems = append(scope.Problems, field.Forbidden(path, "the namespace is plain text, it cannot be computed"))
	case namespace != "" && !scope.Virtual:
		scope.Problems = append(scope.Problems, field.Forbidden(path, "in the super cluster objects are in the instance's own namespace"))
	}
}

// rendered is an object that a plan wants.
type rendered struct {
	ID        string                     `json:"id"`
	Object    *unstructured.Unstructured `json:"object"`
	readyWhen *expression.Expression
}

func (a *manifestsAction) Plan(ctx context.Context, values expression.Values) (*Plan, error) {
	var wanted []rendered
	for _, m := range a.objects {
		if m.when != nil {
			if take, err := m.when.True(ctx, values); err != nil {
				return nil, fmt.Errorf("object %s: %w", m.id, err)
			} else if !take {
				continue
			}
		}
		content, err := m.template.Render(ctx, values)
		if err != nil {
			return nil, fmt.Errorf("object %s: %w", m.id, err)
		}
		object := &unstructured.Unstructured{Object: content.(map[string]any)}
		if err := checkRendered(object); err != nil {
			return nil, fmt.Errorf("object %s: %w", m.id, err)
		}
		wanted = append(wanted, rendered{ID: m.id, Object: object, readyWhen: m.readyWhen})
	}
	return &Plan{
		Input: wanted, Lasting: true,
		Intend: func(record *abmv1alpha1.StepRecord) {
			for _, w := range wanted {
				intend(record, w.Object)
			}
		},
		Do: func(ctx context.Context, run *Run) (Progress, error) { return apply(ctx, run, wanted, values) },
	}, nil
}

// checkRendered looks at what could not be known when the template was compiled.
func checkRendered(object *unstructured.Unstructured) error {
	if name, found, err := unstructured.NestedString(object.Object, "metadata", "name"); err != nil || !found || name == "" {
		return errors.New("its name is not a text, or empty")
	}
	for _, marks := range []string{"labels", "annotations"} {
		values, _, err := unstructured.NestedStringMap(object.Object, "metadata", marks)
		if err != nil {
			return fmt.Errorf("its %s are no texts: %w", marks, err)
		}
		for key := range values {
			if tenancy.Reserved(key) {
				return fmt.Errorf("%s among its %s is Bulkhead's own", key, marks)
			}
		}
	}
	return nil
}

// apply brings all objects about, and then looks whether they are ready. A failure
// of one keeps it from none of the others.
func apply(ctx context.Context, run *Run, wanted []rendered, values expression.Values) (Progress, error) {
	var problems []error
	for _, w := range wanted {
		// One object in a place that is not allowed keeps all of them from being written.
		if _, err := placed(run, w.Object); err != nil {
			return Progress{}, err
		}
	}
	stored := make([]*unstructured.Unstructured, len(wanted))
	for i, w := range wanted {
		var err error
		if stored[i], err = applyObject(ctx, run, w.Object); err != nil {
			problems = append(problems, err)
		}
	}
	if err := errors.Join(problems...); err != nil {
		return Progress{}, err
	}
	if gone, err := prune(ctx, run, wanted); err != nil || !gone {
		return Progress{Message: "objects that are not wanted any more are being deleted"}, err
	}
	var waiting []string
	objects := map[string]any{}
	for i, w := range wanted {
		visible := withoutSecrets(stored[i])
		objects[w.ID] = visible
		ready, why, err := readiness(ctx, w.readyWhen, stored[i], visible, values)
		if err != nil {
			return Progress{}, err
		}
		if !ready {
			waiting = append(waiting, fmt.Sprintf("%s %s: %s", w.Object.GetKind(), w.Object.GetName(), why))
		}
	}
	return Progress{Done: len(waiting) == 0, Message: strings.Join(waiting, "; "), Seen: expression.Values{"objects": objects}}, nil
}

// withoutSecrets is what expressions see of an object: of a Secret, not its content,
// which would otherwise find its way into outputs and status.
func withoutSecrets(object *unstructured.Unstructured) map[string]any {
	visible := object.DeepCopy().Object
	if object.GetKind() == "Secret" {
		delete(visible, "data")
		delete(visible, "stringData")
	}
	unstructured.RemoveNestedField(visible, "metadata", "managedFields")
	if annotations := object.GetAnnotations(); annotations["kubectl.kubernetes.io/last-applied-configuration"] != "" {
		unstructured.RemoveNestedField(visible, "metadata", "annotations", "kubectl.kubernetes.io/last-applied-configuration")
	}
	return visible
}

// prune deletes what an earlier revision or other parameters wanted, once all that
// is wanted now is there. It tells whether that is gone.
func prune(ctx context.Context, run *Run, wanted []rendered) (bool, error) {
	gone := true
	var kept []abmv1alpha1.ObjectRecord
	for _, recorded := range run.Record.Objects {
		if slices.ContainsFunc(wanted, func(w rendered) bool { return sameObject(recorded, w.Object) }) {
			kept = append(kept, recorded)
			continue
		}
		absent, _, err := deleteObject(ctx, run, recorded)
		if err != nil {
			return false, err
		}
		if !absent {
			gone = false
			kept = append(kept, recorded)
		}
	}
	run.Record.Objects = kept
	return gone, nil
}

func (manifests) Undo(ctx context.Context, run *Run) (Progress, error) {
	return undoObjects(ctx, run)
}

// undoObjects deletes all objects of the record, the last first, and waits until
// they are gone.
func undoObjects(ctx context.Context, run *Run) (Progress, error) {
	var problems []error
	var waiting []string
	for _, recorded := range slices.Backward(run.Record.Objects) {
		absent, why, err := deleteObject(ctx, run, recorded)
		switch {
		case apierrors.IsNotFound(err):
		case err != nil:
			problems = append(problems, err)
		case !absent:
			waiting = append(waiting, why)
		}
	}
	if err := errors.Join(problems...); err != nil {
		return Progress{}, err
	}
	return Progress{Done: len(waiting) == 0, Message: strings.Join(waiting, "; ")}, nil
}
