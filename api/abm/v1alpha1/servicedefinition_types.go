package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

// ServiceDefinition is a service on sale: what a buyer may choose, and the steps by
// which an instance of it is made. Whoever may write one decides what ABM does, so
// that right belongs to the super cluster's operators.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:scope=Cluster,shortName=svcdef,categories=bulkhead
// +kubebuilder:printcolumn:name="Accepted",type=string,JSONPath=`.status.conditions[?(@.type=="Accepted")].status`
// +kubebuilder:printcolumn:name="Revision",type=string,JSONPath=`.status.latestRevision`
// +kubebuilder:printcolumn:name="Title",type=string,JSONPath=`.spec.title`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
// +kubebuilder:validation:XValidation:rule="self.metadata.name.size() <= 50",message="the name may have 50 characters at most"
type ServiceDefinition struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec   ServiceSpec             `json:"spec"`
	Status ServiceDefinitionStatus `json:"status,omitempty"`
}

// ServiceSpec is a definition's content. Strings in templates may hold CEL
// expressions as ${...}; docs/abm.md says what they see.
type ServiceSpec struct {
	// Title names the service for buyers.
	//
	// +kubebuilder:validation:MaxLength=100
	// +optional
	Title string `json:"title,omitempty"`
	// Description tells buyers what they get.
	//
	// +kubebuilder:validation:MaxLength=4096
	// +optional
	Description string `json:"description,omitempty"`

	// ParameterSchema is the structural OpenAPI v3 schema of what a buyer may choose,
	// with x-kubernetes-validations. A field it does not name is refused.
	//
	// +kubebuilder:pruning:PreserveUnknownFields
	// +optional
	ParameterSchema *runtime.RawExtension `json:"parameterSchema,omitempty"`
	// PlanSchema is the schema of what each plan sets and no buyer can.
	//
	// +kubebuilder:pruning:PreserveUnknownFields
	// +optional
	PlanSchema *runtime.RawExtension `json:"planSchema,omitempty"`

	// Plans are the sizes on sale.
	//
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=32
	// +listType=map
	// +listMapKey=name
	Plans []Plan `json:"plans"`

	// Access is all that instances of the service may touch.
	//
	// +optional
	Access Access `json:"access,omitempty"`

	// Order says which steps a step waits for.
	//
	// +kubebuilder:default=Sequence
	// +optional
	Order StepOrder `json:"order,omitempty"`

	// Steps make an instance. They are undone in reverse.
	//
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=64
	// +listType=map
	// +listMapKey=name
	Steps []Step `json:"steps"`

	// Outputs are shown in the instance's status, such as the console's address.
	//
	// +kubebuilder:validation:MaxItems=32
	// +listType=map
	// +listMapKey=name
	// +optional
	Outputs []Output `json:"outputs,omitempty"`
}

// StepOrder is how steps depend on each other.
//
// +kubebuilder:validation:Enum=Sequence;Graph
type StepOrder string

// The orders of steps.
const (
	// OrderSequence lets each step wait for the one before it.
	OrderSequence StepOrder = "Sequence"
	// OrderGraph lets each step wait for those that its needs name.
	OrderGraph StepOrder = "Graph"
)

// Plan is one size of a service.
type Plan struct {
	// +kubebuilder:validation:MaxLength=63
	// +kubebuilder:validation:Pattern=`^[a-z0-9]([-a-z0-9]*[a-z0-9])?$`
	Name string `json:"name"`
	// +kubebuilder:validation:MaxLength=1024
	// +optional
	Description string `json:"description,omitempty"`
	// Values are what expressions see as plan; PlanSchema checks them.
	//
	// +kubebuilder:pruning:PreserveUnknownFields
	// +optional
	Values *runtime.RawExtension `json:"values,omitempty"`
}

// Access is what a definition opens; everything else is refused before it is tried.
type Access struct {
	// Super are kinds in the instance's own namespace of the super cluster.
	//
	// +kubebuilder:validation:MaxItems=64
	// +optional
	Super []Kind `json:"super,omitempty"`
	// Tenant are kinds in the virtual cluster that the instance made.
	//
	// +kubebuilder:validation:MaxItems=128
	// +optional
	Tenant []Kind `json:"tenant,omitempty"`
	// Hosts are hosts that HTTP steps may call, with the port where it is not 443.
	// "*.x.example" stands for each one directly below.
	//
	// +kubebuilder:validation:MaxItems=32
	// +kubebuilder:validation:items:MaxLength=260
	// +kubebuilder:validation:items:Pattern=`^(\*\.)?[a-zA-Z0-9]([-a-zA-Z0-9.]*[a-zA-Z0-9])?(:[0-9]{1,5})?$`
	// +listType=set
	// +optional
	Hosts []string `json:"hosts,omitempty"`
}

// Kind names a kind of objects in any version.
type Kind struct {
	// Group is the API group; empty for Kubernetes' core.
	//
	// +kubebuilder:validation:MaxLength=253
	// +kubebuilder:validation:Pattern=`^([a-z0-9]([-a-z0-9.]*[a-z0-9])?)?$`
	// +optional
	Group string `json:"group,omitempty"`
	// +kubebuilder:validation:MaxLength=63
	// +kubebuilder:validation:Pattern=`^[A-Z][A-Za-z0-9]*$`
	Kind string `json:"kind"`
}

// Output is a value made of expressions, or a reference to a key of a Secret.
//
// +kubebuilder:validation:XValidation:rule="has(self.value) != has(self.secret)",message="an output has either a value or a secret"
type Output struct {
	// +kubebuilder:validation:MaxLength=63
	// +kubebuilder:validation:Pattern=`^[a-zA-Z]([a-zA-Z0-9]*[a-zA-Z0-9])?$`
	Name string `json:"name"`
	// Value is a template, such as "https://${steps.console.outputs.host}".
	//
	// +kubebuilder:validation:MaxLength=4096
	// +optional
	Value string `json:"value,omitempty"`
	// Secret says where a value is that nobody may read here.
	//
	// +optional
	Secret *SecretKey `json:"secret,omitempty"`
}

// SecretKey refers to a key of a Secret.
type SecretKey struct {
	// Namespace of the Secret; in the super cluster it is always the instance's own.
	//
	// +kubebuilder:validation:MaxLength=63
	// +optional
	Namespace string `json:"namespace,omitempty"`
	// Name may be a template.
	//
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=1024
	Name string `json:"name"`
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Key string `json:"key"`
}

// ServiceDefinitionStatus is what ABM made of a definition.
type ServiceDefinitionStatus struct {
	// LatestRevision is what is bought now.
	// +optional
	LatestRevision string `json:"latestRevision,omitempty"`
	// Conditions has Accepted.
	//
	// +listType=map
	// +listMapKey=type
	// +optional
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}

// ConditionAccepted says that the definition can be carried out and its revision exists.
const ConditionAccepted = "Accepted"

// ServiceDefinitionList is a list of definitions.
//
// +kubebuilder:object:root=true
type ServiceDefinitionList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []ServiceDefinition `json:"items"`
}

// ServiceRevision is a definition as it was when ABM accepted it. It never changes;
// instances keep theirs whatever becomes of the definition.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:scope=Cluster,shortName=svcrev,categories=bulkhead
// +kubebuilder:printcolumn:name="Service",type=string,JSONPath=`.serviceName`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
// +kubebuilder:validation:XValidation:rule="self.spec == oldSelf.spec && self.serviceName == oldSelf.serviceName",message="a revision never changes"
type ServiceRevision struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// ServiceName is the definition's name.
	ServiceName string `json:"serviceName"`
	// Spec is the definition's content. It is opaque here, so that no later version of
	// this API can drop a field of it.
	//
	// +kubebuilder:pruning:PreserveUnknownFields
	Spec runtime.RawExtension `json:"spec"`
}

// ServiceRevisionList is a list of revisions.
//
// +kubebuilder:object:root=true
type ServiceRevisionList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []ServiceRevision `json:"items"`
}
