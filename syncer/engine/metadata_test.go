package engine

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/bulkhead-dev/bulkhead/internal/tenancy"
	"github.com/bulkhead-dev/bulkhead/syncer/translation"
)

func TestMergeMetadata(t *testing.T) {
	before := map[string]string{"app": "a", "old": "x"}
	super := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{
		Labels:      joined(before, map[string]string{"by-super": "y", tenancy.LabelTenant: "u"}),
		Annotations: joined(map[string]string{"note": "n", tenancy.AnnotationUID: "t"}, carried(before, map[string]string{"note": "n"})),
	}}
	mergeMetadata(super, map[string]string{"app": "b", "by-super": "y"}, nil)
	wantLabels := map[string]string{"app": "b", "by-super": "y", tenancy.LabelTenant: "u"}
	wantAnnotations := map[string]string{tenancy.AnnotationUID: "t", tenancy.AnnotationCarried: `{"labels":["app"]}`}
	if diff := cmp.Diff(wantLabels, super.Labels); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(wantAnnotations, super.Annotations); diff != "" {
		t.Error(diff)
	}
	again := super.DeepCopy()
	mergeMetadata(again, map[string]string{"app": "b"}, nil)
	if diff := cmp.Diff(super, again); diff != "" {
		t.Errorf("no change is one: %s", diff)
	}
}

// Found by the churn test: a label that a tenant had taken off its namespace stayed on
// the super namespace, where selectors of network policies still found it.
func TestNamespaceLabelIsTakenAway(t *testing.T) {
	key := translation.NamespaceLabelKey("team")
	before := map[string]string{key: "a"}
	super := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Labels: joined(before, map[string]string{tenancy.LabelTenant: "u"}), Annotations: carried(before, nil)}}
	mergeMetadata(super, nil, nil)
	if diff := cmp.Diff(map[string]string{tenancy.LabelTenant: "u"}, super.Labels); diff != "" {
		t.Error(diff)
	}
}

// Whatever the annotation says, our marks and what others wrote stay.
func FuzzMergeMetadata(f *testing.F) {
	f.Add(`{"labels":["tenancy.bulkhead.dev/managed-by","app"]}`, "app", "v")
	f.Add("", "", "")
	f.Fuzz(func(t *testing.T, carriedText, key, value string) {
		marks := map[string]string{tenancy.LabelTenant: "u", tenancy.LabelManagedBy: tenancy.ManagedBySyncer}
		super := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Labels: joined(marks), Annotations: map[string]string{
			tenancy.AnnotationCarried: carriedText, tenancy.AnnotationUID: "t",
		}}}
		if tenancy.Reserved(key) || len(validation.IsQualifiedName(key)) > 0 {
			t.Skip() // never carried, and never let in by the API server
		}
		mergeMetadata(super, map[string]string{key: value}, nil)
		for mark, want := range marks {
			if super.Labels[mark] != want {
				t.Errorf("mark %s is %q", mark, super.Labels[mark])
			}
		}
		if super.Labels[key] != value || super.Annotations[tenancy.AnnotationUID] != "t" {
			t.Errorf("metadata %v %v", super.Labels, super.Annotations)
		}
		mergeMetadata(super, nil, nil)
		if _, still := super.Labels[key]; still {
			t.Errorf("label %q stays", key)
		}
	})
}
