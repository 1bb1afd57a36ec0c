//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/bulkhead-dev/bulkhead/internal/tenancy"
)

// TestKillsLoseNothing kills each component in turn while a tenant creates and
// deletes pods, and then compares both sides: every pod that the tenant's
// apiserver said yes to runs, every pod it deleted is gone, nothing else is there.
func TestKillsLoseNothing(t *testing.T) {
	tn := newTenant(t, "kills")
	platform := "bulkhead-system"
	controlPlane := tn.ControlPlaneNamespace()
	for _, victim := range []struct {
		program   string
		namespace string
		labels    client.MatchingLabels
	}{
		{"vc-manager", platform, client.MatchingLabels{"app.kubernetes.io/name": "vc-manager"}},
		{"syncer", platform, client.MatchingLabels{"app.kubernetes.io/name": "syncer"}},
		{"vn-agent", platform, client.MatchingLabels{"app.kubernetes.io/name": "vn-agent"}},
		{"kube-apiserver", controlPlane, client.MatchingLabels{"app.kubernetes.io/name": "kube-apiserver"}},
		{"etcd", controlPlane, client.MatchingLabels{"app.kubernetes.io/name": "etcd"}},
	} {
		t.Run(victim.program, func(t *testing.T) {
			before, err := restarts(t.Context(), victim.namespace, victim.labels)
			if err != nil {
				t.Fatal(err)
			}
			wanted := churn(t, tn, victim.program, func() {
				if killed := killPods(t, victim.namespace, victim.labels, victim.program); killed == 0 {
					t.Errorf("no process of %s was found to kill", victim.program)
				}
			})
			eventually(t, 2*time.Minute, victim.program+" is back", func(ctx context.Context) error {
				after, err := restarts(ctx, victim.namespace, victim.labels)
				if err == nil && after <= before {
					err = fmt.Errorf("%d restarts, as before", after)
				}
				return err
			})
			eventually(t, 3*time.Minute, "both sides hold exactly what the tenant wants", func(ctx context.Context) error {
				return compare(ctx, tn, wanted)
			})
			if out := tn.kubectl(t, "logs", wanted[0]); !strings.Contains(out, "up") {
				t.Errorf("logs after the kill: %q", out)
			}
			tn.kubectl(t, "delete", "pods", "--all", "--wait=true", "--timeout=2m")
		})
	}
}

// churn makes pods and deletes every third again, calls kill in the middle, and
// returns the names of the pods that shall be there. An error of the tenant's
// apiserver while it is down is retried, as every client does.
func churn(t *testing.T, tn *tenant, prefix string, kill func()) []string {
	t.Helper()
	const pods = 9
	var wanted []string
	var killing sync.WaitGroup
	for i := range pods {
		if i == pods/2 {
			killing.Go(kill)
		}
		pod := sleeper(fmt.Sprintf("%s-%d", prefix, i))
		eventually(t, 2*time.Minute, "creating pod "+pod.Name, func(ctx context.Context) error {
			err := tn.client.Create(ctx, pod.DeepCopy())
			if apierrors.IsAlreadyExists(err) {
				return nil
			}
			return err
		})
		if i%3 == 1 {
			eventually(t, 2*time.Minute, "deleting pod "+pod.Name, func(ctx context.Context) error {
				return client.IgnoreNotFound(tn.client.Delete(ctx, pod))
			})
			continue
		}
		wanted = append(wanted, pod.Name)
	}
	killing.Wait()
	return wanted
}

func sleeper(name string) *corev1.Pod {
	grace := int64(1)
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name},
		Spec: corev1.PodSpec{
			TerminationGracePeriodSeconds: &grace,
			Containers: []corev1.Container{{
				Name: "main", Image: "docker.io/library/busybox:1.37", Command: []string{"sh", "-c", "echo up; exec sleep 1000000"},
			}},
		},
	}
}

// compare tells how the tenant's pods differ from what is wanted in its namespace
// default, and how the super pods differ from all its pods, the DNS servers included.
func compare(ctx context.Context, tn *tenant, wanted []string) error {
	var pods, superPods corev1.PodList
	if err := tn.client.List(ctx, &pods); err != nil {
		return err
	}
	if err := super.client.List(ctx, &superPods, client.MatchingLabels{tenancy.LabelTenant: string(tn.UID), tenancy.LabelManagedBy: tenancy.ManagedBySyncer}); err != nil {
		return err
	}
	uids := map[string]string{}
	var names []string
	for _, pod := range pods.Items {
		if pod.Status.Phase != corev1.PodRunning {
			return fmt.Errorf("pod %s is %s", pod.Name, pod.Status.Phase)
		}
		if pod.Namespace == corev1.NamespaceDefault {
			names = append(names, pod.Name)
		}
		uids[pod.Namespace+"/"+pod.Name] = string(pod.UID)
	}
	slices.Sort(names)
	if !slices.Equal(names, slices.Sorted(slices.Values(wanted))) {
		return fmt.Errorf("the tenant has %v, wanted are %v", names, wanted)
	}
	if len(superPods.Items) != len(pods.Items) {
		return fmt.Errorf("%d super pods for %d pods", len(superPods.Items), len(pods.Items))
	}
	for _, pod := range superPods.Items {
		name := pod.Annotations[tenancy.AnnotationNamespace] + "/" + pod.Name
		if uids[name] == "" || pod.Annotations[tenancy.AnnotationUID] != uids[name] {
			return fmt.Errorf("super pod of %s stands for UID %s, the tenant's has %s", name, pod.Annotations[tenancy.AnnotationUID], uids[name])
		}
	}
	return nil
}
