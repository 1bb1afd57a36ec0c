package controlplane

import (
	"encoding/json"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	tenancyv1alpha1 "github.com/bulkhead-dev/bulkhead/api/tenancy/v1alpha1"
)

// ClassRecordName is the ConfigMap that ClassRecord makes.
const ClassRecordName = "virtual-cluster-class"

const classRecordKey = "spec.json"

// ClassRecord keeps the class as it was when the control plane was last rendered.
// Should the class be deleted, the control plane is looked after by it.
func ClassRecord(in Input) (*corev1.ConfigMap, error) {
	spec, err := json.Marshal(in.Class)
	if err != nil {
		return nil, fmt.Errorf("encoding the class of %s: %w", in.Tenant, err)
	}
	return &corev1.ConfigMap{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "ConfigMap"},
		ObjectMeta: in.meta(ClassRecordName, ClassRecordName),
		Data:       map[string]string{classRecordKey: string(spec)},
	}, nil
}

// ReadClassRecord is the reverse of ClassRecord.
func ReadClassRecord(record *corev1.ConfigMap) (tenancyv1alpha1.VirtualClusterClassSpec, error) {
	var spec tenancyv1alpha1.VirtualClusterClassSpec
	if err := json.Unmarshal([]byte(record.Data[classRecordKey]), &spec); err != nil {
		return spec, fmt.Errorf("reading configmap %s/%s: %w", record.Namespace, record.Name, err)
	}
	return spec, nil
}
