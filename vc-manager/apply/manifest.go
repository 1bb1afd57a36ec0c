package apply

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"reflect"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/bulkhead-dev/bulkhead/internal/tenancy"
)

// AnnotationManifest holds a hash of what vc-manager last wanted an object to be.
// It shows when a field was wanted earlier and is not any more.
const AnnotationManifest = tenancy.Domain + "/manifest"

var unstructuredConverter = runtime.DefaultUnstructuredConverter

// Manifest is the object as we mean it: the fields that are set, without those
// which Go types write though nobody set them, and with AnnotationManifest.
func Manifest(object client.Object) (*unstructured.Unstructured, error) {
	content, err := unstructuredConverter.ToUnstructured(object)
	if err != nil {
		return nil, fmt.Errorf("encoding %s: %w", Describe(object), err)
	}
	delete(content, "status")
	prune(content)
	manifest := &unstructured.Unstructured{Object: content}
	// Of a Secret even a hash stays out: its content is compared as it is.
	if manifest.GetKind() == "Secret" {
		return manifest, nil
	}
	text, err := json.Marshal(content)
	if err != nil {
		return nil, fmt.Errorf("encoding %s: %w", Describe(object), err)
	}
	sum := sha256.Sum256(text)
	annotations := manifest.GetAnnotations()
	if annotations == nil {
		annotations = map[string]string{}
	}
	annotations[AnnotationManifest] = hex.EncodeToString(sum[:8])
	manifest.SetAnnotations(annotations)
	return manifest, nil
}

// unset are fields that Go types write as an empty object.
var unset = map[string]bool{"resources": true, "strategy": true, "updateStrategy": true, "status": true}

// prune removes nulls and unset fields.
func prune(value any) {
	switch value := value.(type) {
	case map[string]any:
		for key, field := range value {
			fields, isObject := field.(map[string]any)
			if field == nil || (isObject && len(fields) == 0 && unset[key]) {
				delete(value, key)
				continue
			}
			prune(field)
		}
	case []any:
		for _, item := range value {
			prune(item)
		}
	}
}

// matches tells whether present has everything that is in the manifest. What the
// server or others have added beside it does not count, but a list that is longer does.
func matches(present client.Object, manifest *unstructured.Unstructured) (bool, error) {
	content, err := unstructuredConverter.ToUnstructured(present)
	if err != nil {
		return false, fmt.Errorf("reading %s: %w", Describe(manifest), err)
	}
	wanted := map[string]any{}
	for key, value := range manifest.Object {
		// Clients drop the kind from what they read.
		if key != "apiVersion" && key != "kind" {
			wanted[key] = value
		}
	}
	return contains(content, wanted), nil
}

func contains(present, wanted any) bool {
	switch wanted := wanted.(type) {
	case map[string]any:
		if len(wanted) == 0 {
			return true
		}
		fields, ok := present.(map[string]any)
		if !ok {
			return false
		}
		for key, value := range wanted {
			if !contains(fields[key], value) {
				return false
			}
		}
		return true
	case []any:
		items, ok := present.([]any)
		if !ok || len(items) != len(wanted) {
			return len(wanted) == 0 && present == nil
		}
		for i := range wanted {
			if !contains(items[i], wanted[i]) {
				return false
			}
		}
		return true
	default:
		return present == wanted
	}
}

// Describe names an object for people: kind and name, such as "secret vc-a/etcd-peer".
func Describe(object client.Object) string {
	kind := object.GetObjectKind().GroupVersionKind().Kind
	if kind == "" {
		kind = reflect.TypeOf(object).Elem().Name()
	}
	name := object.GetName()
	if object.GetNamespace() != "" {
		name = object.GetNamespace() + "/" + name
	}
	return strings.ToLower(kind) + " " + name
}

// empty is a new object of the same type.
func empty(object client.Object) client.Object {
	return reflect.New(reflect.TypeOf(object).Elem()).Interface().(client.Object)
}
