package pods

import (
	"context"
	"fmt"
	"strings"
	"sync"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/bulkhead-dev/bulkhead/internal/tenancy"
)

// owner is whose a super namespace is, by the marks on it.
type owner struct {
	tenancy.Tenant
	controlPlane bool
}

// ownerOf reads the marks of a super namespace. It is nobody's where they do not fit
// its name, which is derived from the tenant's UID.
func ownerOf(namespace metav1.Object) (owner, bool) {
	labels, annotations := namespace.GetLabels(), namespace.GetAnnotations()
	o := owner{Tenant: tenancy.Tenant{UID: types.UID(labels[tenancy.LabelTenant])}}
	var whole bool
	o.Namespace, o.Name, whole = strings.Cut(annotations[tenancy.AnnotationTenant], "/")
	if o.UID == "" || !whole {
		return owner{}, false
	}
	switch {
	case labels[tenancy.LabelManagedBy] == tenancy.ManagedBySyncer && labels[tenancy.LabelControlPlane] == "":
		return o, namespace.GetName() == o.SuperNamespace(annotations[tenancy.AnnotationName])
	case labels[tenancy.LabelManagedBy] == tenancy.ManagedByManager && labels[tenancy.LabelControlPlane] == "true":
		o.controlPlane = true
		return o, namespace.GetName() == o.ControlPlaneNamespace()
	}
	return owner{}, false
}

// owners knows the super namespaces that have pods on this node. It asks for each
// once: nothing may change their marks while they live, and one of the same name
// later is the same tenant's, whose UID is in the name.
type owners struct {
	// reader reads namespaces straight from the apiserver.
	reader client.Reader

	mu    sync.Mutex
	known map[string]owner
}

// of returns whose a namespace is; ok is false for one that is no tenant's.
func (o *owners) of(ctx context.Context, name string) (found owner, ok bool, err error) {
	o.mu.Lock()
	found, ok = o.known[name]
	o.mu.Unlock()
	if ok {
		return found, true, nil
	}
	namespace := &metav1.PartialObjectMetadata{}
	namespace.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("Namespace"))
	if err := o.reader.Get(ctx, types.NamespacedName{Name: name}, namespace); apierrors.IsNotFound(err) {
		return owner{}, false, nil
	} else if err != nil {
		return owner{}, false, fmt.Errorf("reading namespace %s: %w", name, err)
	}
	if found, ok = ownerOf(namespace); ok {
		o.mu.Lock()
		o.known[name] = found
		o.mu.Unlock()
	}
	return found, ok, nil
}

// forget drops a namespace that has no pods here any more.
func (o *owners) forget(name string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	delete(o.known, name)
}
