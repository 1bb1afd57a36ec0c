package main

import (
	"context"
	"fmt"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/bulkhead-dev/bulkhead/syncer/engine"
)

// superSlices waits until the slices of a super Service have these addresses, each
// once, and this manager alone.
func (tn *tenant) superSlices(namespace, service, manager string, addresses ...string) {
	tn.t.Helper()
	eventually(tn.t, fmt.Sprintf("slices of %s with %v", service, addresses), func(ctx context.Context) error {
		var list discoveryv1.EndpointSliceList
		of := client.MatchingLabels{discoveryv1.LabelServiceName: service}
		if err := super.Client.List(ctx, &list, client.InNamespace(tn.SuperNamespace(namespace)), of); err != nil {
			return err
		}
		var have []string
		for _, slice := range list.Items {
			if by := slice.Labels[discoveryv1.LabelManagedBy]; by != manager {
				return fmt.Errorf("slice %s is managed by %s", slice.Name, by)
			}
			for _, endpoint := range slice.Endpoints {
				have = append(have, endpoint.Addresses...)
			}
		}
		slices.Sort(have)
		if !slices.Equal(have, addresses) {
			return fmt.Errorf("addresses are %v", have)
		}
		return nil
	})
}

// What a tenant writes by hand behind a load balancer is behind the super cluster's,
// once: slices as slices, Endpoints by the super cluster's own mirror. Neither can
// publish what is not the tenant's, nor does it go on to when a pod has gone.
func TestManualEndpoints(t *testing.T) {
	startSyncer(t)
	tn, other := newTenant(t, 0, nil).synced(), newTenant(t, 1, nil).synced()
	ctx := t.Context()
	ns, node := tn.namespace("manual"), newNode(t, "node-manual")
	pod := newPod(ns, "backend")
	down := tn.runBound(pod, node.Name) // which has 10.2.0.5

	balancer := func(name string) *corev1.Service {
		return &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name}, Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeLoadBalancer, Ports: []corev1.ServicePort{{Port: 80}}}}
	}
	bySlice, byEndpoints := balancer("by-slice"), balancer("by-endpoints")
	port, tcp := int32(80), corev1.ProtocolTCP
	slice := &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Namespace: ns, Name: "by-slice-1", Labels: map[string]string{discoveryv1.LabelServiceName: "by-slice", discoveryv1.LabelManagedBy: "staff"}},
		AddressType: discoveryv1.AddressTypeIPv4, Ports: []discoveryv1.EndpointPort{{Port: &port, Protocol: &tcp}},
		Endpoints: []discoveryv1.Endpoint{{Addresses: []string{"10.2.0.5"}}, {Addresses: []string{"10.2.0.6"}}, {Addresses: []string{"198.51.100.1"}}},
	}
	endpoints := &corev1.Endpoints{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "by-endpoints"}, Subsets: []corev1.EndpointSubset{{
		Addresses: []corev1.EndpointAddress{{IP: "10.2.0.5"}, {IP: "10.2.0.6"}, {IP: "198.51.100.1"}}, Ports: []corev1.EndpointPort{{Port: 80}},
	}}}
	for _, object := range []client.Object{bySlice, byEndpoints, slice, endpoints} {
		must(t, tn.client.Create(ctx, object))
	}
	const mirror = "endpointslicemirroring-controller.k8s.io"
	tn.superSlices(ns, "by-slice", engine.SliceManager, "10.2.0.5", "198.51.100.1")
	tn.superSlices(ns, "by-endpoints", mirror, "10.2.0.5", "198.51.100.1")
	tn.waitEvent(slice, "IgnoredByPlatform", "endpoints[1].addresses[0]")
	tn.waitEvent(endpoints, "IgnoredByPlatform", "subsets[0].addresses[1].ip")
	waitFor(t, super.Client, tn.SuperNamespace(ns), slice.Name, &discoveryv1.EndpointSlice{}, func(s *discoveryv1.EndpointSlice) error {
		if s.Endpoints[0].NodeName == nil || *s.Endpoints[0].NodeName != node.Name {
			return fmt.Errorf("the pod is on node %v", s.Endpoints[0].NodeName)
		}
		return nil
	})

	// The pod goes; another tenant gets its address.
	must(t, tn.client.Delete(ctx, pod, client.GracePeriodSeconds(1)))
	endPod(t, down)
	tn.superSlices(ns, "by-slice", engine.SliceManager, "198.51.100.1")
	tn.superSlices(ns, "by-endpoints", mirror, "198.51.100.1")
	other.runBound(newPod(other.namespace("manual"), "victim"), node.Name)

	// A slice that a controller takes over does not go down any more, nor does one
	// whose Service has gone, and both are back when they were.
	manage := func(by string) {
		t.Helper()
		eventually(t, "managing by "+by, func(ctx context.Context) error {
			if err := tn.client.Get(ctx, client.ObjectKeyFromObject(slice), slice); err != nil {
				return err
			}
			slice.Labels[discoveryv1.LabelManagedBy] = by
			return tn.client.Update(ctx, slice)
		})
	}
	manage("endpointslice-controller.k8s.io")
	tn.superSlices(ns, "by-slice", "")
	manage("staff")
	tn.superSlices(ns, "by-slice", engine.SliceManager, "198.51.100.1")
	must(t, tn.client.Delete(ctx, bySlice))
	tn.superSlices(ns, "by-slice", "")
	must(t, tn.client.Create(ctx, balancer("by-slice")))
	tn.superSlices(ns, "by-slice", engine.SliceManager, "198.51.100.1")
}
