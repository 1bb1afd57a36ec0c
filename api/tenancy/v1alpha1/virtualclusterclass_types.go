package v1alpha1

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// VirtualClusterClass is what a platform team offers to tenants: how their control
// planes run, how they are reached, and what their pods may do.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:scope=Cluster,shortName=vcc,categories=bulkhead
// +kubebuilder:printcolumn:name="Kind",type=string,JSONPath=`.spec.kind`
// +kubebuilder:printcolumn:name="Pod-Security",type=string,JSONPath=`.spec.podSecurity`
// +kubebuilder:printcolumn:name="Runtime-Class",type=string,JSONPath=`.spec.runtimeClassName`
// +kubebuilder:printcolumn:name="Exposure",type=string,JSONPath=`.spec.exposure.type`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type VirtualClusterClass struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// +kubebuilder:default={}
	Spec VirtualClusterClassSpec `json:"spec,omitempty"`
}

// ClassKind says how the control planes of a class are made.
//
// +kubebuilder:validation:Enum=Dedicated
type ClassKind string

// ClassDedicated runs each control plane as pods of its own in a namespace of its own.
const ClassDedicated ClassKind = "Dedicated"

// PodSecurityLevel is the Pod Security Standard that a tenant's pods must meet. On
// every level hostPath, hostNetwork, hostPID, hostIPC and foreign runtime classes
// are refused.
//
// +kubebuilder:validation:Enum=restricted;baseline;privileged
type PodSecurityLevel string

// The Pod Security Standards (https://kubernetes.io/docs/concepts/security/pod-security-standards/).
const (
	PodSecurityRestricted PodSecurityLevel = "restricted"
	PodSecurityBaseline   PodSecurityLevel = "baseline"
	PodSecurityPrivileged PodSecurityLevel = "privileged"
)

// VirtualClusterClassSpec is the offer.
//
// +kubebuilder:validation:XValidation:rule="!has(self.scheduling) || self.scheduling != 'tenant' || (has(self.nodes) && has(self.nodes.mode) && self.nodes.mode == 'selected')",message="scheduling by the tenant needs nodes.mode selected: its scheduler must see the nodes before it places a pod"
type VirtualClusterClassSpec struct {
	// Kind says how control planes of this class are made.
	//
	// +kubebuilder:default=Dedicated
	// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="kind cannot change: make a new class"
	// +optional
	Kind ClassKind `json:"kind,omitempty"`

	// Etcd of each control plane.
	// +kubebuilder:default={}
	// +optional
	Etcd EtcdSpec `json:"etcd,omitempty"`

	// APIServer of each control plane.
	// +kubebuilder:default={}
	// +optional
	APIServer ComponentSpec `json:"apiServer,omitempty"`

	// ControllerManager of each control plane.
	// +kubebuilder:default={}
	// +optional
	ControllerManager ComponentSpec `json:"controllerManager,omitempty"`

	// Scheduler of each control plane, where tenants schedule themselves.
	// +kubebuilder:default={}
	// +optional
	Scheduler ComponentSpec `json:"scheduler,omitempty"`

	// MetricsServer beside each control plane, for `kubectl top` and the HPA.
	// +kubebuilder:default={}
	// +optional
	MetricsServer MetricsServerSpec `json:"metricsServer,omitempty"`

	// Exposure says how tenants reach their apiservers.
	// +kubebuilder:default={}
	// +optional
	Exposure ExposureSpec `json:"exposure,omitempty"`

	// PodSecurity is the level that tenants' pods must meet.
	// +kubebuilder:default=baseline
	// +optional
	PodSecurity PodSecurityLevel `json:"podSecurity,omitempty"`

	// RuntimeClassName is the super cluster's RuntimeClass that all pods of the
	// tenants run with; empty for the nodes' default runtime.
	//
	// +kubebuilder:validation:MaxLength=253
	// +optional
	RuntimeClassName string `json:"runtimeClassName,omitempty"`

	// StorageClasses names the super cluster's StorageClasses that tenants see.
	// Empty: the default one only.
	//
	// +kubebuilder:validation:MaxItems=64
	// +kubebuilder:validation:items:MaxLength=253
	// +listType=set
	// +optional
	StorageClasses []string `json:"storageClasses,omitempty"`

	// RuntimeClasses names further RuntimeClasses of the super cluster that tenants see,
	// and that their pods may ask for in place of runtimeClassName. Empty: none.
	//
	// +kubebuilder:validation:MaxItems=64
	// +kubebuilder:validation:items:MaxLength=253
	// +listType=set
	// +optional
	RuntimeClasses []string `json:"runtimeClasses,omitempty"`

	// PriorityClasses names the super cluster's PriorityClasses that tenants see, and by
	// which their pods are scheduled and evicted among those of others. Only such with
	// preemptionPolicy Never are offered: no tenant's pod preempts another's. Empty: none.
	//
	// +kubebuilder:validation:MaxItems=64
	// +kubebuilder:validation:items:MaxLength=253
	// +kubebuilder:validation:XValidation:rule="self.all(name, !name.startsWith('system-'))",message="classes of the system are not for tenants"
	// +listType=set
	// +optional
	PriorityClasses []string `json:"priorityClasses,omitempty"`

	// IngressClasses names the super cluster's IngressClasses that tenants see. Empty: none.
	//
	// +kubebuilder:validation:MaxItems=64
	// +kubebuilder:validation:items:MaxLength=253
	// +listType=set
	// +optional
	IngressClasses []string `json:"ingressClasses,omitempty"`

	// Nodes says which of the super cluster's nodes tenants see.
	// +kubebuilder:default={}
	// +optional
	Nodes NodesSpec `json:"nodes,omitempty"`

	// Scheduling says who places tenants' pods: the super cluster's scheduler, or a
	// kube-scheduler in each tenant's control plane, which needs nodes.mode selected.
	//
	// +kubebuilder:default=super
	// +optional
	Scheduling Scheduling `json:"scheduling,omitempty"`

	// Syncer says how the syncer serves the tenants of this class.
	// +kubebuilder:default={}
	// +optional
	Syncer SyncerSpec `json:"syncer,omitempty"`
}

// SyncerSpec says how the syncer serves tenants.
type SyncerSpec struct {
	// Weight is each tenant's share of the syncer's workers while others wait for them
	// too: one of weight 20 gets twice the time of one of weight 10. Where nobody waits
	// it changes nothing.
	//
	// +kubebuilder:default=10
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=100
	// +optional
	Weight int32 `json:"weight,omitempty"`
}

// NodesMode says when a node of the super cluster appears in a tenant's cluster.
//
// +kubebuilder:validation:Enum=onDemand;selected
type NodesMode string

// The modes of nodes.
const (
	// NodesOnDemand shows a node while it runs a pod of the tenant.
	NodesOnDemand NodesMode = "onDemand"
	// NodesSelected shows all nodes that the selector picks, from the start. The
	// tenant's pods run on these alone, and may tolerate their taints. DaemonSets need it.
	NodesSelected NodesMode = "selected"
)

// NodesSpec says which nodes tenants see.
//
// +kubebuilder:validation:XValidation:rule="has(self.mode) && self.mode == 'selected' ? has(self.selector) : !has(self.selector)",message="selector goes with mode selected, which needs one: {} for all nodes"
type NodesSpec struct {
	// Mode says when a node appears.
	// +kubebuilder:default=onDemand
	// +optional
	Mode NodesMode `json:"mode,omitempty"`

	// Selector picks nodes by their labels in the super cluster; {} picks all.
	// +optional
	Selector *metav1.LabelSelector `json:"selector,omitempty"`
}

// Scheduling says who places pods on nodes.
//
// +kubebuilder:validation:Enum=super;tenant
type Scheduling string

// Who places pods.
const (
	ScheduledBySuper  Scheduling = "super"
	ScheduledByTenant Scheduling = "tenant"
)

// ComponentSpec describes the pods of one control-plane component.
type ComponentSpec struct {
	// Image to run instead of the installation's default.
	//
	// +kubebuilder:validation:MaxLength=1024
	// +optional
	Image string `json:"image,omitempty"`

	// Resources of the component's container, instead of the installation's default.
	// +optional
	Resources *corev1.ResourceRequirements `json:"resources,omitempty"`
}

// EtcdSpec describes a control plane's etcd and its volume.
type EtcdSpec struct {
	ComponentSpec `json:",inline"`

	// Storage of the etcd member.
	// +kubebuilder:default={}
	// +optional
	Storage StorageSpec `json:"storage,omitempty"`
}

// StorageSpec describes a volume.
type StorageSpec struct {
	// StorageClassName in the super cluster; empty for its default.
	//
	// +kubebuilder:validation:MaxLength=253
	// +optional
	StorageClassName string `json:"storageClassName,omitempty"`

	// Size of the volume.
	// +kubebuilder:default="2Gi"
	// +optional
	Size resource.Quantity `json:"size,omitzero"`
}

// MetricsServerSpec describes a control plane's metrics-server.
type MetricsServerSpec struct {
	ComponentSpec `json:",inline"`

	// Disabled leaves metrics-server out.
	// +optional
	Disabled bool `json:"disabled,omitempty"`
}

// ExposureType is the type of the Service in front of a tenant's apiserver.
//
// +kubebuilder:validation:Enum=ClusterIP;NodePort;LoadBalancer
type ExposureType string

// The ways to reach a tenant's apiserver.
const (
	ExposeClusterIP    ExposureType = "ClusterIP"
	ExposeNodePort     ExposureType = "NodePort"
	ExposeLoadBalancer ExposureType = "LoadBalancer"
)

// ExposureSpec says how tenants reach their apiservers from outside.
//
// +kubebuilder:validation:XValidation:rule="!has(self.host) || size(self.host) == 0 || self.type == 'NodePort'",message="host goes with type NodePort"
type ExposureSpec struct {
	// Type of the Service in front of the apiserver.
	// +kubebuilder:default=LoadBalancer
	// +optional
	Type ExposureType `json:"type,omitempty"`

	// Host is the DNS name or address by which nodes are reached, with type NodePort.
	// Empty: the internal address of a node.
	//
	// +kubebuilder:validation:MaxLength=253
	// +optional
	Host string `json:"host,omitempty"`

	// Annotations of the Service, such as a cloud's load balancer settings.
	// +kubebuilder:validation:MaxProperties=64
	// +optional
	Annotations map[string]string `json:"annotations,omitempty"`
}

// VirtualClusterClassList is a list of classes.
//
// +kubebuilder:object:root=true
type VirtualClusterClassList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []VirtualClusterClass `json:"items"`
}
