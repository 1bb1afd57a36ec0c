package main

import (
	"bytes"
	"context"
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/bulkhead-dev/bulkhead/internal/tenancy"
)

// Found by the churn test: what somebody wrote into the Secret of a pod's tokens stayed
// there, beside the tokens or in the place of one.
func TestTokensThatSomebodyChanged(t *testing.T) {
	startSyncer(t)
	tn := newTenant(t, 0, nil).synced()
	pod := newPod(tn.namespace("tokens-drift"), "web")
	must(t, tn.client.Create(t.Context(), pod))
	down := tn.superPod(pod)
	must(t, tn.client.Get(t.Context(), client.ObjectKeyFromObject(pod), pod))
	name := "tokens-" + string(pod.UID)
	secret := waitFor(t, super.Client, down.Namespace, name, &corev1.Secret{}, nil)
	eventually(t, "changing the tokens", func(ctx context.Context) error {
		if err := super.Client.Get(ctx, client.ObjectKeyFromObject(secret), secret); err != nil {
			return err
		}
		for key := range secret.Data {
			secret.Data[key] = []byte("somebody's")
		}
		secret.Data["more"] = []byte("x")
		return super.Client.Update(ctx, secret)
	})
	waitFor(t, super.Client, down.Namespace, name, secret, func(s *corev1.Secret) error {
		for key, token := range s.Data {
			if key == "more" || bytes.Equal(token, []byte("somebody's")) {
				return fmt.Errorf("key %s is still there, with %d bytes", key, len(token))
			}
		}
		return nil
	})
	tn.checkToken(pod, down)
}

// Found by the churn test: where the super cluster's controller misses that a Service
// with a selector was replaced by one without, the Endpoints it has made stay for ever,
// and the tenant's own did not go down.
func TestEndpointsThatNobodyKeeps(t *testing.T) {
	startSyncer(t)
	tn := newTenant(t, 0, nil).synced()
	ctx, ns := t.Context(), tn.namespace("leftover")
	pod := newPod(ns, "web") // for the namespace
	must(t, tn.client.Create(ctx, pod))
	at := metav1.ObjectMeta{Namespace: tn.superPod(pod).Namespace, Name: "db", Labels: map[string]string{
		tenancy.LabelTenant: string(tn.UID), tenancy.LabelManagedBy: tenancy.ManagedBySyncer, "endpoints.kubernetes.io/managed-by": "endpoint-controller",
	}}
	subsets := func(ip string) []corev1.EndpointSubset {
		return []corev1.EndpointSubset{{Addresses: []corev1.EndpointAddress{{IP: ip}}, Ports: []corev1.EndpointPort{{Port: 80}}}}
	}
	must(t, super.Client.Create(ctx, &corev1.Endpoints{ObjectMeta: at, Subsets: subsets("198.51.100.1")}))
	must(t, tn.client.Create(ctx, &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "db"}, Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 80}}}}))
	must(t, tn.client.Create(ctx, &corev1.Endpoints{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "db"}, Subsets: subsets("198.51.100.2")}))
	waitFor(t, super.Client, at.Namespace, "db", &corev1.Endpoints{}, func(e *corev1.Endpoints) error {
		if len(e.Subsets) != 1 || e.Subsets[0].Addresses[0].IP != "198.51.100.2" {
			return fmt.Errorf("subsets %+v", e.Subsets)
		}
		return nil
	})
}
