package podspec

import (
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/bulkhead-dev/bulkhead/internal/tenancy"
	"github.com/bulkhead-dev/bulkhead/syncer/translation"
)

// Paths of the downward API whose values differ between the tenant's pod and the
// super pod.
const (
	pathNamespace      = "metadata.namespace"
	pathUID            = "metadata.uid"
	pathLabels         = "metadata.labels"
	pathAnnotations    = "metadata.annotations"
	pathServiceAccount = "spec.serviceAccountName"
)

// literal is the value of a path that the tenant's pod has fixed already.
func (t *translator) literal(path string) (value string, fixed bool) {
	switch path {
	case pathNamespace:
		return t.Pod.Namespace, true
	case pathUID:
		return string(t.Pod.UID), true
	case pathServiceAccount:
		return accountOf(t.in), true
	}
	return "", false
}

// shownIn maps a path to the annotation of the super pod that holds the tenant's value.
var shownIn = map[string]string{
	pathNamespace:   tenancy.AnnotationNamespace,
	pathUID:         tenancy.AnnotationUID,
	pathLabels:      tenancy.AnnotationLabels,
	pathAnnotations: tenancy.AnnotationAnnotations,
}

// fileField rewrites the field of a downward API file.
func (t *translator) fileField(path string, ref *corev1.ObjectFieldSelector) {
	if annotation, differs := shownIn[ref.FieldPath]; differs {
		ref.FieldPath = pathAnnotations + "['" + annotation + "']"
		return
	}
	t.checkField(path, ref)
}

// checkField refuses to show our marks.
func (t *translator) checkField(path string, ref *corev1.ObjectFieldSelector) {
	_, key, found := strings.Cut(ref.FieldPath, "['")
	if found && tenancy.Reserved(strings.TrimSuffix(key, "']")) {
		t.refuse(path, "keys under "+tenancy.Domain+" are the platform's own")
	}
}

// showMetadata adds, for pods that show all their labels or annotations in a file,
// the annotations with the file's text.
func showMetadata(spec *corev1.PodSpec, labels, annotations map[string]string) map[string]string {
	shown := map[string]string{}
	eachDownwardFile(spec, func(_ string, item *corev1.DownwardAPIVolumeFile) {
		switch {
		case item.FieldRef == nil:
		case item.FieldRef.FieldPath == pathLabels:
			shown[tenancy.AnnotationLabels] = translation.FormatMap(labels)
		case item.FieldRef.FieldPath == pathAnnotations:
			shown[tenancy.AnnotationAnnotations] = translation.FormatMap(annotations)
		}
	})
	if len(shown) == 0 {
		return annotations
	}
	for key, value := range annotations {
		shown[key] = value
	}
	return shown
}
