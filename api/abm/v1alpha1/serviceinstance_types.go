package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

// ServiceInstance buys a service. Deleting it takes back everything that was made
// for it.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:shortName=abm,categories=bulkhead
// +kubebuilder:printcolumn:name="Service",type=string,JSONPath=`.spec.serviceName`
// +kubebuilder:printcolumn:name="Plan",type=string,JSONPath=`.spec.planName`
// +kubebuilder:printcolumn:name="Phase",type=string,JSONPath=`.status.phase`
// +kubebuilder:printcolumn:name="Ready",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].status`
// +kubebuilder:printcolumn:name="Message",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].message`,priority=1
// +kubebuilder:printcolumn:name="Revision",type=string,JSONPath=`.status.revision`,priority=1
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
// +kubebuilder:validation:XValidation:rule="self.metadata.name.size() <= 50 && !self.metadata.name.contains('.')",message="the name may have 50 characters at most, and no dot"
type ServiceInstance struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec   ServiceInstanceSpec   `json:"spec"`
	Status ServiceInstanceStatus `json:"status,omitempty"`
}

// ServiceInstanceSpec is what is bought.
type ServiceInstanceSpec struct {
	// ServiceName names the ServiceDefinition.
	//
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=50
	// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="serviceName cannot change: buy the other service, then release this one"
	ServiceName string `json:"serviceName"`
	// PlanName names one of its plans.
	//
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	PlanName string `json:"planName"`
	// Parameters are the buyer's choices; the service's schema checks them.
	//
	// +kubebuilder:pruning:PreserveUnknownFields
	// +optional
	Parameters *runtime.RawExtension `json:"parameters,omitempty"`
	// Revision names the ServiceRevision to have. Without it the instance keeps the one
	// that it began with; setting another upgrades it.
	//
	// +kubebuilder:validation:MaxLength=63
	// +optional
	Revision string `json:"revision,omitempty"`
	// State is whether the service runs. What templates do where instance.suspended is
	// true is their matter; nothing is undone.
	//
	// +kubebuilder:validation:Enum=Running;Suspended
	// +kubebuilder:default=Running
	// +optional
	State InstanceState `json:"state,omitempty"`
	// Interventions are what people did about steps. One that is there cannot change.
	//
	// +kubebuilder:validation:MaxItems=64
	// +kubebuilder:validation:XValidation:rule="oldSelf.all(before, self.all(after, after.id != before.id || after == before))",message="an intervention cannot change: add another"
	// +listType=map
	// +listMapKey=id
	// +optional
	Interventions []Intervention `json:"interventions,omitempty"`
}

// InstanceState is whether a service runs.
type InstanceState string

// The states.
const (
	StateRunning   InstanceState = "Running"
	StateSuspended InstanceState = "Suspended"
)

// Intervention is something that a person decides about a step.
type Intervention struct {
	// ID tells interventions apart; each is carried out once.
	//
	// +kubebuilder:validation:MaxLength=63
	// +kubebuilder:validation:Pattern=`^[a-zA-Z0-9]([-a-zA-Z0-9]*[a-zA-Z0-9])?$`
	ID string `json:"id"`
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=40
	Step string `json:"step"`
	// Action: Approve an approval; Retry at once, with all attempts anew; Skip, to go on
	// as if the step were done. Approve and Skip need the verb of that name on
	// serviceinstances.
	//
	// +kubebuilder:validation:Enum=Approve;Retry;Skip
	Action InterventionAction `json:"action"`
	// By is the user who intervenes: the one who makes the request.
	//
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	By string `json:"by"`
	// +kubebuilder:validation:MaxLength=1024
	// +optional
	Reason string `json:"reason,omitempty"`
}

// InterventionAction is what an intervention does.
type InterventionAction string

// The actions.
const (
	ActionApprove InterventionAction = "Approve"
	ActionRetry   InterventionAction = "Retry"
	ActionSkip    InterventionAction = "Skip"
)

// ServiceInstanceStatus is how far an instance is.
type ServiceInstanceStatus struct {
	// +optional
	Phase InstancePhase `json:"phase,omitempty"`
	// Revision is the ServiceRevision in work.
	// +optional
	Revision string `json:"revision,omitempty"`
	// Steps tell how far each is.
	//
	// +listType=map
	// +listMapKey=name
	// +optional
	Steps []StepStatus `json:"steps,omitempty"`
	// Outputs are what the service gives its buyer.
	//
	// +listType=map
	// +listMapKey=name
	// +optional
	Outputs []OutputStatus `json:"outputs,omitempty"`
	// Notes are what release left to others, such as steps in a cluster that is gone.
	//
	// +kubebuilder:validation:MaxItems=64
	// +listType=atomic
	// +optional
	Notes []string `json:"notes,omitempty"`
	// Conditions has Ready, Reconciling, Stalled, and those that steps name.
	//
	// +listType=map
	// +listMapKey=type
	// +optional
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}

// InstancePhase sums up the conditions for people.
type InstancePhase string

// The phases.
const (
	PhaseProvisioning InstancePhase = "Provisioning"
	PhaseReady        InstancePhase = "Ready"
	PhaseUpdating     InstancePhase = "Updating"
	PhaseSuspending   InstancePhase = "Suspending"
	PhaseSuspended    InstancePhase = "Suspended"
	PhaseStalled      InstancePhase = "Stalled"
	PhaseReleasing    InstancePhase = "Releasing"
)

// Condition types of a ServiceInstance.
const (
	// ConditionReady: all steps are done, and what they made is ready.
	ConditionReady = "Ready"
	// ConditionReconciling: ABM is at work.
	ConditionReconciling = "Reconciling"
	// ConditionStalled: a step does not get on; the message says why. Work goes on,
	// unless the message asks for an intervention.
	ConditionStalled = "Stalled"
)

// StepStatus is how far a step is; its StepRecord says more.
type StepStatus struct {
	Name string `json:"name"`
	// +optional
	Type string `json:"type,omitempty"`
	// +optional
	Needs []string  `json:"needs,omitempty"`
	Phase StepPhase `json:"phase"`
	// +optional
	Message string `json:"message,omitempty"`
	// +optional
	StartedAt *metav1.Time `json:"startedAt,omitempty"`
	// +optional
	FinishedAt *metav1.Time `json:"finishedAt,omitempty"`
}

// OutputStatus is an output of an instance.
type OutputStatus struct {
	Name string `json:"name"`
	// +optional
	Value string `json:"value,omitempty"`
	// +optional
	Secret *SecretReference `json:"secret,omitempty"`
}

// SecretReference is where a value is.
type SecretReference struct {
	// VirtualCluster is the cluster that the Secret is in; the super cluster if empty.
	// +optional
	VirtualCluster string `json:"virtualCluster,omitempty"`
	Namespace      string `json:"namespace"`
	Name           string `json:"name"`
	Key            string `json:"key"`
}

// ServiceInstanceList is a list of instances.
//
// +kubebuilder:object:root=true
type ServiceInstanceList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []ServiceInstance `json:"items"`
}
