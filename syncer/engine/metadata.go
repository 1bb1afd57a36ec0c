package engine

import (
	"encoding/json"
	"maps"
	"slices"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/bulkhead-dev/bulkhead/internal/tenancy"
	"github.com/bulkhead-dev/bulkhead/syncer/translation"
)

// carriedKeys is the content of AnnotationCarried.
type carriedKeys struct {
	Labels      []string `json:"labels,omitempty"`
	Annotations []string `json:"annotations,omitempty"`
}

// carried makes the annotation that lists what came from the tenant.
func carried(labels, annotations map[string]string) map[string]string {
	keys := carriedKeys{Labels: slices.Sorted(maps.Keys(labels)), Annotations: slices.Sorted(maps.Keys(annotations))}
	if len(keys.Labels)+len(keys.Annotations) == 0 {
		return nil
	}
	text, err := json.Marshal(keys)
	if err != nil {
		panic(err) // strings always encode
	}
	return map[string]string{tenancy.AnnotationCarried: string(text)}
}

// mergeMetadata makes the labels and annotations that came from the tenant what
// they are now, and leaves alone what others put onto the super object.
func mergeMetadata(super client.Object, labels, annotations map[string]string) {
	var before carriedKeys
	// What cannot be read was not written by this program: then nothing is taken away.
	_ = json.Unmarshal([]byte(super.GetAnnotations()[tenancy.AnnotationCarried]), &before)
	superLabels, superAnnotations := joined(super.GetLabels()), joined(super.GetAnnotations())
	labels = withoutTheirs(labels, superLabels, before.Labels)
	remove(superLabels, before.Labels)
	remove(superAnnotations, append(before.Annotations, tenancy.AnnotationCarried))
	super.SetLabels(joined(superLabels, labels))
	super.SetAnnotations(joined(superAnnotations, annotations, carried(labels, annotations)))
}

// withoutTheirs leaves out what somebody else has put onto the super object with the
// same value: both apiservers label a pod with its node's zone when it is bound,
// and to take it over would cost a write for each pod.
func withoutTheirs(labels, super map[string]string, carried []string) map[string]string {
	out := map[string]string{}
	for key, value := range labels {
		if theirs, has := super[key]; !has || theirs != value || slices.Contains(carried, key) {
			out[key] = value
		}
	}
	return out
}

// remove takes keys away, but never one of our marks.
func remove(from map[string]string, keys []string) {
	for _, key := range keys {
		if !tenancy.Reserved(key) || ofTenant(key) {
			delete(from, key)
		}
	}
}

// ofTenant are those of our keys that hold what comes from the tenant, and goes with it.
func ofTenant(key string) bool {
	return key == tenancy.AnnotationCarried || key == tenancy.AnnotationLabels || key == tenancy.AnnotationAnnotations || translation.IsNamespaceLabel(key)
}

// setOwn writes the marks and what else the translation has put into the desired
// metadata.
func setOwn(super, desired client.Object) {
	super.SetLabels(joined(super.GetLabels(), desired.GetLabels()))
	annotations := joined(desired.GetAnnotations())
	delete(annotations, tenancy.AnnotationCarried) // mergeMetadata has written it
	super.SetAnnotations(joined(super.GetAnnotations(), annotations))
}

// joined makes one new map of several; the last one wins.
func joined(all ...map[string]string) map[string]string {
	out := map[string]string{}
	for _, one := range all {
		maps.Copy(out, one)
	}
	if len(out) == 0 {
		return nil
	}
	return out
}
