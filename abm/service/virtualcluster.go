package service

import (
	"k8s.io/apimachinery/pkg/runtime/schema"
	utiljson "k8s.io/apimachinery/pkg/util/json"

	abmv1alpha1 "github.com/bulkhead-dev/bulkhead/api/abm/v1alpha1"
	tenancyv1alpha1 "github.com/bulkhead-dev/bulkhead/api/tenancy/v1alpha1"
)

const virtualClusterKind = "VirtualCluster"

// isVirtualCluster tells whether a manifest is one of a VirtualCluster.
func isVirtualCluster(manifest []byte) bool {
	var content struct {
		APIVersion string `json:"apiVersion"`
		Kind       string `json:"kind"`
	}
	if err := utiljson.Unmarshal(manifest, &content); err != nil {
		return false
	}
	return ofVirtualCluster(content.APIVersion, content.Kind)
}

func ofVirtualCluster(apiVersion, kind string) bool {
	parsed, err := schema.ParseGroupVersion(apiVersion)
	return err == nil && parsed.Group == tenancyv1alpha1.GroupVersion.Group && kind == virtualClusterKind
}

// VirtualCluster finds the virtual cluster that a step recorded to have made; its UID
// is empty until it is made.
func VirtualCluster(record *abmv1alpha1.StepRecord) (abmv1alpha1.ClusterReference, bool) {
	for _, object := range record.Objects {
		if ofVirtualCluster(object.APIVersion, object.Kind) {
			return abmv1alpha1.ClusterReference{Name: object.Name, UID: object.UID}, true
		}
	}
	return abmv1alpha1.ClusterReference{}, false
}
