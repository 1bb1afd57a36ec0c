package schema

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

const text = `{"type": "object", "required": ["size"], "properties": {
	"size": {"type": "integer", "maximum": 9},
	"name": {"type": "string", "default": "x", "x-kubernetes-validations": [{"rule": "self == oldSelf", "message": "name cannot change"}]}}}`

func raw(s string) *runtime.RawExtension { return &runtime.RawExtension{Raw: []byte(s)} }

func compile(t testing.TB, s string) *Schema {
	t.Helper()
	compiled, problems := Compile(t.Context(), raw(s), field.NewPath("schema"))
	if len(problems) > 0 {
		t.Fatal(problems.ToAggregate())
	}
	return compiled
}

func TestDefaultsAndTransitions(t *testing.T) {
	s := compile(t, text)
	got, problems := s.Check(t.Context(), raw(`{"size": 1}`), nil, field.NewPath("p"))
	if diff := cmp.Diff(map[string]any{"size": int64(1), "name": "x"}, got); diff != "" || len(problems) > 0 {
		t.Errorf("%v %s", problems.ToAggregate(), diff)
	}
	for name, tc := range map[string]struct{ old, new, says string }{
		"unchanged":        {`{"size": 1, "name": "x"}`, `{"size": 2}`, ""},
		"changed":          {`{"size": 1, "name": "a"}`, `{"size": 1, "name": "b"}`, "name cannot change"},
		"default changed":  {`{"size": 1}`, `{"size": 1, "name": "b"}`, "name cannot change"},
		"old does not fit": {`{"size": 99, "name": "a"}`, `{"size": 1, "name": "b"}`, ""},
		"old is no object": {`7`, `{"size": 1}`, ""},
	} {
		_, problems := s.Check(t.Context(), raw(tc.new), raw(tc.old), field.NewPath("p"))
		if tc.says == "" && len(problems) > 0 || tc.says != "" && (len(problems) == 0 || !strings.Contains(problems.ToAggregate().Error(), tc.says)) {
			t.Errorf("%s: %v, want %q", name, problems.ToAggregate(), tc.says)
		}
	}
}

func TestNoSchemaTakesNothing(t *testing.T) {
	s, problems := Compile(t.Context(), nil, nil)
	if len(problems) > 0 {
		t.Fatal(problems.ToAggregate())
	}
	if _, problems := s.Check(t.Context(), nil, nil, field.NewPath("p")); len(problems) > 0 {
		t.Error(problems.ToAggregate())
	}
	if _, problems := s.Check(t.Context(), raw(`{"a": 1}`), nil, field.NewPath("p")); len(problems) != 1 || problems[0].Field != "p.a" {
		t.Error(problems.ToAggregate())
	}
}

// Whatever stands as a schema compiles or is refused, and one that compiles checks
// whatever stands as a value.
func FuzzSchema(f *testing.F) {
	f.Add(text, `{"size": 3}`)
	f.Add(`{"type": "object", "additionalProperties": {"type": "string"}}`, `{"a": "b"}`)
	f.Add(`{"type": "array"}`, `[]`)
	f.Add(`{"type": "object", "properties": {"a": {"x-kubernetes-int-or-string": true}}}`, `{"a": 1}`)
	f.Fuzz(func(t *testing.T, schema, value string) {
		s, problems := Compile(t.Context(), raw(schema), field.NewPath("schema"))
		if len(problems) > 0 {
			return
		}
		checked, problems := s.Check(t.Context(), raw(value), nil, field.NewPath("p"))
		if len(problems) == 0 {
			s.Value(checked)
		}
		if _, err := s.Type("t"); err != nil {
			return
		}
	})
}
