// Package service compiles what a ServiceDefinition says: its schemas, its steps in
// the order in which they are done, and every expression in it. What compiles can be
// carried out; what is wrong is told with its place.
package service

import (
	"context"
	"fmt"
	"slices"

	"k8s.io/apimachinery/pkg/runtime"
	utiljson "k8s.io/apimachinery/pkg/util/json"
	"k8s.io/apimachinery/pkg/util/validation/field"
	apiservercel "k8s.io/apiserver/pkg/cel"

	"github.com/bulkhead-dev/bulkhead/abm/expression"
	"github.com/bulkhead-dev/bulkhead/abm/schema"
	"github.com/bulkhead-dev/bulkhead/abm/step"
	abmv1alpha1 "github.com/bulkhead-dev/bulkhead/api/abm/v1alpha1"
)

// Service is a compiled definition.
type Service struct {
	Spec *abmv1alpha1.ServiceSpec
	// Steps are in an order in which each comes after what it needs.
	Steps []*Step
	// Outputs are the instance's.
	Outputs []Output

	parameters *schema.Schema
	planSchema *schema.Schema
	plans      map[string]map[string]any
}

// Step is a compiled step.
type Step struct {
	Spec   *abmv1alpha1.Step
	Type   step.Type
	Action step.Action
	// Needs are the steps that must be done before, without those that they need.
	Needs []string
	// Order is the length of the longest chain of steps before this one.
	Order int32
	// When is nil for always.
	When    *expression.Expression
	Outputs []Output
}

// Output is a compiled output: a value, or a reference.
type Output struct {
	Name   string
	Value  *expression.Text
	Secret *abmv1alpha1.SecretKey
	name   *expression.Text
}

// Compile compiles a definition's content. Problems tell their place below path.
func Compile(ctx context.Context, spec *abmv1alpha1.ServiceSpec, path *field.Path) (*Service, field.ErrorList) {
	s := &Service{Spec: spec, plans: map[string]map[string]any{}}
	var problems, wrong field.ErrorList
	s.parameters, problems = schema.Compile(ctx, spec.ParameterSchema, path.Child("parameterSchema"))
	s.planSchema, wrong = schema.Compile(ctx, spec.PlanSchema, path.Child("planSchema"))
	problems = append(problems, wrong...)
	ordered, wrong := order(spec, path.Child("steps"))
	problems = append(problems, wrong...)
	if len(problems) > 0 {
		// What comes is checked against these.
		return nil, problems
	}
	for i, plan := range spec.Plans {
		values, wrong := s.planSchema.Check(ctx, plan.Values, nil, path.Child("plans").Index(i).Child("values"))
		problems = append(problems, wrong...)
		s.plans[plan.Name] = values
	}
	variables, err := s.variables()
	if err != nil {
		return nil, append(problems, field.Invalid(path.Child("parameterSchema"), "", err.Error()))
	}
	shown := map[string]*apiservercel.DeclType{}
	for i := range ordered {
		shown[ordered[i].Spec.Name] = outputsType(ordered[i].Spec)
	}
	for _, compiling := range ordered {
		at := path.Child("steps").Index(indexOf(spec.Steps, compiling.Spec.Name))
		visible := map[string]*apiservercel.DeclType{}
		for name := range before(ordered, compiling) {
			visible[name] = shown[name]
		}
		env, err := expression.NewEnvironment(append(variables, expression.Variable{Name: "steps", Type: expression.Object("steps", visible)})...)
		if err != nil {
			return nil, append(problems, field.Invalid(at, compiling.Spec.Name, err.Error()))
		}
		problems = append(problems, compiling.compile(spec, env, at)...)
	}
	s.Steps = ordered
	env, err := expression.NewEnvironment(append(variables, expression.Variable{Name: "steps", Type: expression.Object("steps", shown)})...)
	if err != nil {
		return nil, append(problems, field.Invalid(path.Child("outputs"), "", err.Error()))
	}
	s.Outputs, wrong = compileOutputs(spec.Outputs, env, path.Child("outputs"))
	if problems = append(problems, wrong...); len(problems) > 0 {
		return nil, problems
	}
	return s, nil
}

// Decode reads a revision's content and compiles it.
func Decode(ctx context.Context, revision *abmv1alpha1.ServiceRevision) (*Service, error) {
	spec := &abmv1alpha1.ServiceSpec{}
	if err := utiljson.Unmarshal(revision.Spec.Raw, spec); err != nil {
		return nil, fmt.Errorf("reading ServiceRevision %s: %w", revision.Name, err)
	}
	compiled, problems := Compile(ctx, spec, field.NewPath("spec"))
	if len(problems) > 0 {
		return nil, fmt.Errorf("ServiceRevision %s cannot be carried out: %w", revision.Name, problems.ToAggregate())
	}
	return compiled, nil
}

// variables are what all expressions see.
func (s *Service) variables() ([]expression.Variable, error) {
	parameters, err := s.parameters.Type("parameters")
	if err != nil {
		return nil, err
	}
	plan, err := s.planSchema.Type("plan")
	if err != nil {
		return nil, err
	}
	return []expression.Variable{
		{Name: "params", Type: parameters}, {Name: "plan", Type: plan},
		{Name: "instance", Type: expression.Object("instance", map[string]*apiservercel.DeclType{
			"name": apiservercel.StringType, "namespace": apiservercel.StringType, "uid": apiservercel.StringType,
			"service": apiservercel.StringType, "plan": apiservercel.StringType, "suspended": apiservercel.BoolType,
		})},
	}, nil
}

// outputsType is what expressions see of a step: its declared outputs, of types that
// are known when it is done.
func outputsType(spec *abmv1alpha1.Step) *apiservercel.DeclType {
	fields := map[string]*apiservercel.DeclType{}
	for _, output := range spec.Outputs {
		if output.Secret == nil {
			fields[output.Name] = expression.Any
		}
	}
	// Names of types may have no dash.
	name := fmt.Sprintf("step_%x", spec.Name)
	return expression.Object(name, map[string]*apiservercel.DeclType{"outputs": expression.Object(name+".outputs", fields)})
}

func (s *Step) compile(spec *abmv1alpha1.ServiceSpec, env *expression.Environment, path *field.Path) field.ErrorList {
	var problems field.ErrorList
	stepType, known := step.TypeOf(s.Spec)
	if !known {
		return field.ErrorList{field.Required(path, "the step has no type that ABM knows")}
	}
	s.Type = stepType
	if s.Spec.When != "" {
		var err error
		if s.When, err = env.CompileBool(s.Spec.When); err != nil {
			problems = append(problems, field.Invalid(path.Child("when"), s.Spec.When, err.Error()))
		}
	}
	scope := &step.Scope{
		Path: path.Child(stepType.Name()), Environment: env, Hosts: spec.Access.Hosts,
		Virtual: s.Spec.Target != nil, Allowed: map[abmv1alpha1.Kind]bool{},
	}
	kinds := spec.Access.Super
	if scope.Virtual {
		kinds = spec.Access.Tenant
	}
	for _, kind := range kinds {
		scope.Allowed[kind] = true
	}
	s.Action = stepType.Compile(s.Spec, scope)
	problems = append(problems, scope.Problems...)
	after, err := env.With(scope.Outputs...)
	if err != nil {
		return append(problems, field.Invalid(path.Child("outputs"), "", err.Error()))
	}
	var wrong field.ErrorList
	s.Outputs, wrong = compileOutputs(s.Spec.Outputs, after, path.Child("outputs"))
	return append(problems, wrong...)
}

func compileOutputs(specs []abmv1alpha1.Output, env *expression.Environment, path *field.Path) ([]Output, field.ErrorList) {
	var problems field.ErrorList
	var outputs []Output
	for i, spec := range specs {
		output, text, at := Output{Name: spec.Name, Secret: spec.Secret}, spec.Value, path.Index(i).Child("value")
		if spec.Secret != nil {
			text, at = spec.Secret.Name, path.Index(i).Child("secret", "name")
		}
		parsed, err := env.ParseText(text)
		if err != nil {
			problems = append(problems, field.Invalid(at, text, err.Error()))
		}
		if spec.Secret != nil {
			output.name = parsed
		} else {
			output.Value = parsed
		}
		outputs = append(outputs, output)
	}
	return outputs, problems
}

// Reference renders an output that is a reference.
func (o *Output) Reference(ctx context.Context, values expression.Values, namespace, virtualCluster string) (*abmv1alpha1.SecretReference, error) {
	name, err := o.name.String(ctx, values)
	if err != nil {
		return nil, err
	}
	if virtualCluster != "" && o.Secret.Namespace != "" {
		namespace = o.Secret.Namespace
	}
	return &abmv1alpha1.SecretReference{VirtualCluster: virtualCluster, Namespace: namespace, Name: name, Key: o.Secret.Key}, nil
}

// Step finds a step.
func (s *Service) Step(name string) (*Step, bool) {
	i := slices.IndexFunc(s.Steps, func(each *Step) bool { return each.Spec.Name == name })
	if i < 0 {
		return nil, false
	}
	return s.Steps[i], true
}

// Check checks what a buyer asks for, and returns the parameters with defaults. old
// are the parameters before, for rules about changes; nil where there are none.
func (s *Service) Check(ctx context.Context, spec *abmv1alpha1.ServiceInstanceSpec, old *runtime.RawExtension, path *field.Path) (map[string]any, field.ErrorList) {
	var problems field.ErrorList
	if _, found := s.plans[spec.PlanName]; !found {
		problems = append(problems, field.NotSupported(path.Child("planName"), spec.PlanName, s.planNames()))
	}
	parameters, wrong := s.parameters.Check(ctx, spec.Parameters, old, path.Child("parameters"))
	return parameters, append(problems, wrong...)
}

func (s *Service) planNames() []string {
	names := make([]string, 0, len(s.Spec.Plans))
	for _, plan := range s.Spec.Plans {
		names = append(names, plan.Name)
	}
	return names
}

// Values are what an instance's expressions see before any step is done; parameters
// are what Check returned.
func (s *Service) Values(instance *abmv1alpha1.ServiceInstance, parameters map[string]any) expression.Values {
	return expression.Values{
		"params": s.parameters.Value(parameters),
		"plan":   s.planSchema.Value(s.plans[instance.Spec.PlanName]),
		"instance": map[string]any{
			"name": instance.Name, "namespace": instance.Namespace, "uid": string(instance.UID),
			"service": instance.Spec.ServiceName, "plan": instance.Spec.PlanName,
			"suspended": instance.Spec.State == abmv1alpha1.StateSuspended,
		},
		"steps": map[string]any{},
	}
}
