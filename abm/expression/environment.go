// Package expression compiles and evaluates what service definitions compute: CEL
// expressions, alone or as ${...} in the strings of a template. A value takes its
// place in a template as a value. It is never read as text again, so nothing that a
// buyer chooses can become a field, an object or another expression.
package expression

import (
	"context"
	"errors"
	"fmt"

	"github.com/google/cel-go/cel"
	"github.com/google/cel-go/common/types"
	"k8s.io/apimachinery/pkg/util/version"
	apiservercel "k8s.io/apiserver/pkg/cel"
	"k8s.io/apiserver/pkg/cel/environment"
)

// Bounds of what an author, and a value, can make ABM compute.
const (
	// maxLength is the length of an expression, in bytes.
	maxLength = 4096
	// maxCost is what one evaluation may cost, in the units of Kubernetes' CEL limits.
	maxCost = 1_000_000
	// interruptEvery is after how many iterations an evaluation looks at its context.
	interruptEvery = 100
)

// Variable is something that expressions see.
type Variable struct {
	Name string
	Type *apiservercel.DeclType
}

// Any is the type of what is known at run time only.
var Any = apiservercel.DynType

// Object makes the type of an object of which all fields are known.
func Object(name string, fields map[string]*apiservercel.DeclType) *apiservercel.DeclType {
	declared := make(map[string]*apiservercel.DeclField, len(fields))
	for field, fieldType := range fields {
		if escaped, ok := apiservercel.Escape(field); ok {
			declared[escaped] = apiservercel.NewDeclField(escaped, fieldType, false, nil, nil)
		}
	}
	return apiservercel.NewObjectType(name, declared)
}

// Environment is what expressions see and which functions they have: those of
// Kubernetes' own CEL.
type Environment struct {
	set *environment.EnvSet
	env *cel.Env
}

// base has Kubernetes' libraries as of the version that the platform runs.
var base = environment.MustBaseEnvSet(version.MajorMinor(1, 36))

// NewEnvironment makes an environment of the variables.
func NewEnvironment(variables ...Variable) (*Environment, error) {
	return extend(base, variables)
}

// With makes an environment that has more variables.
func (e *Environment) With(variables ...Variable) (*Environment, error) {
	return extend(e.set, variables)
}

func extend(set *environment.EnvSet, variables []Variable) (*Environment, error) {
	options := environment.VersionedOptions{IntroducedVersion: version.MajorMinor(1, 0)}
	for _, v := range variables {
		options.EnvOptions = append(options.EnvOptions, cel.Variable(v.Name, v.Type.CelType()))
		if v.Type.IsObject() {
			options.DeclTypes = append(options.DeclTypes, v.Type)
		}
	}
	extended, err := set.Extend(options)
	if err != nil {
		return nil, fmt.Errorf("declaring the variables of expressions: %w", err)
	}
	env, err := extended.Env(environment.StoredExpressions)
	if err != nil {
		return nil, fmt.Errorf("declaring the variables of expressions: %w", err)
	}
	return &Environment{set: extended, env: env}, nil
}

// Expression is a compiled expression.
type Expression struct {
	text    string
	kind    *cel.Type
	program cel.Program
}

// Compile compiles an expression.
func (e *Environment) Compile(text string) (*Expression, error) {
	if len(text) > maxLength {
		return nil, fmt.Errorf("the expression has %d bytes, %d are allowed", len(text), maxLength)
	}
	ast, issues := e.env.Compile(text)
	if issues.Err() != nil {
		return nil, fmt.Errorf("%q is no expression: %w", text, issues.Err())
	}
	program, err := e.env.Program(ast, cel.EvalOptions(cel.OptOptimize), cel.CostLimit(maxCost), cel.InterruptCheckFrequency(interruptEvery))
	if err != nil {
		return nil, fmt.Errorf("%q cannot be carried out: %w", text, err)
	}
	return &Expression{text: text, kind: ast.OutputType(), program: program}, nil
}

// CompileBool compiles an expression that has to be true or false.
func (e *Environment) CompileBool(text string) (*Expression, error) {
	compiled, err := e.Compile(text)
	if err != nil {
		return nil, err
	}
	if !compiled.kind.IsExactType(cel.BoolType) && !compiled.kind.IsExactType(cel.DynType) {
		return nil, fmt.Errorf("%q is %s, and must be true or false", text, compiled.kind)
	}
	return compiled, nil
}

// Values are what expressions see, by the names of the environment's variables.
type Values map[string]any

// errAbsent is the value of an optional that has none.
var errAbsent = errors.New("the value is absent")

// Eval evaluates the expression to a JSON value.
func (x *Expression) Eval(ctx context.Context, values Values) (any, error) {
	result, _, err := x.program.ContextEval(ctx, map[string]any(values))
	if err != nil {
		return nil, fmt.Errorf("evaluating %q: %w", x.text, err)
	}
	value, err := toJSON(result, 0)
	if err != nil {
		return nil, fmt.Errorf("evaluating %q: %w", x.text, err)
	}
	return value, nil
}

// True evaluates an expression that CompileBool made.
func (x *Expression) True(ctx context.Context, values Values) (bool, error) {
	result, _, err := x.program.ContextEval(ctx, map[string]any(values))
	if err != nil {
		return false, fmt.Errorf("evaluating %q: %w", x.text, err)
	}
	truth, ok := result.(types.Bool)
	if !ok {
		return false, fmt.Errorf("evaluating %q: the result is %s, and must be true or false", x.text, result.Type().TypeName())
	}
	return bool(truth), nil
}
