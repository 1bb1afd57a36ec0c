package expression

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/util/validation/field"
	apiservercel "k8s.io/apiserver/pkg/cel"
)

func testEnvironment(t testing.TB) *Environment {
	t.Helper()
	env, err := NewEnvironment(
		Variable{Name: "known", Type: Object("known", map[string]*apiservercel.DeclType{"name": apiservercel.StringType, "size": apiservercel.IntType, "dash-ed": apiservercel.StringType})},
		Variable{Name: "any", Type: Any},
	)
	if err != nil {
		t.Fatal(err)
	}
	return env
}

var values = Values{
	"known": map[string]any{"name": "acme", "size": int64(3)},
	"any":   map[string]any{"list": []any{int64(1), "two", nil}, "map": map[string]any{"a": 1.5}, "yes": true, "text": "${known.name}"},
}

func TestText(t *testing.T) {
	env := testEnvironment(t)
	for text, want := range map[string]any{
		"plain":                                "plain",
		"":                                     "",
		"$${known.name}":                       "${known.name}",
		"a $${b} ${known.name}":                "a ${b} acme",
		"$5 and $":                             "$5 and $",
		"${known.size}":                        int64(3),
		"${known.size}${known.size}":           "33",
		" ${known.size}":                       " 3",
		"${any.list}":                          []any{int64(1), "two", nil},
		"${any.map}":                           map[string]any{"a": 1.5},
		"${any.yes}":                           true,
		"${any.text}":                          "${known.name}",
		"x${any.text}":                         "x${known.name}",
		`${"}" + known.name + '}{'}`:           "}acme}{",
		`${{"a": {"b": known.size}}}`:          map[string]any{"a": map[string]any{"b": int64(3)}},
		`${r"\" + "x"}`:                        `\x`,
		`${"\"}"}`:                             `"}`,
		"${b'abc'}":                            "YWJj",
		"${duration('90s')}":                   "1m30s",
		"${timestamp('2026-01-02T03:04:05Z')}": "2026-01-02T03:04:05Z",
		"${[1, 2].map(x, x * known.size)}":     []any{int64(3), int64(6)},
		"${null}":                              nil,
	} {
		template, problems := env.Parse(text, nil)
		if len(problems) > 0 {
			t.Errorf("%q: %v", text, problems.ToAggregate())
			continue
		}
		got, err := template.Render(t.Context(), values)
		if err != nil {
			t.Errorf("%q: %v", text, err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%q: %s", text, diff)
		}
	}
}

func TestAbsentOptionalsGo(t *testing.T) {
	env := testEnvironment(t)
	template, problems := env.Parse(map[string]any{
		"absent": "${any.?nope}", "present": "${any.?yes}",
		"list": []any{"${any.?nope}", "kept"},
	}, nil)
	if len(problems) > 0 {
		t.Fatal(problems.ToAggregate())
	}
	got, err := template.Render(t.Context(), values)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]any{"present": true, "list": []any{"kept"}}
	if diff := cmp.Diff(any(want), got); diff != "" {
		t.Error(diff)
	}
}

func TestRefused(t *testing.T) {
	env := testEnvironment(t)
	deep := any("x")
	for range maxDepth + 2 {
		deep = []any{deep}
	}
	for name, tc := range map[string]struct {
		value any
		says  string
	}{
		"unknown variable": {"${nope}", "undeclared reference"},
		"unknown field":    {"${known.nope}", "undefined field"},
		"syntax":           {"${known.}", "Syntax error"},
		"empty":            {"${}", "Syntax error"},
		"endless":          {"${known.name", "without its }"},
		"endless string":   {"${'known.name}", "without its }"},
		"wrong types":      {"${known.name + known.size}", "no matching overload"},
		"list in a text":   {"x${[1]}", "cannot be part of a text"},
		"maybe in a text":  {"x${any.?nope}", "cannot be part of a text"},
		"too long":         {"${'" + strings.Repeat("x", maxLength) + "'}", "are allowed"},
		"too deep":         {deep, "too deep"},
		"computed key":     {map[string]any{"${known.name}": 1.0}, "keys cannot be computed"},
	} {
		_, problems := env.Parse(tc.value, field.NewPath("at"))
		if len(problems) == 0 || !strings.Contains(problems.ToAggregate().Error(), tc.says) {
			t.Errorf("%s: %v, want %q", name, problems.ToAggregate(), tc.says)
		}
	}
}

func TestFailures(t *testing.T) {
	env := testEnvironment(t)
	for text, says := range map[string]string{
		"${any.nope}":             "no such key",
		"${any.list[7]}":          "index out of bounds",
		"x${any.map}":             "cannot be part of a text",
		"${quantity('1Gi')}":      "make a string of it",
		"${1 / (known.size - 3)}": "division by zero",
		"${double('NaN')}":        "no number of JSON",
		"${{1: 'a'}}":             "must be a string",
		"${any.list.map(a, any.list.map(b, any.list.map(c, any.list.map(d, any.list.map(e, any.list.map(f, any.list.map(g, any.list.map(h, any.list.map(i, any.list.map(j, any.list.map(k, any.list.map(l, any.list.map(m, any.list.map(n, 1))))))))))))))}": "cost",
	} {
		template, problems := env.Parse(text, nil)
		if len(problems) > 0 {
			t.Errorf("%q: %v", text, problems.ToAggregate())
			continue
		}
		if _, err := template.Render(t.Context(), values); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%q: %v, want %q", text, err, says)
		}
	}
}

// Whatever an author writes compiles or is refused, and what is made of it is JSON
// that the next process reads the same.
func FuzzTemplate(f *testing.F) {
	for _, seed := range []string{"${known.name}", "a$${b}${any.list}", `${"}"}`, "${{'a': [known.size]}}", "${any.?x}", "${'\\", "${r'\\'}", "$$${known.size}"} {
		f.Add(seed)
	}
	env := testEnvironment(f)
	f.Fuzz(func(t *testing.T, text string) {
		template, problems := env.Parse(map[string]any{"x": text}, nil)
		if len(problems) > 0 {
			return
		}
		got, err := template.Render(t.Context(), values)
		if err != nil {
			return
		}
		if _, err := json.Marshal(got); err != nil {
			t.Errorf("%q renders what is no JSON: %v", text, err)
		}
		if !strings.Contains(text, "${") {
			if diff := cmp.Diff(any(map[string]any{"x": text}), got); diff != "" {
				t.Errorf("plain text changed: %s", diff)
			}
		}
	})
}

// A value that has expressions in it is never evaluated.
func FuzzValue(f *testing.F) {
	f.Add("${known.name}")
	f.Add("$${")
	env := testEnvironment(f)
	template, problems := env.Parse(map[string]any{"whole": "${any.v}", "part": "<${any.v}>"}, nil)
	if len(problems) > 0 {
		f.Fatal(problems.ToAggregate())
	}
	f.Fuzz(func(t *testing.T, text string) {
		got, err := template.Render(t.Context(), Values{"known": values["known"], "any": map[string]any{"v": text}})
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(any(map[string]any{"whole": text, "part": "<" + text + ">"}), got); diff != "" {
			t.Error(diff)
		}
	})
}
