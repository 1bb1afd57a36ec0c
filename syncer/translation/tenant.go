package translation

import (
	"fmt"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	tenancyv1alpha1 "github.com/bulkhead-dev/bulkhead/api/tenancy/v1alpha1"
	"github.com/bulkhead-dev/bulkhead/internal/tenancy"
)

// Tenant is what a translation may know about a tenant: who it is, what its class
// permits, and the settings of its cluster. It is a value and does not change.
type Tenant struct {
	tenancy.Tenant

	// PodSecurity is the Pod Security Standard the tenant's pods must meet.
	PodSecurity tenancyv1alpha1.PodSecurityLevel
	// RuntimeClassName is the super cluster's RuntimeClass of all its pods; may be empty.
	RuntimeClassName string
	// StorageClasses are the super cluster's StorageClasses that the tenant sees;
	// empty for the default one only.
	StorageClasses []string
	// RuntimeClasses, PriorityClasses and IngressClasses are further ones of the super
	// cluster that the tenant sees.
	RuntimeClasses, PriorityClasses, IngressClasses []string
	// Nodes picks the super nodes that the tenant sees from the start, and on which
	// alone its pods run; nil where nodes appear with the tenant's pods.
	Nodes *metav1.LabelSelector
	// SchedulesItself says that a scheduler in the tenant's cluster places its pods.
	SchedulesItself bool
	// ClusterDomain is the DNS domain of the tenant's Services.
	ClusterDomain string
	// DNSAddress is where the tenant's DNS Service is by convention: the tenth
	// address of its service range. It is used until that Service exists.
	DNSAddress string
	// Weight is the tenant's share of the syncer's workers, relative to the others'. It
	// has no part in what is translated.
	Weight int
}

// NewTenant reads the settings of a virtual cluster and its class.
func NewTenant(vc *tenancyv1alpha1.VirtualCluster, class *tenancyv1alpha1.VirtualClusterClass) (Tenant, error) {
	prefix, err := netip.ParsePrefix(vc.Spec.ServiceCIDR)
	if err != nil {
		return Tenant{}, fmt.Errorf("reading the service range of virtual cluster %s/%s: %w", vc.Namespace, vc.Name, err)
	}
	if _, err := metav1.LabelSelectorAsSelector(class.Spec.Nodes.Selector); err != nil {
		return Tenant{}, fmt.Errorf("spec.nodes.selector: %w", err)
	}
	return Tenant{
		Tenant:           tenancy.Tenant{UID: vc.UID, Namespace: vc.Namespace, Name: vc.Name},
		PodSecurity:      class.Spec.PodSecurity,
		RuntimeClassName: class.Spec.RuntimeClassName,
		StorageClasses:   slices.Clone(class.Spec.StorageClasses),
		RuntimeClasses:   slices.Clone(class.Spec.RuntimeClasses),
		PriorityClasses:  slices.Clone(class.Spec.PriorityClasses),
		IngressClasses:   slices.Clone(class.Spec.IngressClasses),
		Nodes:            class.Spec.Nodes.Selector.DeepCopy(),
		SchedulesItself:  class.Spec.Scheduling == tenancyv1alpha1.ScheduledByTenant,
		ClusterDomain:    vc.Spec.ClusterDomain,
		DNSAddress:       tenancy.DNSAddress(prefix).String(),
		Weight:           int(class.Spec.Syncer.Weight),
	}, nil
}

// Equal tells whether both tenants translate alike.
func (t Tenant) Equal(other Tenant) bool {
	return t.Tenant == other.Tenant && t.PodSecurity == other.PodSecurity && t.RuntimeClassName == other.RuntimeClassName &&
		slices.Equal(t.StorageClasses, other.StorageClasses) && slices.Equal(t.RuntimeClasses, other.RuntimeClasses) &&
		slices.Equal(t.PriorityClasses, other.PriorityClasses) && slices.Equal(t.IngressClasses, other.IngressClasses) && t.SchedulesItself == other.SchedulesItself &&
		equality.Semantic.DeepEqual(t.Nodes, other.Nodes) && t.ClusterDomain == other.ClusterDomain && t.DNSAddress == other.DNSAddress
}

// OffersNode tells whether the tenant sees a node with these labels from the start.
// Where nodes appear with its pods, it sees none so.
func (t Tenant) OffersNode(node map[string]string) bool {
	if t.Nodes == nil {
		return false
	}
	selector, err := metav1.LabelSelectorAsSelector(t.Nodes)
	return err == nil && selector.Matches(labels.Set(node)) // NewTenant has parsed it
}

// OffersStorageClass tells whether the tenant may use the super cluster's
// StorageClass of that name; isDefault says whether it is the default one there.
func (t Tenant) OffersStorageClass(name string, isDefault bool) bool {
	if len(t.StorageClasses) == 0 {
		return isDefault
	}
	return slices.Contains(t.StorageClasses, name)
}

// OffersRuntimeClass tells whether the tenant's pods may name the super cluster's
// RuntimeClass of that name.
func (t Tenant) OffersRuntimeClass(name string) bool {
	return name == t.RuntimeClassName || slices.Contains(t.RuntimeClasses, name)
}

// maxPriority is the highest priority that is not the system's own.
const maxPriority = 1_000_000_000

// OffersPriorityClass tells whether the tenant may use a PriorityClass of the super
// cluster. None that preempts is offered, for what it would take the place of may be
// another tenant's (decision D8).
func (t Tenant) OffersPriorityClass(super *schedulingv1.PriorityClass) bool {
	return slices.Contains(t.PriorityClasses, super.Name) && super.Value <= maxPriority &&
		super.PreemptionPolicy != nil && *super.PreemptionPolicy == corev1.PreemptNever
}
