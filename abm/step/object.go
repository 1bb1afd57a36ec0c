package step

import (
	"context"
	"errors"
	"fmt"
	"maps"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/client-go/util/csaupgrade"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/bulkhead-dev/bulkhead/abm/cluster"
	abmv1alpha1 "github.com/bulkhead-dev/bulkhead/api/abm/v1alpha1"
)

// fieldManager names an instance's fields in managed fields.
func fieldManager(run *Run) string { return "abm-" + string(run.Owner.UID) }

// intend records an object that is about to be made.
func intend(record *abmv1alpha1.StepRecord, object *unstructured.Unstructured) {
	for _, recorded := range record.Objects {
		if sameObject(recorded, object) {
			return
		}
	}
	record.Objects = append(record.Objects, abmv1alpha1.ObjectRecord{
		APIVersion: object.GetAPIVersion(), Kind: object.GetKind(), Namespace: object.GetNamespace(), Name: object.GetName(),
	})
}

// sameObject compares by kind and name: the version of the API is another view of
// the same object.
func sameObject(recorded abmv1alpha1.ObjectRecord, object *unstructured.Unstructured) bool {
	return probe(recorded).GroupVersionKind().GroupKind() == object.GroupVersionKind().GroupKind() &&
		recorded.Namespace == object.GetNamespace() && recorded.Name == object.GetName()
}

// probe is an object of a record's kind and name.
func probe(recorded abmv1alpha1.ObjectRecord) *unstructured.Unstructured {
	object := &unstructured.Unstructured{}
	object.SetAPIVersion(recorded.APIVersion)
	object.SetKind(recorded.Kind)
	object.SetNamespace(recorded.Namespace)
	object.SetName(recorded.Name)
	return object
}

// remember writes the UID of what was made into the record.
func remember(record *abmv1alpha1.StepRecord, wanted *unstructured.Unstructured, uid types.UID) {
	for i := range record.Objects {
		if sameObject(record.Objects[i], wanted) {
			record.Objects[i].UID = uid
		}
	}
}

// mark writes on an object whose it is.
func mark(object *unstructured.Unstructured, run *Run) {
	labels := object.GetLabels()
	if labels == nil {
		labels = map[string]string{}
	}
	maps.Copy(labels, map[string]string{
		abmv1alpha1.LabelInstanceUID: string(run.Owner.UID), abmv1alpha1.LabelInstance: run.Owner.Name,
		abmv1alpha1.LabelService: run.Owner.Service, abmv1alpha1.LabelStep: run.Record.Step,
	})
	object.SetLabels(labels)
}

// ours tells whether the object is one that the instance made: the one whose UID is
// recorded, whatever became of its labels, or one that bears the instance's mark, where
// ABM ended between making and recording.
func ours(object *unstructured.Unstructured, run *Run) bool {
	for _, recorded := range run.Record.Objects {
		if recorded.UID != "" && recorded.UID == object.GetUID() {
			return true
		}
	}
	return object.GetLabels()[abmv1alpha1.LabelInstanceUID] == string(run.Owner.UID)
}

// ForeignError says that an object has the name that a step wants, and is not the
// instance's.
type ForeignError struct{ Object string }

func (e *ForeignError) Error() string {
	return e.Object + " exists already and is not this instance's: it is neither adopted nor changed; remove it, or choose another name"
}

func describe(kind, namespace, name string) string {
	if namespace == "" {
		return kind + " " + name
	}
	return kind + " " + namespace + "/" + name
}

// placeError says that an object has no place in the super cluster.
type placeError struct{ text string }

func (e *placeError) Error() string { return e.text }

// placed is the object as it shall be in the cluster: in a namespace that the cluster
// allows, and of a scope that it allows.
func placed(run *Run, wanted *unstructured.Unstructured) (*unstructured.Unstructured, error) {
	object := wanted.DeepCopy()
	if run.Cluster.Namespace == "" {
		return object, nil
	}
	kind := object.GroupVersionKind()
	mapping, err := run.Cluster.Client.RESTMapper().RESTMapping(kind.GroupKind(), kind.Version)
	if err != nil {
		return nil, fmt.Errorf("finding kind %s in the super cluster: %w", kind.Kind, err)
	}
	if mapping.Scope.Name() != meta.RESTScopeNameNamespace {
		return nil, &placeError{fmt.Sprintf("%s %s would be cluster-wide: a service touches nothing in the super cluster but the instance's namespace", kind.Kind, object.GetName())}
	}
	if namespace := object.GetNamespace(); namespace != "" && namespace != run.Cluster.Namespace {
		return nil, &placeError{describe(kind.Kind, namespace, object.GetName()) + " would be in a foreign namespace"}
	}
	object.SetNamespace(run.Cluster.Namespace)
	return object, nil
}

// get reads the object that a record names; nil where there is none.
func get(ctx context.Context, run *Run, recorded abmv1alpha1.ObjectRecord) (*unstructured.Unstructured, error) {
	object := probe(recorded)
	namespace := recorded.Namespace
	if run.Cluster.Namespace != "" {
		namespace = run.Cluster.Namespace
	}
	err := run.Cluster.Client.Get(ctx, client.ObjectKey{Namespace: namespace, Name: recorded.Name}, object)
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, failed(run, fmt.Errorf("reading %s: %w", describe(recorded.Kind, namespace, recorded.Name), err))
	}
	return object, nil
}

// failed tells a virtual cluster that does not answer from one that says no.
func failed(run *Run, err error) error {
	if run.Cluster.Virtual {
		return cluster.Unreachable(err)
	}
	return err
}

// applyObject brings an object about, and returns what is stored.
func applyObject(ctx context.Context, run *Run, wanted *unstructured.Unstructured) (*unstructured.Unstructured, error) {
	object, err := placed(run, wanted)
	if err != nil {
		return nil, err
	}
	mark(object, run)
	name := describe(object.GetKind(), object.GetNamespace(), object.GetName())
	present, err := get(ctx, run, abmv1alpha1.ObjectRecord{
		APIVersion: object.GetAPIVersion(), Kind: object.GetKind(), Namespace: object.GetNamespace(), Name: object.GetName(),
	})
	if err != nil {
		return nil, err
	}
	if present == nil {
		// Create fails where somebody was faster; server-side apply would take over
		// whatever has the name.
		created := object.DeepCopy()
		if err := run.Cluster.Client.Create(ctx, created, client.FieldOwner(fieldManager(run))); err != nil {
			return nil, failed(run, fmt.Errorf("creating %s: %w", name, err))
		}
		remember(run.Record, wanted, created.GetUID())
		return created, nil
	}
	if !ours(present, run) {
		return nil, &ForeignError{Object: name}
	}
	if present.GetDeletionTimestamp() != nil {
		return nil, fmt.Errorf("%s is being deleted, and is made anew when it is gone", name)
	}
	remember(run.Record, wanted, present.GetUID())
	// What Create set is recorded as owned by an Update. Were it left at that, a field
	// that the template ceases to set would stay.
	patch, err := csaupgrade.UpgradeManagedFieldsPatch(present, sets.New(fieldManager(run)), fieldManager(run))
	if err != nil {
		return nil, fmt.Errorf("reading the managed fields of %s: %w", name, err)
	}
	if patch != nil {
		if err := run.Cluster.Client.Patch(ctx, present, client.RawPatch(types.JSONPatchType, patch)); err != nil {
			return nil, failed(run, fmt.Errorf("taking over the fields of %s: %w", name, err))
		}
	}
	// The UID makes the server refuse if the object was replaced meanwhile.
	object.SetUID(present.GetUID())
	if err := run.Cluster.Client.Apply(ctx, client.ApplyConfigurationFromUnstructured(object), client.FieldOwner(fieldManager(run)), client.ForceOwnership); err != nil {
		return nil, failed(run, fmt.Errorf("changing %s: %w", name, err))
	}
	return object, nil
}

// deleteObject deletes the object that a record names, if it is the instance's. It
// tells whether that is gone, or what it waits for.
func deleteObject(ctx context.Context, run *Run, recorded abmv1alpha1.ObjectRecord) (gone bool, waiting string, err error) {
	name := describe(recorded.Kind, recorded.Namespace, recorded.Name)
	if _, err := placed(run, probe(recorded)); errors.As(err, new(*placeError)) {
		// It was refused before it was made.
		return true, "", nil
	}
	present, err := get(ctx, run, recorded)
	if meta.IsNoMatchError(err) {
		// Objects go with their kind.
		return true, "", nil
	}
	if err != nil {
		return false, "", err
	}
	if present == nil || recorded.UID != "" && present.GetUID() != recorded.UID {
		return true, "", nil
	}
	if !ours(present, run) {
		return true, "", nil
	}
	if present.GetDeletionTimestamp() == nil {
		uid := present.GetUID()
		err := run.Cluster.Client.Delete(ctx, present, client.Preconditions{UID: &uid}, propagation(recorded))
		if err != nil && !apierrors.IsNotFound(err) {
			return false, "", failed(run, fmt.Errorf("deleting %s: %w", name, err))
		}
		return apierrors.IsNotFound(err), name + " is being deleted", nil
	}
	waiting = name + " is being deleted"
	if finalizers := present.GetFinalizers(); len(finalizers) > 0 {
		waiting += fmt.Sprintf(", its finalizers are %v", finalizers)
	}
	return false, waiting, nil
}

// propagation has workloads wait for their pods. Anything else goes at once: what
// hangs on it is the garbage collector's, which may be slow, and which a broken API
// in a virtual cluster stops altogether.
func propagation(recorded abmv1alpha1.ObjectRecord) client.PropagationPolicy {
	switch schema.FromAPIVersionAndKind(recorded.APIVersion, recorded.Kind).Group {
	case "apps", "batch":
		return client.PropagationPolicy(metav1.DeletePropagationForeground)
	}
	return client.PropagationPolicy(metav1.DeletePropagationBackground)
}
