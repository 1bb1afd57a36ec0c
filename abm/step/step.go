// Package step holds the types of steps that service definitions are made of. A type
// says three things: what is wrong with a step of it, what a step is about to do, and
// how that is taken back from its record alone. When steps run, in which order and
// how often they are tried is package engine's; that they are recorded first, too.
package step

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/bulkhead-dev/bulkhead/abm/cluster"
	"github.com/bulkhead-dev/bulkhead/abm/expression"
	abmv1alpha1 "github.com/bulkhead-dev/bulkhead/api/abm/v1alpha1"
)

// Type is one type of step.
type Type interface {
	// Name is the type's field in a step.
	Name() string
	// Is tells whether the step is of this type.
	Is(spec *abmv1alpha1.Step) bool
	// Compile checks what the step says. It adds mistakes to the scope.
	Compile(spec *abmv1alpha1.Step, scope *Scope) Action
	// Undo takes back what the record says, one look at a time: it may be called
	// again and again, also where nothing was done. It reads nothing but the record.
	Undo(ctx context.Context, run *Run) (Progress, error)
}

// Action is a compiled step.
type Action interface {
	// Plan renders what the step shall do, and touches nothing.
	Plan(ctx context.Context, values expression.Values) (*Plan, error)
}

// Plan is what a step shall do.
type Plan struct {
	// Input is all that the doing depends on. Where it changes, the step is done anew.
	Input any
	// Intend writes into the record what the step is about to do, before it does.
	Intend func(*abmv1alpha1.StepRecord)
	// Do does it, one look at a time, until it is done. It may be called again and
	// again, also by a process that knows nothing of earlier calls.
	Do func(ctx context.Context, run *Run) (Progress, error)
	// Lasting steps are looked at again when they are done, and done again where
	// somebody changed what they made.
	Lasting bool
}

// Hash of a plan's input.
func (p *Plan) Hash() (string, error) {
	data, err := json.Marshal(p.Input)
	if err != nil {
		return "", fmt.Errorf("encoding the input of a step: %w", err)
	}
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:16]), nil
}

// Progress is what one look at a step found.
type Progress struct {
	Done bool
	// Message says what the step waits for.
	Message string
	// Seen are variables for the step's outputs: the objects that it made.
	Seen expression.Values
	// Note is something to tell people, once.
	Note string
}

// Owner is whose steps run.
type Owner struct {
	Namespace string
	Name      string
	UID       types.UID
	Service   string
}

// Run is the surroundings of a step while it runs.
type Run struct {
	Owner Owner
	// Record is the step's own. What is written to it is stored when the call returns,
	// also with an error.
	Record *abmv1alpha1.StepRecord
	// Cluster is the step's target.
	Cluster *cluster.Cluster
	// Super is the super cluster, for what is kept there.
	Super *cluster.Cluster
	// HTTP makes calls; the step brings its own trust.
	HTTP HTTP
}

// HTTP is how calls are made.
type HTTP struct {
	// Wrap is put around each transport; may be nil.
	Wrap func(http.RoundTripper) http.RoundTripper
	// AllowAddress refuses an address that a host name stands for, as
	// net.Dialer.Control does; nil allows all.
	AllowAddress func(address string) error
}

// Scope is what a step is compiled in.
type Scope struct {
	// Path is the place of the step's type field.
	Path *field.Path
	// Environment has the variables that the step may see.
	Environment *expression.Environment
	// Outputs gets the variables that the step's outputs may see beside those.
	Outputs []expression.Variable
	// Allowed are the kinds that may be touched in the step's target.
	Allowed map[abmv1alpha1.Kind]bool
	// Virtual tells whether the target is a virtual cluster.
	Virtual bool
	// Hosts may be called.
	Hosts []string
	// Problems collects mistakes.
	Problems field.ErrorList
}

func (s *Scope) invalid(path *field.Path, value any, err error) {
	s.Problems = append(s.Problems, field.Invalid(path, value, err.Error()))
}

func (s *Scope) text(value string, path *field.Path) *expression.Text {
	text, err := s.Environment.ParseText(value)
	if err != nil {
		s.invalid(path, value, err)
	}
	return text
}

// Types are all types of steps.
func Types() []Type { return []Type{manifests{}, wait{}, call{}, approval{}} }

// TypeOf finds the type of a step.
func TypeOf(spec *abmv1alpha1.Step) (Type, bool) {
	for _, t := range Types() {
		if t.Is(spec) {
			return t, true
		}
	}
	return nil, false
}

// TypeNamed finds the type of a record.
func TypeNamed(name string) (Type, bool) {
	for _, t := range Types() {
		if t.Name() == name {
			return t, true
		}
	}
	return nil, false
}

// secret reads a key of a Secret in the super cluster.
func secret(ctx context.Context, super *cluster.Cluster, ref *abmv1alpha1.SecretReference) ([]byte, error) {
	object := &corev1.Secret{}
	if err := super.Client.Get(ctx, client.ObjectKey{Namespace: super.Namespace, Name: ref.Name}, object); err != nil {
		if apierrors.IsForbidden(err) {
			return nil, fmt.Errorf("reading Secret %s: the definition's access.super does not open Secrets: %w", ref.Name, err)
		}
		return nil, fmt.Errorf("reading Secret %s: %w", ref.Name, err)
	}
	value, ok := object.Data[ref.Key]
	if !ok {
		return nil, fmt.Errorf("the Secret %s has no key %s", ref.Name, ref.Key)
	}
	return value, nil
}
