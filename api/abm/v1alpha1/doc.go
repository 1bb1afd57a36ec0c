// Package v1alpha1 holds the API by which managed services are defined and bought:
// a ServiceDefinition says how a service is made, a ServiceInstance buys it, and
// ABM keeps in StepRecords what it did, so that it can undo exactly that.
//
// +kubebuilder:object:generate=true
// +groupName=abm.bulkhead.dev
package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// Domain is the prefix of ABM's labels, annotations and finalizers.
const Domain = "abm.bulkhead.dev"

// GroupVersion is the API group and version of this package.
var GroupVersion = schema.GroupVersion{Group: Domain, Version: "v1alpha1"}

// AddToScheme registers the types of this package.
func AddToScheme(scheme *runtime.Scheme) error {
	scheme.AddKnownTypes(GroupVersion,
		&ServiceDefinition{}, &ServiceDefinitionList{},
		&ServiceRevision{}, &ServiceRevisionList{},
		&ServiceInstance{}, &ServiceInstanceList{},
		&StepRecord{}, &StepRecordList{},
	)
	metav1.AddToGroupVersion(scheme, GroupVersion)
	return nil
}
