package main

import (
	"bytes"
	"context"
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
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
