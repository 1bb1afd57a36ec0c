package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

// Step is one thing to do. Exactly one of its type's fields is set.
//
// +kubebuilder:validation:XValidation:rule="[has(self.manifests), has(self.wait), has(self.http), has(self.approval)].filter(x, x).size() == 1",message="a step has exactly one of manifests, wait, http and approval"
// +kubebuilder:validation:XValidation:rule="!has(self.target) || !has(self.approval)",message="an approval has no target"
// +kubebuilder:validation:XValidation:rule="!has(self.target) || !has(self.http)",message="an HTTP step has no target"
type Step struct {
	// +kubebuilder:validation:MaxLength=40
	// +kubebuilder:validation:Pattern=`^[a-z]([-a-z0-9]*[a-z0-9])?$`
	Name string `json:"name"`
	// Needs names the steps that must be done before, where the order is Graph.
	//
	// +kubebuilder:validation:MaxItems=64
	// +listType=set
	// +optional
	Needs []string `json:"needs,omitempty"`
	// When is a CEL expression; where it is false, the step is left out.
	//
	// +kubebuilder:validation:MaxLength=4096
	// +optional
	When string `json:"when,omitempty"`
	// Target is the cluster that the step works in: the instance's namespace of the
	// super cluster, unless it names a virtual cluster.
	//
	// +optional
	Target *Target `json:"target,omitempty"`

	// Manifests applies objects.
	// +optional
	Manifests *ManifestsStep `json:"manifests,omitempty"`
	// Wait waits until an object is as an expression says.
	// +optional
	Wait *WaitStep `json:"wait,omitempty"`
	// HTTP calls a server.
	// +optional
	HTTP *HTTPStep `json:"http,omitempty"`
	// Approval waits for somebody to approve.
	// +optional
	Approval *ApprovalStep `json:"approval,omitempty"`

	// Outputs are what later steps see as steps.<name>.outputs.<output>.
	//
	// +kubebuilder:validation:MaxItems=32
	// +listType=map
	// +listMapKey=name
	// +optional
	Outputs []Output `json:"outputs,omitempty"`

	// Condition is a condition type of the instance that is True while the step is done.
	//
	// +kubebuilder:validation:MaxLength=60
	// +kubebuilder:validation:Pattern=`^[A-Z][A-Za-z0-9]*$`
	// +kubebuilder:validation:XValidation:rule="!(self in ['Ready', 'Stalled', 'Reconciling'])",message="Ready, Stalled and Reconciling are ABM's own"
	// +optional
	Condition string `json:"condition,omitempty"`

	// Timeout is after how long without being done the instance is Stalled; work goes on.
	//
	// +kubebuilder:default="10m"
	// +optional
	Timeout *metav1.Duration `json:"timeout,omitempty"`
	// Retry bounds the attempts that fail.
	//
	// +optional
	Retry Retry `json:"retry,omitempty"`
	// Undo says how the step is taken back.
	//
	// +optional
	Undo Undo `json:"undo,omitempty"`
}

// Target is a cluster to work in.
type Target struct {
	// VirtualCluster names the step that makes the VirtualCluster, which this one then
	// waits for.
	//
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=40
	VirtualCluster string `json:"virtualCluster"`
}

// Retry is how failed attempts are repeated. A failure is an error that the server
// or the expression gave; that something is not ready yet is none.
type Retry struct {
	// Limit is after how many failures in a row ABM waits for a retry by hand; 0 for never.
	//
	// +kubebuilder:validation:Minimum=0
	// +optional
	Limit int32 `json:"limit,omitempty"`
	// Initial is the time after the first failure; it doubles with each one.
	//
	// +kubebuilder:default="1s"
	// +optional
	Initial *metav1.Duration `json:"initial,omitempty"`
	// Max bounds that time.
	//
	// +kubebuilder:default="1m"
	// +optional
	Max *metav1.Duration `json:"max,omitempty"`
}

// Undo is how a step is taken back.
type Undo struct {
	// Policy Retain leaves what the step made.
	//
	// +kubebuilder:default=Delete
	// +optional
	Policy UndoPolicy `json:"policy,omitempty"`
	// Timeout is for how long a virtual cluster that does not answer is waited for,
	// before the step is left to the deletion of that cluster.
	//
	// +kubebuilder:default="5m"
	// +optional
	Timeout *metav1.Duration `json:"timeout,omitempty"`
}

// UndoPolicy is whether what a step made is deleted with the instance.
//
// +kubebuilder:validation:Enum=Delete;Retain
type UndoPolicy string

// The policies.
const (
	UndoDelete UndoPolicy = "Delete"
	UndoRetain UndoPolicy = "Retain"
)

// ManifestsStep applies objects and waits until they are ready.
type ManifestsStep struct {
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=64
	// +listType=map
	// +listMapKey=id
	Objects []Manifest `json:"objects"`
}

// Manifest is one object.
type Manifest struct {
	// ID is the object's name in expressions: objects.<id>.
	//
	// +kubebuilder:validation:MaxLength=40
	// +kubebuilder:validation:Pattern=`^[a-z][a-zA-Z0-9]*$`
	ID string `json:"id"`
	// When is a CEL expression; where it is false, the object is left out.
	//
	// +kubebuilder:validation:MaxLength=4096
	// +optional
	When string `json:"when,omitempty"`
	// Template is the object. Its apiVersion, kind and namespace are plain text.
	//
	// +kubebuilder:pruning:PreserveUnknownFields
	Template runtime.RawExtension `json:"template"`
	// ReadyWhen is a CEL expression over self, the object as it is; in place of ABM's
	// own knowledge of when objects are ready.
	//
	// +kubebuilder:validation:MaxLength=4096
	// +optional
	ReadyWhen string `json:"readyWhen,omitempty"`
}

// ObjectName names one object.
type ObjectName struct {
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=300
	APIVersion string `json:"apiVersion"`
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	Kind string `json:"kind"`
	// Namespace in a virtual cluster; in the super cluster it is the instance's own.
	//
	// +kubebuilder:validation:MaxLength=63
	// +optional
	Namespace string `json:"namespace,omitempty"`
	// Name may be a template.
	//
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=1024
	Name string `json:"name"`
}

// WaitStep waits for an object that something else makes.
type WaitStep struct {
	Object ObjectName `json:"object"`
	// Until is a CEL expression over self, the object as it is.
	//
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=4096
	Until string `json:"until"`
}

// HTTPStep calls a server over TLS. Each call carries an Idempotency-Key header that
// is the same for repeats of one call.
type HTTPStep struct {
	// Do is the call. It is repeated until it succeeds.
	Do HTTPCall `json:"do"`
	// Until is a CEL expression over response {status, body}; while it is false, the
	// call is repeated.
	//
	// +kubebuilder:validation:MaxLength=4096
	// +optional
	Until string `json:"until,omitempty"`
	// Undo is called to take the step back. 404 and 410 count as success.
	//
	// +optional
	Undo *HTTPCall `json:"undo,omitempty"`
	// CA is where the certificate authority is that signed the server's certificate;
	// those that the system trusts, if it is left out.
	//
	// +optional
	CA *SecretKey `json:"ca,omitempty"`
	// Authorization is where the Authorization header's value is.
	//
	// +optional
	Authorization *SecretKey `json:"authorization,omitempty"`
}

// HTTPCall is one request.
type HTTPCall struct {
	// +kubebuilder:validation:Enum=GET;HEAD;POST;PUT;PATCH;DELETE
	Method string `json:"method"`
	// URL is an https:// template, whose host Access allows.
	//
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=4096
	URL string `json:"url"`
	// Body is a template that is sent as JSON.
	//
	// +kubebuilder:pruning:PreserveUnknownFields
	// +optional
	Body *runtime.RawExtension `json:"body,omitempty"`
	// SuccessCodes are the status codes that mean success, besides 200 to 299.
	//
	// +kubebuilder:validation:MaxItems=16
	// +kubebuilder:validation:items:Minimum=100
	// +kubebuilder:validation:items:Maximum=599
	// +listType=set
	// +optional
	SuccessCodes []int32 `json:"successCodes,omitempty"`
}

// ApprovalStep waits until somebody adds an Approve intervention to the instance.
type ApprovalStep struct {
	// Question is what is to be decided, for whoever does.
	//
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=1024
	Question string `json:"question"`
}
