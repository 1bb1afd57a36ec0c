package tenancy

import (
	"fmt"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// Domain is the prefix of all our labels, annotations and finalizers.
const Domain = "tenancy.bulkhead.dev"

// Labels on everything in the super cluster that belongs to a tenant.
const (
	// LabelTenant holds the virtual cluster's UID.
	LabelTenant = Domain + "/virtual-cluster-uid"
	// LabelManagedBy holds the component that made the object and alone may change it.
	LabelManagedBy = Domain + "/managed-by"
	// LabelControlPlane marks the namespace of a tenant's control plane, with the value "true".
	LabelControlPlane = Domain + "/control-plane"
)

// Values of LabelManagedBy.
const (
	ManagedByManager = "vc-manager"
	ManagedBySyncer  = "syncer"
)

// Annotations on super objects that say which tenant object they stand for.
const (
	// AnnotationTenant holds the virtual cluster's namespace/name, for people.
	AnnotationTenant    = Domain + "/virtual-cluster"
	AnnotationUID       = Domain + "/uid"
	AnnotationNamespace = Domain + "/namespace"
	AnnotationName      = Domain + "/name"
	// AnnotationClusterIPs holds the tenant's addresses of a Service, comma separated (D6).
	AnnotationClusterIPs = Domain + "/cluster-ips"
)

// Finalizers on a VirtualCluster. The syncer's goes first: workloads before the control plane.
const (
	FinalizerSyncer       = Domain + "/syncer"
	FinalizerControlPlane = Domain + "/control-plane"
)

// Origin is the tenant object that a super object stands for.
type Origin struct {
	Tenant    types.UID
	Namespace string
	Name      string
	UID       types.UID
}

// Mark writes the tenant and the tenant object's identity onto a super object,
// over whatever was there.
func Mark(super metav1.Object, tenant Tenant, managedBy string, object metav1.Object) {
	MarkTenant(super, tenant, managedBy)
	annotations := super.GetAnnotations()
	annotations[AnnotationUID] = string(object.GetUID())
	annotations[AnnotationNamespace] = object.GetNamespace()
	annotations[AnnotationName] = object.GetName()
	super.SetAnnotations(annotations)
}

// MarkTenant marks a super object that belongs to a tenant but stands for no
// object of its cluster, such as the parts of its control plane.
func MarkTenant(super metav1.Object, tenant Tenant, managedBy string) {
	labels := super.GetLabels()
	if labels == nil {
		labels = map[string]string{}
	}
	labels[LabelTenant] = string(tenant.UID)
	labels[LabelManagedBy] = managedBy
	super.SetLabels(labels)
	annotations := super.GetAnnotations()
	if annotations == nil {
		annotations = map[string]string{}
	}
	annotations[AnnotationTenant] = tenant.String()
	super.SetAnnotations(annotations)
}

// OriginOf reads the marks of a super object; ok is false where they are not whole.
func OriginOf(super metav1.Object) (origin Origin, ok bool) {
	annotations := super.GetAnnotations()
	origin = Origin{
		Tenant:    types.UID(super.GetLabels()[LabelTenant]),
		Namespace: annotations[AnnotationNamespace],
		Name:      annotations[AnnotationName],
		UID:       types.UID(annotations[AnnotationUID]),
	}
	return origin, origin.Tenant != "" && origin.Name != "" && origin.UID != ""
}

// ForeignError says that an object has the name we want but is not ours to touch.
type ForeignError struct {
	// Object is kind and name of what is in the way.
	Object string
	// Owner says whose it is, as far as its marks tell.
	Owner string
}

func (e *ForeignError) Error() string {
	return fmt.Sprintf("%s exists already and belongs to %s: it is neither adopted nor changed", e.Object, e.Owner)
}

// CheckOwned returns a *ForeignError unless the super object is the tenant's and
// made by managedBy. object names it in the error, such as "namespace x".
func CheckOwned(super metav1.Object, tenant Tenant, managedBy, object string) error {
	labels := super.GetLabels()
	switch {
	case labels[LabelTenant] == "":
		return &ForeignError{Object: object, Owner: "nobody Bulkhead knows"}
	case labels[LabelTenant] != string(tenant.UID):
		return &ForeignError{Object: object, Owner: "another virtual cluster"}
	case labels[LabelManagedBy] != managedBy:
		return &ForeignError{Object: object, Owner: fmt.Sprintf("component %q", labels[LabelManagedBy])}
	}
	return nil
}

// Reserved tells whether a label or annotation key is ours: tenants may neither
// set it nor see it.
func Reserved(key string) bool {
	prefix, _, found := strings.Cut(key, "/")
	return found && (prefix == "bulkhead.dev" || strings.HasSuffix(prefix, ".bulkhead.dev"))
}

// ServiceDomain is the domain of the labels that ABM puts on what it makes.
const ServiceDomain = "abm.bulkhead.dev"

// MarksService tells whether a key is one of ABM's. Objects that it makes in a tenant's
// cluster bear them for all to see; in the super cluster they would look as if ABM had
// made the tenant's object there, so they stay where they are.
func MarksService(key string) bool { return strings.HasPrefix(key, ServiceDomain+"/") }
