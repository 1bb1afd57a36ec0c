package translation

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
)

// Rule says what becomes of one field of a specification.
type Rule struct {
	verb   verb
	reason string
}

type verb int

const (
	verbPass verb = iota + 1
	verbHandle
	verbIgnore
	verbRefuse
)

// Pass copies the field, with all that is below it.
var Pass = Rule{verb: verbPass}

// Handled does not copy the field and reports nothing: other code of the
// translation reads it and decides.
var Handled = Rule{verb: verbHandle}

// IgnoreField does not copy the field and tells the tenant why.
func IgnoreField(reason string) Rule { return Rule{verb: verbIgnore, reason: reason} }

// RefuseField keeps the whole object from going down and tells the tenant why.
func RefuseField(reason string) Rule { return Rule{verb: verbRefuse, reason: reason} }

// unknownField is the reason given for a field that no rule names: one that a
// newer API has, and this code has not heard of.
const unknownField = "not known to this version of the platform"

// Fields maps the path of a field to its rule. A path is made of JSON names;
// elements of a list are written [], as in containers[].image.
type Fields map[string]Rule

// Under returns the fields with a prefix put before each path.
func (f Fields) Under(prefix string) Fields {
	out := make(Fields, len(f))
	for path, rule := range f {
		out[prefix+path] = rule
	}
	return out
}

// Join makes one table of several. It panics on a path that two of them have.
func Join(tables ...Fields) Fields {
	out := Fields{}
	for _, table := range tables {
		for path, rule := range table {
			if _, twice := out[path]; twice {
				panic("two rules for field " + path)
			}
			out[path] = rule
		}
	}
	return out
}

// AllowList copies the permitted fields of a T, and reports the others.
type AllowList[T any] struct {
	root   *node
	prefix string
}

// node is one path element: either it has a rule, or rules are below it.
type node struct {
	rule     *Rule
	children map[string]*node
}

// NewAllowList makes an allow-list of a table. prefix is put before the paths in
// findings, such as "spec.". It panics where a path is not one of T's: the table
// is part of the program.
func NewAllowList[T any](prefix string, fields Fields) *AllowList[T] {
	root := &node{children: map[string]*node{}}
	for path, rule := range fields {
		at := root
		for _, element := range elements(path) {
			if at.rule != nil {
				panic(fmt.Sprintf("field %s: there is a rule for a field above it", path))
			}
			if at.children[element] == nil {
				at.children[element] = &node{children: map[string]*node{}}
			}
			at = at.children[element]
		}
		if len(at.children) > 0 {
			panic(fmt.Sprintf("field %s: there are rules for fields below it", path))
		}
		at.rule = &rule
	}
	list := &AllowList[T]{root: root, prefix: prefix}
	if missing := list.checkPaths(); missing != "" {
		panic(fmt.Sprintf("%T has no field %s", *new(T), missing))
	}
	return list
}

// elements splits a path; the [] of a list is an element of its own.
func elements(path string) []string {
	return strings.Split(strings.ReplaceAll(path, "[]", ".[]"), ".")
}

// Copy returns the permitted fields of in, and a finding for every other field
// that is set. The result shares no memory that the caller may not change only if
// in is the caller's own: pass a deep copy.
func (l *AllowList[T]) Copy(in T) (T, []Finding) {
	var out T
	var findings []Finding
	copyStruct(l.root, reflect.ValueOf(&in).Elem(), reflect.ValueOf(&out).Elem(), l.prefix, &findings)
	return out, findings
}

func copyStruct(at *node, in, out reflect.Value, path string, findings *[]Finding) {
	for i := range in.NumField() {
		_, name, inline := describe(in.Type().Field(i))
		switch {
		case inline:
			copyStruct(at, in.Field(i), out.Field(i), path, findings)
		case !in.Field(i).IsZero():
			copyField(at.children[name], in.Field(i), out.Field(i), path+name, findings)
		}
	}
}

func copyField(at *node, in, out reflect.Value, path string, findings *[]Finding) {
	switch {
	case at == nil:
		*findings = append(*findings, Ignore(path, unknownField))
	case at.rule != nil:
		apply(*at.rule, in, out, path, findings)
	case in.Kind() == reflect.Pointer:
		out.Set(reflect.New(in.Type().Elem()))
		copyStruct(at, in.Elem(), out.Elem(), path+".", findings)
	case in.Kind() == reflect.Slice:
		out.Set(reflect.MakeSlice(in.Type(), in.Len(), in.Len()))
		for i := range in.Len() {
			copyStruct(at.children["[]"], in.Index(i), out.Index(i), fmt.Sprintf("%s[%d].", path, i), findings)
		}
	default:
		copyStruct(at, in, out, path+".", findings)
	}
}

func apply(rule Rule, in, out reflect.Value, path string, findings *[]Finding) {
	switch rule.verb {
	case verbPass:
		out.Set(in)
	case verbIgnore:
		*findings = append(*findings, Ignore(path, rule.reason))
	case verbRefuse:
		*findings = append(*findings, Refuse(path, rule.reason))
	}
}

// describe returns the JSON name of a struct field, and whether it is inlined.
func describe(field reflect.StructField) (reflect.StructField, string, bool) {
	name, options, _ := strings.Cut(field.Tag.Get("json"), ",")
	return field, name, field.Anonymous && (name == "" || strings.Contains(options, "inline"))
}

// Unlisted returns the paths of T's fields that no rule names. A test expects
// none, so that a new version of the API makes somebody decide.
func (l *AllowList[T]) Unlisted() []string {
	var paths []string
	walk(l.root, reflect.TypeFor[T](), "", func(path string, at *node) {
		if at == nil {
			paths = append(paths, path)
		}
	})
	slices.Sort(paths)
	return paths
}

// walk visits the fields of a struct type down to where a rule is, or none can be.
func walk(at *node, t reflect.Type, path string, visit func(path string, at *node)) {
	for i := range t.NumField() {
		field, name, inline := describe(t.Field(i))
		if inline {
			walk(at, field.Type, path, visit)
			continue
		}
		below, kind, child := path+name, field.Type, at.children[name]
		if kind.Kind() == reflect.Pointer {
			kind = kind.Elem()
		}
		if child != nil && kind.Kind() == reflect.Slice && child.children["[]"] != nil {
			below, kind, child = below+"[]", kind.Elem(), child.children["[]"]
		}
		if child != nil && child.rule == nil {
			walk(child, kind, below+".", visit)
			continue
		}
		visit(below, child)
	}
}

// checkPaths returns a path of the table that T does not have, if there is one.
func (l *AllowList[T]) checkPaths() string {
	known := map[*node]bool{}
	walk(l.root, reflect.TypeFor[T](), "", func(_ string, at *node) { known[at] = true })
	return unknownPath(l.root, known, "")
}

func unknownPath(at *node, known map[*node]bool, path string) string {
	if at.rule != nil && !known[at] {
		return path
	}
	for name, child := range at.children {
		if missing := unknownPath(child, known, strings.TrimPrefix(path+"."+name, ".")); missing != "" {
			return missing
		}
	}
	return ""
}
