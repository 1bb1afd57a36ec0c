// Package v1alpha1 holds the API that platform teams use to give tenants a
// Kubernetes cluster of their own.
//
// +kubebuilder:object:generate=true
// +groupName=tenancy.bulkhead.dev
package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// GroupVersion is the API group and version of this package.
var GroupVersion = schema.GroupVersion{Group: "tenancy.bulkhead.dev", Version: "v1alpha1"}

// AddToScheme registers the types of this package.
func AddToScheme(scheme *runtime.Scheme) error {
	scheme.AddKnownTypes(GroupVersion,
		&VirtualCluster{}, &VirtualClusterList{},
		&VirtualClusterClass{}, &VirtualClusterClassList{},
	)
	metav1.AddToGroupVersion(scheme, GroupVersion)
	return nil
}
