package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
)

// StepRecord is an instance's ledger: one record for each step that was begun. What
// a step is about to do stands in it before it is done, and undoing reads nothing
// else: no definition, no template, no parameter.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:shortName=steprec
// +kubebuilder:printcolumn:name="Instance",type=string,JSONPath=`.instance.name`
// +kubebuilder:printcolumn:name="Step",type=string,JSONPath=`.step`
// +kubebuilder:printcolumn:name="Order",type=integer,JSONPath=`.order`
// +kubebuilder:printcolumn:name="Phase",type=string,JSONPath=`.phase`
// +kubebuilder:printcolumn:name="Failures",type=integer,JSONPath=`.failures`
// +kubebuilder:printcolumn:name="Message",type=string,JSONPath=`.message`,priority=1
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type StepRecord struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// Instance is whose ledger this is.
	Instance InstanceReference `json:"instance"`
	// Step is the step's name.
	Step string `json:"step"`
	// Type is the step's type, such as manifests.
	Type string `json:"type"`
	// Order is how many steps at least come before: of two records the one of the
	// higher order is undone first.
	Order int32 `json:"order"`
	// Target is the virtual cluster worked in; the super cluster if there is none.
	// +optional
	Target *ClusterReference `json:"target,omitempty"`
	// Undo is how the step is taken back.
	// +optional
	Undo Undo `json:"undo,omitempty"`

	// Revision is the ServiceRevision that the inputs are of.
	// +optional
	Revision string `json:"revision,omitempty"`
	// InputHash tells whether what the step shall do is what it did.
	// +optional
	InputHash string `json:"inputHash,omitempty"`

	// Objects are all that the step made or is about to make.
	//
	// +listType=atomic
	// +optional
	Objects []ObjectRecord `json:"objects,omitempty"`
	// Call is the HTTP call that takes the step back.
	// +optional
	Call *CallRecord `json:"call,omitempty"`

	// +optional
	Phase StepPhase `json:"phase,omitempty"`
	// +optional
	Message string `json:"message,omitempty"`
	// Failures counts the attempts in a row that failed.
	// +optional
	Failures int32 `json:"failures,omitempty"`
	// NotBefore is when the next attempt may begin.
	// +optional
	NotBefore *metav1.Time `json:"notBefore,omitempty"`
	// StartedAt is when the present work on the step began, forwards or backwards.
	// +optional
	StartedAt *metav1.Time `json:"startedAt,omitempty"`
	// +optional
	FinishedAt *metav1.Time `json:"finishedAt,omitempty"`
	// UnreachableSince is since when the target does not answer.
	// +optional
	UnreachableSince *metav1.Time `json:"unreachableSince,omitempty"`
	// Outputs are what the step gave.
	//
	// +kubebuilder:pruning:PreserveUnknownFields
	// +optional
	Outputs *runtime.RawExtension `json:"outputs,omitempty"`
	// Secrets are the outputs that are references.
	//
	// +listType=map
	// +listMapKey=name
	// +optional
	Secrets []OutputStatus `json:"secrets,omitempty"`
	// Audit is what people did about the step.
	//
	// +listType=map
	// +listMapKey=id
	// +optional
	Audit []AuditEntry `json:"audit,omitempty"`
}

// StepPhase is how far a step is.
type StepPhase string

// The phases of steps.
const (
	// StepPending: it waits for others.
	StepPending StepPhase = "Pending"
	// StepWorking: it is being done, or what it made is not ready yet.
	StepWorking StepPhase = "Working"
	// StepFailing: the last attempt failed; there will be another.
	StepFailing StepPhase = "Failing"
	// StepFailed: no attempt is left; it waits for an intervention.
	StepFailed StepPhase = "Failed"
	// StepDone: it is done.
	StepDone StepPhase = "Done"
	// StepLeftOut: its when is false.
	StepLeftOut StepPhase = "LeftOut"
	// StepSkipped: somebody decided to go on without it.
	StepSkipped StepPhase = "Skipped"
	// StepUndoing: it is being taken back.
	StepUndoing StepPhase = "Undoing"
)

// InstanceReference names an instance.
type InstanceReference struct {
	Name string    `json:"name"`
	UID  types.UID `json:"uid"`
}

// ClusterReference names a VirtualCluster in the instance's namespace.
type ClusterReference struct {
	Name string    `json:"name"`
	UID  types.UID `json:"uid"`
}

// ObjectRecord is an object that a step made, or is about to make.
type ObjectRecord struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	// +optional
	Namespace string `json:"namespace,omitempty"`
	Name      string `json:"name"`
	// UID is that of the object that was made; empty until that is known. An object
	// of another UID is not the step's.
	// +optional
	UID types.UID `json:"uid,omitempty"`
}

// CallRecord is an HTTP call that is ready to be made.
type CallRecord struct {
	Method string `json:"method"`
	URL    string `json:"url"`
	// +kubebuilder:pruning:PreserveUnknownFields
	// +optional
	Body *runtime.RawExtension `json:"body,omitempty"`
	// +optional
	SuccessCodes []int32 `json:"successCodes,omitempty"`
	// +optional
	CA *SecretReference `json:"ca,omitempty"`
	// +optional
	Authorization *SecretReference `json:"authorization,omitempty"`
}

// AuditEntry is an intervention that was carried out.
type AuditEntry struct {
	Intervention `json:",inline"`
	At           metav1.Time `json:"at"`
	// During is the step's phase at that time.
	During StepPhase `json:"during"`
}

// StepRecordList is a list of records.
//
// +kubebuilder:object:root=true
type StepRecordList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []StepRecord `json:"items"`
}

// Marks on everything that ABM makes for an instance.
const (
	// LabelInstanceUID holds the instance's UID.
	LabelInstanceUID = Domain + "/instance-uid"
	// LabelInstance holds the instance's name, for people.
	LabelInstance = Domain + "/instance"
	// LabelService holds the service's name.
	LabelService = Domain + "/service"
	// LabelStep holds the step's name.
	LabelStep = Domain + "/step"
	// Finalizer keeps instances and records until what they stand for is taken back.
	Finalizer = Domain + "/release"
	// FinalizerAccess keeps the rights of an instance for as long as they are needed.
	FinalizerAccess = Domain + "/access"
)
