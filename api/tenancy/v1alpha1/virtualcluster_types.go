package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// VirtualCluster is a Kubernetes cluster of its own for one tenant: a real etcd,
// kube-apiserver and kube-controller-manager, whose pods run on the nodes of the
// super cluster.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:shortName=vc,categories=bulkhead
// +kubebuilder:printcolumn:name="Ready",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].status`
// +kubebuilder:printcolumn:name="Reason",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].reason`
// +kubebuilder:printcolumn:name="Class",type=string,JSONPath=`.spec.className`
// +kubebuilder:printcolumn:name="Version",type=string,JSONPath=`.status.version`
// +kubebuilder:printcolumn:name="Endpoint",type=string,JSONPath=`.status.endpoint`,priority=1
// +kubebuilder:printcolumn:name="Namespace",type=string,JSONPath=`.status.controlPlaneNamespace`,priority=1
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
// +kubebuilder:validation:XValidation:rule="self.metadata.name.size() <= 63",message="the name may have 63 characters at most"
type VirtualCluster struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// +kubebuilder:default={}
	Spec   VirtualClusterSpec   `json:"spec,omitempty"`
	Status VirtualClusterStatus `json:"status,omitempty"`
}

// VirtualClusterSpec is what the tenant's cluster shall be.
type VirtualClusterSpec struct {
	// ClassName names the VirtualClusterClass that says how the control plane runs
	// and what the tenant may do.
	//
	// +kubebuilder:default=default
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="className cannot change: make a new virtual cluster of the other class"
	// +optional
	ClassName string `json:"className,omitempty"`

	// ServiceCIDR is the range of the tenant's Service addresses. It may overlap any
	// other tenant's: the addresses exist inside this tenant's sandboxes only.
	//
	// +kubebuilder:default="10.96.0.0/16"
	// +kubebuilder:validation:MaxLength=43
	// +kubebuilder:validation:XValidation:rule="isCIDR(self) && cidr(self) == cidr(self).masked()",message="serviceCIDR must be a network in CIDR notation, such as 10.96.0.0/16"
	// +kubebuilder:validation:XValidation:rule="!isCIDR(self) || (cidr(self).ip().family() == 4 ? cidr(self).prefixLength() >= 12 && cidr(self).prefixLength() <= 24 : cidr(self).prefixLength() >= 108 && cidr(self).prefixLength() <= 120)",message="serviceCIDR must be between /12 and /24, or between /108 and /120 for IPv6"
	// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="serviceCIDR cannot change: addresses that were handed out would be lost"
	// +optional
	ServiceCIDR string `json:"serviceCIDR,omitempty"`

	// ClusterDomain is the DNS domain of the tenant's Services.
	//
	// +kubebuilder:default="cluster.local"
	// +kubebuilder:validation:MaxLength=128
	// +kubebuilder:validation:Pattern=`^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$`
	// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="clusterDomain cannot change: names that pods resolve would be lost"
	// +optional
	ClusterDomain string `json:"clusterDomain,omitempty"`

	// ExtraSANs are further DNS names and IP addresses that the tenant's apiserver
	// is reached by; its certificate is issued for them too.
	//
	// +kubebuilder:validation:MaxItems=32
	// +kubebuilder:validation:items:MaxLength=253
	// +kubebuilder:validation:items:Pattern=`^(\*\.)?[A-Za-z0-9]([-A-Za-z0-9.:]*[A-Za-z0-9])?$`
	// +listType=set
	// +optional
	ExtraSANs []string `json:"extraSANs,omitempty"`
}

// VirtualClusterStatus is what the platform last saw of the tenant's cluster.
type VirtualClusterStatus struct {
	// ControlPlaneNamespace is the super namespace that the control plane runs in.
	// +optional
	ControlPlaneNamespace string `json:"controlPlaneNamespace,omitempty"`

	// Endpoint is the URL of the tenant's apiserver from outside the super cluster.
	// +optional
	Endpoint string `json:"endpoint,omitempty"`

	// Version is the version that the tenant's apiserver answered with.
	// +optional
	Version string `json:"version,omitempty"`

	// Conditions tell how far the cluster is; Ready sums them up.
	//
	// +listType=map
	// +listMapKey=type
	// +optional
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}

// Condition types of a VirtualCluster, in the order in which they come true.
const (
	// ConditionNamespaceReady: the control-plane namespace exists and is ours.
	ConditionNamespaceReady = "NamespaceReady"
	// ConditionCertificatesReady: all keys and certificates are issued and current.
	ConditionCertificatesReady = "CertificatesReady"
	// ConditionEtcdReady: the tenant's etcd serves.
	ConditionEtcdReady = "EtcdReady"
	// ConditionAPIServerReady: a real read through the tenant's apiserver succeeded.
	ConditionAPIServerReady = "APIServerReady"
	// ConditionControllerManagerReady: the tenant's kube-controller-manager runs.
	ConditionControllerManagerReady = "ControllerManagerReady"
	// ConditionSchedulerReady: the tenant's kube-scheduler runs; only where its class
	// lets the tenant schedule.
	ConditionSchedulerReady = "SchedulerReady"
	// ConditionBootstrapped: roles of the platform's components, and the add-ons of
	// the class, are installed in the tenant's cluster.
	ConditionBootstrapped = "Bootstrapped"
	// ConditionReady: all of the above; the kubeconfig can be used.
	ConditionReady = "Ready"
	// ConditionSynced is the syncer's: its caches of the tenant are filled and it
	// carries changes both ways.
	ConditionSynced = "Synced"
)

// Reasons that more than one component or a user's script refers to.
const (
	// ReasonNameTaken: an object of the name we need exists and is not ours.
	ReasonNameTaken = "NameTaken"
	// ReasonClassNotFound: spec.className names no VirtualClusterClass.
	ReasonClassNotFound = "ClassNotFound"
	// ReasonClassInvalid: the VirtualClusterClass says something that cannot be carried out.
	ReasonClassInvalid = "ClassInvalid"
	// ReasonDeleting: the virtual cluster is being taken down; the message says what is left.
	ReasonDeleting = "Deleting"
)

// VirtualClusterList is a list of virtual clusters.
//
// +kubebuilder:object:root=true
type VirtualClusterList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []VirtualCluster `json:"items"`
}
