package main

import (
	"context"
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/bulkhead-dev/bulkhead/internal/tenancy"
)

func quantity(text string) resource.Quantity { return resource.MustParse(text) }

// The way of a pod through its life: down, placed, bound, its status up, deleted
// with grace, gone on both sides.
func TestPodLife(t *testing.T) {
	startSyncer(t)
	tn := newTenant(t, 0, nil).synced()
	namespace := tn.namespace("pod-life")
	node := newNode(t, "node-life")
	pod := newPod(namespace, "web")
	must(t, tn.client.Create(t.Context(), pod))

	down := tn.superPod(pod)
	if down.Labels["app"] != "web" || down.Labels[tenancy.LabelTenant] != string(tn.UID) {
		t.Errorf("labels %v", down.Labels)
	}
	if down.Spec.DNSPolicy != corev1.DNSNone || down.Spec.ServiceAccountName != "default-tenant" {
		t.Errorf("dns policy %q, service account %q", down.Spec.DNSPolicy, down.Spec.ServiceAccountName)
	}
	schedule(t, down, node.Name)
	bound := waitFor(t, tn.client, namespace, "web", &corev1.Pod{}, func(p *corev1.Pod) error {
		if p.Spec.NodeName != node.Name {
			return fmt.Errorf("node %q", p.Spec.NodeName)
		}
		return nil
	})
	virtual := waitFor(t, tn.client, "", node.Name, &corev1.Node{}, func(n *corev1.Node) error {
		if len(n.Spec.Taints) != 0 || n.Status.DaemonEndpoints.KubeletEndpoint.Port != tenancy.VNAgentPort {
			return fmt.Errorf("taints %v, kubelet port %d", n.Spec.Taints, n.Status.DaemonEndpoints.KubeletEndpoint.Port)
		}
		return nil
	})
	if virtual.Labels["platform.example/secret"] != "" || virtual.Labels["topology.kubernetes.io/zone"] != "z1" || virtual.Status.NodeInfo.MachineID != "" {
		t.Errorf("the tenant sees labels %v and machine %q", virtual.Labels, virtual.Status.NodeInfo.MachineID)
	}
	runPod(t, down)
	waitFor(t, tn.client, namespace, "web", bound, func(p *corev1.Pod) error {
		if p.Status.Phase != corev1.PodRunning || p.Status.PodIP != "10.2.0.5" || len(p.Status.ContainerStatuses) != 1 {
			return fmt.Errorf("status %+v", p.Status)
		}
		return nil
	})

	grace := int64(20)
	must(t, tn.client.Delete(t.Context(), pod, &client.DeleteOptions{GracePeriodSeconds: &grace}))
	waitFor(t, super.Client, down.Namespace, down.Name, down, func(p *corev1.Pod) error {
		if p.DeletionTimestamp == nil || *p.DeletionGracePeriodSeconds != grace {
			return fmt.Errorf("deletion %v", p.DeletionTimestamp)
		}
		return nil
	})
	if err := tn.client.Get(context.Background(), client.ObjectKeyFromObject(pod), &corev1.Pod{}); err != nil {
		t.Errorf("the tenant's pod went before its containers: %v", err)
	}
	endPod(t, down)
	waitGone(t, tn.client, namespace, "web", &corev1.Pod{})
}
