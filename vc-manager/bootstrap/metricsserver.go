package bootstrap

import (
	"encoding/base64"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/bulkhead-dev/bulkhead/vc-manager/certificates"
	"github.com/bulkhead-dev/bulkhead/vc-manager/controlplane"
)

const metricsServerName = "metrics-server"

// metricsServer makes the tenant's apiserver serve metrics.k8s.io from the
// metrics-server beside it, and gives that one the rights its authors list.
//
// The tenant's Service has no pods. Its one endpoint is the address of the Service
// in the super cluster: with --enable-aggregator-routing the apiserver goes by
// endpoints, and knows no ExternalName.
func metricsServer(in Input) []client.Object {
	subject := user(certificates.UserMetricsServer)
	reader := clusterRole("system:aggregated-metrics-reader", rbacv1.PolicyRule{
		APIGroups: []string{"metrics.k8s.io"}, Resources: []string{"pods", "nodes"}, Verbs: []string{"get", "list", "watch"},
	})
	reader.Labels = map[string]string{
		"rbac.authorization.k8s.io/aggregate-to-view":  "true",
		"rbac.authorization.k8s.io/aggregate-to-edit":  "true",
		"rbac.authorization.k8s.io/aggregate-to-admin": "true",
	}
	objects := []client.Object{
		reader,
		clusterRole(certificates.UserMetricsServer,
			rbacv1.PolicyRule{APIGroups: []string{""}, Resources: []string{"nodes/metrics"}, Verbs: []string{"get"}},
			rbacv1.PolicyRule{APIGroups: []string{""}, Resources: []string{"pods", "nodes"}, Verbs: []string{"get", "list", "watch"}},
		),
		clusterRoleBinding(certificates.UserMetricsServer, certificates.UserMetricsServer, subject),
		clusterRoleBinding(certificates.UserMetricsServer+":auth-delegator", "system:auth-delegator", subject),
		&rbacv1.RoleBinding{
			TypeMeta:   metav1.TypeMeta{APIVersion: rbacv1.SchemeGroupVersion.String(), Kind: "RoleBinding"},
			ObjectMeta: metav1.ObjectMeta{Namespace: metav1.NamespaceSystem, Name: certificates.UserMetricsServer + ":auth-reader"},
			RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: "extension-apiserver-authentication-reader"},
			Subjects:   []rbacv1.Subject{subject},
		},
		&corev1.Service{
			TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Service"},
			ObjectMeta: metav1.ObjectMeta{Namespace: metav1.NamespaceSystem, Name: metricsServerName},
			Spec: corev1.ServiceSpec{
				Type: corev1.ServiceTypeClusterIP, ClusterIP: corev1.ClusterIPNone,
				Ports: []corev1.ServicePort{{Name: "https", Port: 443, Protocol: corev1.ProtocolTCP}},
			},
		},
		apiService(in),
	}
	return append(objects, metricsServerEndpoint(in))
}

func metricsServerEndpoint(in Input) *discoveryv1.EndpointSlice {
	family := discoveryv1.AddressTypeIPv4
	if in.MetricsServer.Is6() {
		family = discoveryv1.AddressTypeIPv6
	}
	return &discoveryv1.EndpointSlice{
		TypeMeta: metav1.TypeMeta{APIVersion: discoveryv1.SchemeGroupVersion.String(), Kind: "EndpointSlice"},
		ObjectMeta: metav1.ObjectMeta{
			Namespace: metav1.NamespaceSystem, Name: metricsServerName,
			Labels: map[string]string{
				discoveryv1.LabelServiceName: metricsServerName,
				discoveryv1.LabelManagedBy:   "vc-manager.bulkhead.dev",
			},
		},
		AddressType: family,
		Endpoints: []discoveryv1.Endpoint{{
			Addresses: []string{in.MetricsServer.String()}, Conditions: discoveryv1.EndpointConditions{Ready: ptr.To(true)},
		}},
		Ports: []discoveryv1.EndpointPort{{
			Name: ptr.To("https"), Protocol: ptr.To(corev1.ProtocolTCP), Port: ptr.To[int32](controlplane.MetricsServerPort),
		}},
	}
}

// apiService is not a Go type because its module would be one more dependency for
// the sake of one object.
func apiService(in Input) client.Object {
	return &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "apiregistration.k8s.io/v1",
		"kind":       "APIService",
		"metadata":   map[string]any{"name": "v1beta1.metrics.k8s.io"},
		"spec": map[string]any{
			"group": "metrics.k8s.io", "version": "v1beta1",
			"groupPriorityMinimum": int64(100), "versionPriority": int64(100),
			"caBundle": base64.StdEncoding.EncodeToString([]byte(in.ClusterCA)),
			"service":  map[string]any{"namespace": metav1.NamespaceSystem, "name": metricsServerName, "port": int64(443)},
		},
	}}
}
