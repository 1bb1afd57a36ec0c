package main

import (
	"errors"
	"fmt"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/bulkhead-dev/bulkhead/internal/testenv"
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

// What happens to Services comes through as deltas: a new endpoint, none, a Service
// that is gone. The time when it happened goes along.
func TestChanges(t *testing.T) {
	host := newNodeHost(t)
	startProxy(t, host, nil)
	superPod(t, env.a, "front")
	for i := range 9 { // so that a delta is less than the whole
		makeService(t, env.a, fmt.Sprint("other-", i), fmt.Sprintf("10.96.2.%d", 100+i), "10.244.0.9")
	}
	service, slice := makeService(t, env.a, "shop", "10.96.2.1", "10.244.0.1")
	host.awaitEndpoints(t, env.a, "10.96.2.1:80", "10.244.0.1:8080")

	happened := time.Now().Add(time.Second).UTC().Truncate(time.Second)
	slice.Endpoints = append(slice.Endpoints, discoveryv1.Endpoint{Addresses: []string{"10.244.0.2"}})
	slice.Annotations = map[string]string{corev1.EndpointsLastChangeTriggerTime: happened.Format(time.RFC3339)}
	change(t, env.a, slice)
	host.awaitEndpoints(t, env.a, "10.96.2.1:80", "10.244.0.1:8080", "10.244.0.2:8080")
	host.locked(func() {
		if got := host.trigger[env.a.UID]; !got.Equal(happened) {
			t.Errorf("it happened at %s, and %s was told", happened, got)
		}
		if host.deltas == 0 {
			t.Error("the change went as a whole set")
		}
	})
	slice.Endpoints = nil
	change(t, env.a, slice)
	host.awaitEndpoints(t, env.a, "10.96.2.1:80")
	// Somebody else's proxy takes it over.
	service.Labels = map[string]string{"service.kubernetes.io/service-proxy-name": "mesh"}
	change(t, env.a, service)
	host.awaitEndpoints(t, env.a, "10.96.2.1:80", "gone")
	service.Labels = nil
	change(t, env.a, service)
	host.awaitEndpoints(t, env.a, "10.96.2.1:80")
	remove(t, env.a.Cluster, service)
	host.awaitEndpoints(t, env.a, "10.96.2.1:80", "gone")
	if ranges := host.Rules(env.a.UID).Ranges(); len(ranges) != 1 || ranges[0].String() != serviceCIDR {
		t.Errorf("ranges are %v", ranges)
	}
}

// Node ports are at the addresses that the tenant's nodes have.
func TestNodePorts(t *testing.T) {
	host := newNodeHost(t)
	startProxy(t, host, nil)
	superPod(t, env.a, "front")
	service, _ := makeService(t, env.a, "shop", "10.96.2.9", "10.244.0.1")
	service.Spec.Type, service.Spec.Ports[0].NodePort = corev1.ServiceTypeNodePort, 30080
	change(t, env.a, service)
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: nodeName}}
	create(t, env.a.Cluster, node)
	t.Cleanup(func() { remove(t, env.a.Cluster, node) })
	testenv.ChangeStatus(t, env.a.Client, node, func() {
		node.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "192.0.2.7"}}
	})
	host.awaitEndpoints(t, env.a, "192.0.2.7:30080", "10.244.0.1:8080")
	remove(t, env.a.Cluster, node)
	host.awaitEndpoints(t, env.a, "192.0.2.7:30080", "gone")
}

func change(t *testing.T, tenant *tenantCluster, object client.Object) {
	t.Helper()
	if err := tenant.Client.Update(t.Context(), object); err != nil {
		t.Fatal(err)
	}
}
