package expression

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/google/cel-go/cel"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// Template is JSON whose strings may hold expressions. A string that is one
// expression as a whole becomes its value, of whatever type, or goes, with its key,
// where that is an absent optional. In any other string expressions become part of
// the text, which stays one string. Keys are plain.
type Template struct{ root node }

// node is one value of a template.
type node interface {
	render(ctx context.Context, values Values) (any, error)
}

// Parse compiles a template; errors tell the place of each mistake below path.
func (e *Environment) Parse(value any, path *field.Path) (*Template, field.ErrorList) {
	root, problems := e.parse(value, path, 0)
	if len(problems) > 0 {
		return nil, problems
	}
	return &Template{root: root}, nil
}

// Render makes the value. What it returns shares nothing with the template.
func (t *Template) Render(ctx context.Context, values Values) (any, error) {
	return t.root.render(ctx, values)
}

func (e *Environment) parse(value any, path *field.Path, depth int) (node, field.ErrorList) {
	if depth > maxDepth {
		return nil, field.ErrorList{field.Invalid(path, "...", "nested too deep")}
	}
	var problems field.ErrorList
	switch v := value.(type) {
	case map[string]any:
		result := object{}
		for key, child := range v {
			if strings.Contains(key, "${") {
				problems = append(problems, field.Invalid(path.Child(key), key, "keys cannot be computed"))
				continue
			}
			parsed, wrong := e.parse(child, path.Child(key), depth+1)
			problems = append(problems, wrong...)
			result.fields = append(result.fields, member{key: key, value: parsed})
		}
		slices.SortFunc(result.fields, func(a, b member) int { return strings.Compare(a.key, b.key) })
		return result, problems
	case []any:
		result := make(list, 0, len(v))
		for i, child := range v {
			parsed, wrong := e.parse(child, path.Index(i), depth+1)
			problems = append(problems, wrong...)
			result = append(result, parsed)
		}
		return result, problems
	case string:
		text, err := e.ParseText(v)
		if err != nil {
			return nil, field.ErrorList{field.Invalid(path, v, err.Error())}
		}
		return text, nil
	case nil, bool, int64, float64:
		return constant{v}, nil
	default:
		return nil, field.ErrorList{field.Invalid(path, fmt.Sprintf("%T", value), "is no JSON")}
	}
}

type constant struct{ value any }

func (c constant) render(context.Context, Values) (any, error) { return c.value, nil }

type member struct {
	key   string
	value node
}

type object struct{ fields []member }

func (o object) render(ctx context.Context, values Values) (any, error) {
	result := make(map[string]any, len(o.fields))
	for _, f := range o.fields {
		value, err := f.value.render(ctx, values)
		if errors.Is(err, errAbsent) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", f.key, err)
		}
		result[f.key] = value
	}
	return result, nil
}

type list []node

func (l list) render(ctx context.Context, values Values) (any, error) {
	result := make([]any, 0, len(l))
	for i, item := range l {
		value, err := item.render(ctx, values)
		if errors.Is(err, errAbsent) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("[%d]: %w", i, err)
		}
		result = append(result, value)
	}
	return result, nil
}

// Text is a string with expressions in it.
type Text struct{ parts []part }

// part is an expression or, where it has none, plain text.
type part struct {
	plain      string
	expression *Expression
}

// ParseText compiles a string with expressions in it. "$${" stands for a plain "${".
func (e *Environment) ParseText(text string) (*Text, error) {
	result := &Text{}
	var plain strings.Builder
	for rest := text; rest != ""; {
		at := strings.Index(rest, "${")
		if at < 0 {
			plain.WriteString(rest)
			break
		}
		if at > 0 && rest[at-1] == '$' {
			plain.WriteString(rest[:at-1] + "${")
			rest = rest[at+2:]
			continue
		}
		plain.WriteString(rest[:at])
		length := expressionLength(rest[at+2:])
		if length < 0 {
			return nil, fmt.Errorf("%q: ${ without its }", text)
		}
		compiled, err := e.Compile(rest[at+2 : at+2+length])
		if err != nil {
			return nil, err
		}
		result.addPlain(&plain)
		result.parts = append(result.parts, part{expression: compiled})
		rest = rest[at+2+length+1:]
	}
	result.addPlain(&plain)
	if len(result.parts) > 1 {
		for _, p := range result.parts {
			if p.expression != nil && !fitsText(p.expression.kind) {
				return nil, fmt.Errorf("%q is %s, which cannot be part of a text", p.expression.text, p.expression.kind)
			}
		}
	}
	return result, nil
}

func fitsText(kind *cel.Type) bool {
	return slices.ContainsFunc([]*cel.Type{cel.StringType, cel.IntType, cel.UintType, cel.DoubleType, cel.BoolType, cel.DynType}, kind.IsExactType)
}

func (t *Text) addPlain(plain *strings.Builder) {
	if plain.Len() > 0 {
		t.parts = append(t.parts, part{plain: plain.String()})
		plain.Reset()
	}
}

// Plain tells whether there is no expression in the text.
func (t *Text) Plain() bool {
	return len(t.parts) == 0 || len(t.parts) == 1 && t.parts[0].expression == nil
}

// PlainPrefix is the text before the first expression.
func (t *Text) PlainPrefix() string {
	if len(t.parts) == 0 {
		return ""
	}
	return t.parts[0].plain
}

func (t *Text) render(ctx context.Context, values Values) (any, error) {
	if len(t.parts) == 1 && t.parts[0].expression != nil {
		return t.parts[0].expression.Eval(ctx, values)
	}
	return t.String(ctx, values)
}

// String makes the text, also where it is a single expression. An absent optional is
// the empty string.
func (t *Text) String(ctx context.Context, values Values) (string, error) {
	var text strings.Builder
	for _, p := range t.parts {
		if p.expression == nil {
			text.WriteString(p.plain)
			continue
		}
		value, err := p.expression.Eval(ctx, values)
		if errors.Is(err, errAbsent) {
			continue
		}
		if err != nil {
			return "", err
		}
		switch v := value.(type) {
		case string:
			text.WriteString(v)
		case int64:
			text.WriteString(strconv.FormatInt(v, 10))
		case float64:
			text.WriteString(strconv.FormatFloat(v, 'g', -1, 64))
		case bool:
			text.WriteString(strconv.FormatBool(v))
		default:
			return "", fmt.Errorf("evaluating %q: a %T cannot be part of a text", p.expression.text, value)
		}
	}
	return text.String(), nil
}

// expressionLength finds the } that ends an expression: one that is in no string
// literal and has no { before it. It is -1 where there is none.
func expressionLength(text string) int {
	depth := 0
	for i := 0; i < len(text); i++ {
		switch c := text[i]; c {
		case '{':
			depth++
		case '}':
			if depth == 0 {
				return i
			}
			depth--
		case '"', '\'':
			raw := i > 0 && (text[i-1] == 'r' || text[i-1] == 'R')
			for i++; i < len(text) && text[i] != c; i++ {
				if text[i] == '\\' && !raw {
					i++
				}
			}
		}
	}
	return -1
}
