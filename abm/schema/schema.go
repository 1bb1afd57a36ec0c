// Package schema checks values against the structural schemas that service
// definitions carry, as a kube-apiserver checks custom resources against theirs:
// unknown fields, defaults, OpenAPI v3 and CEL rules.
package schema

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strings"

	"github.com/google/cel-go/common/types/ref"
	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	crdvalidation "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/validation"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/cel"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/cel/model"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/defaulting"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/pruning"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	utiljson "k8s.io/apimachinery/pkg/util/json"
	"k8s.io/apimachinery/pkg/util/validation/field"
	celconfig "k8s.io/apiserver/pkg/apis/cel"
	apiservercel "k8s.io/apiserver/pkg/cel"
)

// Schema is a compiled schema of an object.
type Schema struct {
	structural *schema.Structural
	openAPI    validation.SchemaValidator
	rules      *cel.Validator
}

// empty is the schema where a definition has none: no field at all.
var empty = apiextensionsv1.JSONSchemaProps{Type: "object"}

// Compile reads a schema; problems tell their place below path.
func Compile(ctx context.Context, raw *runtime.RawExtension, path *field.Path) (*Schema, field.ErrorList) {
	props := empty.DeepCopy()
	if raw != nil && len(raw.Raw) > 0 {
		props = &apiextensionsv1.JSONSchemaProps{}
		decoder := json.NewDecoder(bytes.NewReader(raw.Raw))
		decoder.DisallowUnknownFields()
		if err := decoder.Decode(props); err != nil {
			return nil, field.ErrorList{field.Invalid(path, "", "is no OpenAPI v3 schema: "+err.Error())}
		}
		if _, err := decoder.Token(); err != io.EOF {
			return nil, field.ErrorList{field.Invalid(path, "", "something follows the schema")}
		}
	}
	if props.Type == "" && len(props.Properties) > 0 {
		props.Type = "object"
	}
	if props.Type != "object" {
		return nil, field.ErrorList{field.Invalid(path.Child("type"), props.Type, "must be object")}
	}
	internal := &apiextensions.JSONSchemaProps{}
	if err := apiextensionsv1.Convert_v1_JSONSchemaProps_To_apiextensions_JSONSchemaProps(props, internal, nil); err != nil {
		return nil, field.ErrorList{field.Invalid(path, "", err.Error())}
	}
	if problems := check(ctx, internal, path); len(problems) > 0 {
		return nil, problems
	}
	structural, err := schema.NewStructural(internal)
	if err != nil {
		return nil, field.ErrorList{field.Invalid(path, "", err.Error())}
	}
	openAPI, _, err := validation.NewSchemaValidator(internal)
	if err != nil {
		return nil, field.ErrorList{field.Invalid(path, "", err.Error())}
	}
	return &Schema{
		structural: structural, openAPI: openAPI,
		rules: cel.NewValidator(structural, false, celconfig.PerCallLimit),
	}, nil
}

// within is where check puts the schema in a CustomResourceDefinition.
const within = "parameters"

// check lets the code of kube-apiserver that checks CustomResourceDefinitions check
// one that has the schema in it: whether it is structural, defaults fit, rules
// compile, and evaluating them cannot become expensive.
func check(ctx context.Context, props *apiextensions.JSONSchemaProps, path *field.Path) field.ErrorList {
	keep := false
	definition := &apiextensions.CustomResourceDefinition{
		ObjectMeta: metav1.ObjectMeta{Name: "services.check.abm.bulkhead.dev"},
		Spec: apiextensions.CustomResourceDefinitionSpec{
			Group: "check.abm.bulkhead.dev", Version: "v1",
			Names:                 apiextensions.CustomResourceDefinitionNames{Plural: "services", Singular: "service", Kind: "Service", ListKind: "ServiceList"},
			Scope:                 apiextensions.ClusterScoped,
			PreserveUnknownFields: &keep,
			Validation: &apiextensions.CustomResourceValidation{OpenAPIV3Schema: &apiextensions.JSONSchemaProps{
				Type: "object", Properties: map[string]apiextensions.JSONSchemaProps{within: *props},
			}},
			Versions:   []apiextensions.CustomResourceDefinitionVersion{{Name: "v1", Served: true, Storage: true}},
			Conversion: &apiextensions.CustomResourceConversion{Strategy: apiextensions.NoneConverter},
		},
		Status: apiextensions.CustomResourceDefinitionStatus{StoredVersions: []string{"v1"}},
	}
	var problems field.ErrorList
	for _, problem := range crdvalidation.ValidateCustomResourceDefinition(ctx, definition) {
		_, below, found := strings.Cut(problem.Field, "openAPIV3Schema")
		if !found {
			below = ""
		}
		below = strings.TrimPrefix(below, ".properties["+within+"]")
		problem.Field = path.String() + below
		problems = append(problems, problem)
	}
	return problems
}

// Decode reads an object; nothing is an empty one.
func Decode(raw *runtime.RawExtension, path *field.Path) (map[string]any, *field.Error) {
	if raw == nil || len(raw.Raw) == 0 {
		return map[string]any{}, nil
	}
	var value map[string]any
	if err := utiljson.Unmarshal(raw.Raw, &value); err != nil {
		return nil, field.Invalid(path, "", "is no object: "+err.Error())
	}
	if value == nil {
		value = map[string]any{}
	}
	return value, nil
}

// Check checks a value and returns it with defaults. old is the value before, for
// rules about changes; nil where there is none.
func (s *Schema) Check(ctx context.Context, raw, old *runtime.RawExtension, path *field.Path) (map[string]any, field.ErrorList) {
	value, problem := Decode(raw, path)
	if problem != nil {
		return nil, field.ErrorList{problem}
	}
	var problems field.ErrorList
	unknown := pruning.PruneWithOptions(runtime.DeepCopyJSON(value), s.structural, false, schema.UnknownFieldPathOptions{TrackUnknownFieldPaths: true})
	for _, name := range unknown {
		problems = append(problems, field.Forbidden(path.Child(name), "the service has no such field"))
	}
	defaulting.Default(value, s.structural)
	problems = append(problems, validation.ValidateCustomResource(path, value, s.openAPI)...)
	if len(problems) > 0 || s.rules == nil {
		return value, problems
	}
	var before any
	if old != nil {
		// What does not fit any more, since the schema changed, is no measure.
		if decoded, wrong := Decode(old, path); wrong == nil {
			defaulting.Default(decoded, s.structural)
			if len(validation.ValidateCustomResource(path, decoded, s.openAPI)) == 0 {
				before = decoded
			}
		}
	}
	broken, _ := s.rules.Validate(ctx, path, s.structural, value, before, celconfig.RuntimeCELCostBudget)
	return value, broken
}

// Type is the type of values for expressions, under a name of its own.
func (s *Schema) Type(name string) (*apiservercel.DeclType, error) {
	declared := model.SchemaDeclType(s.structural, false)
	if declared == nil {
		return nil, fmt.Errorf("the schema of %s has no type", name)
	}
	return declared.MaybeAssignTypeName(name), nil
}

// Value makes what expressions see of a value that Check returned.
func (s *Schema) Value(value map[string]any) ref.Val {
	return cel.UnstructuredToVal(value, s.structural)
}
