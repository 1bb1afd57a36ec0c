//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// TestGate takes tenant-proxy away: what runs keeps its rules, what is new waits and
// says why, and starts once it is back.
func TestGate(t *testing.T) {
	tn := newTenant(t, "gate")
	tn.kubectl(t, "apply", "-f", filepath.Join(super.root, "examples", "hello.yaml"))
	tn.kubectl(t, "rollout", "status", "deployment/hello", "--timeout=3m")
	call := func(ctx context.Context) error {
		out, err := tn.tryKubectl(ctx, "exec", "deploy/hello", "--", "timeout", "5", "wget", "-q", "-O", "-", "http://10.96.0.80")
		if err == nil && !strings.Contains(out, "served by hello-") {
			err = fmt.Errorf("answer %q", out)
		}
		return err
	}
	eventually(t, time.Minute, "the Service answers", call)

	t.Cleanup(func() { placeTenantProxy(context.WithoutCancel(t.Context()), t, `{"example.com/no-such-node":null}`) })
	placeTenantProxy(t.Context(), t, `{"example.com/no-such-node":"yes"}`)
	eventually(t, 2*time.Minute, "tenant-proxy is gone", func(ctx context.Context) error {
		var pods corev1.PodList
		err := super.client.List(ctx, &pods, client.InNamespace("bulkhead-system"), client.MatchingLabels{"app.kubernetes.io/name": "tenant-proxy"})
		if err == nil && len(pods.Items) > 0 {
			err = fmt.Errorf("%d pods are left", len(pods.Items))
		}
		return err
	})
	if err := call(t.Context()); err != nil {
		t.Errorf("without tenant-proxy a running pod has lost its rules: %v", err)
	}
	tn.kubectl(t, "run", "late", "--image=docker.io/library/busybox:1.37", endsAtOnce, "--", "sleep", "1000000")
	eventually(t, 3*time.Minute, "the new pod says what it waits for", func(ctx context.Context) error {
		var pod corev1.Pod
		if err := tn.client.Get(ctx, client.ObjectKey{Namespace: "default", Name: "late"}, &pod); err != nil {
			return err
		}
		if pod.Status.Phase == corev1.PodRunning {
			return fmt.Errorf("it runs")
		}
		var events corev1.EventList
		if err := tn.client.List(ctx, &events, client.InNamespace("default")); err != nil {
			return err
		}
		var messages []string
		for _, event := range events.Items {
			if event.InvolvedObject.Name != "late" {
				continue
			}
			if event.Type == corev1.EventTypeWarning && strings.Contains(event.Message, "tenant-proxy is not connected") {
				return nil
			}
			messages = append(messages, event.Message)
		}
		return fmt.Errorf("events: %q", messages)
	})
	placeTenantProxy(t.Context(), t, `{"example.com/no-such-node":null}`)
	tn.kubectl(t, "wait", "--for=condition=Ready", "pod/late", "--timeout=3m")
}

// placeTenantProxy sets the node selector of the DaemonSet.
func placeTenantProxy(ctx context.Context, t *testing.T, selector string) {
	t.Helper()
	daemons := &appsv1.DaemonSet{}
	daemons.Namespace, daemons.Name = "bulkhead-system", "tenant-proxy"
	patch := client.RawPatch("application/merge-patch+json", []byte(`{"spec":{"template":{"spec":{"nodeSelector":`+selector+`}}}}`))
	if err := super.client.Patch(ctx, daemons, patch); err != nil {
		t.Errorf("setting tenant-proxy's nodes: %v", err)
	}
}
