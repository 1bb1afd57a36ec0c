package main

import (
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/bulkhead-dev/bulkhead/internal/testenv"
)

// A Service changes its type and back, and the super cluster's follows each time.
func TestServiceTypeChanges(t *testing.T) {
	startSyncer(t)
	tn := newTenant(t, 0, nil).synced()
	ns := tn.namespace("types")
	service := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "web"}, Spec: corev1.ServiceSpec{
		Selector: map[string]string{"app": "web"}, Ports: []corev1.ServicePort{{Port: 80}},
	}}
	must(t, tn.client.Create(t.Context(), service))
	for i, kind := range []corev1.ServiceType{"ClusterIP", "LoadBalancer", "NodePort", "LoadBalancer", "ExternalName", "ClusterIP"} {
		testenv.Change(t, tn.client, service, func() {
			service.Spec.Type, service.Spec.ExternalName = kind, ""
			if kind == corev1.ServiceTypeExternalName {
				service.Spec.ExternalName = "example.org"
			}
		})
		if kind == corev1.ServiceTypeExternalName {
			waitGone(t, super.Client, tn.SuperNamespace(ns), "web", &corev1.Service{})
			continue
		}
		waitFor(t, super.Client, tn.SuperNamespace(ns), "web", &corev1.Service{}, func(s *corev1.Service) error {
			balanced := kind == corev1.ServiceTypeLoadBalancer
			if (s.Spec.Type == corev1.ServiceTypeLoadBalancer) != balanced || (s.Spec.ClusterIP == corev1.ClusterIPNone) == balanced {
				return fmt.Errorf("change %d to %s: type %s, cluster IP %s", i, kind, s.Spec.Type, s.Spec.ClusterIP)
			}
			return nil
		})
	}
}
