package main

import (
	"errors"
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

// makeService makes a Service with one port in the tenant's cluster, and a slice with
// the endpoints behind it.
func makeService(t *testing.T, tenant *tenantCluster, name, clusterIP string, endpoints ...string) (*corev1.Service, *discoveryv1.EndpointSlice) {
	t.Helper()
	service := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "web", Name: name},
		Spec:       corev1.ServiceSpec{ClusterIP: clusterIP, Ports: []corev1.ServicePort{{Name: "http", Port: 80}}},
	}
	create(t, tenant.Cluster, service)
	slice := &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Namespace: "web", Name: name + "-1", Labels: map[string]string{discoveryv1.LabelServiceName: name}},
		AddressType: discoveryv1.AddressTypeIPv4,
		Ports:       []discoveryv1.EndpointPort{{Name: ptr.To("http"), Port: ptr.To[int32](8080), Protocol: ptr.To(corev1.ProtocolTCP)}},
	}
	for _, endpoint := range endpoints {
		slice.Endpoints = append(slice.Endpoints, discoveryv1.Endpoint{Addresses: []string{endpoint}})
	}
	create(t, tenant.Cluster, slice)
	t.Cleanup(func() { remove(t, tenant.Cluster, service); remove(t, tenant.Cluster, slice) })
	return service, slice
}

// Two tenants with equal names and addresses get their own rules, from the first pod
// of each on the node until the last is gone.
func TestEachTenantHasItsOwnRules(t *testing.T) {
	host := newNodeHost(t)
	startProxy(t, host, func(o *options) { o.linger = 0 })
	makeService(t, env.a, "shop", "10.96.1.1", "10.244.0.1")
	makeService(t, env.b, "shop", "10.96.1.1", "10.244.9.9")
	await(t, func() error {
		var complete bool
		host.locked(func() { complete = host.complete })
		if !complete {
			return errors.New("the list of pods is not complete")
		}
		return nil
	})

	pod := superPod(t, env.a, "front")
	host.awaitEndpoints(t, env.a, "10.96.1.1:80", "10.244.0.1:8080")
	if set := host.Rules(env.b.UID); set != nil {
		t.Errorf("rules of a tenant without pods here: %v", set.Services())
	}
	superPod(t, env.b, "front")
	host.awaitEndpoints(t, env.b, "10.96.1.1:80", "10.244.9.9:8080")
	host.awaitEndpoints(t, env.a, "10.96.1.1:80", "10.244.0.1:8080")

	remove(t, env.super, pod)
	await(t, func() error {
		var forgotten bool
		host.locked(func() { forgotten = host.forgotten[env.a.UID] })
		if !forgotten {
			return fmt.Errorf("tenant %s is served still", env.a.UID)
		}
		return nil
	})
	host.awaitEndpoints(t, env.b, "10.96.1.1:80", "10.244.9.9:8080")
}
