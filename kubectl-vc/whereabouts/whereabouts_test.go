package whereabouts

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	tenancyv1alpha1 "github.com/bulkhead-dev/bulkhead/api/tenancy/v1alpha1"
	"github.com/bulkhead-dev/bulkhead/syncer/report"
)

var update = flag.Bool("update", false, "write golden files anew")

var now = time.Date(2026, 1, 2, 15, 4, 5, 0, time.UTC)

func ago(d time.Duration) metav1.Time { return metav1.NewTime(now.Add(-d)) }

func at(d time.Duration) *time.Time {
	t := now.Add(d)
	return &t
}

// newInput is a pod that the tenant has made two minutes ago, and nobody has looked at.
func newInput() Input {
	return Input{
		VirtualCluster: &tenancyv1alpha1.VirtualCluster{
			ObjectMeta: metav1.ObjectMeta{Namespace: "customers", Name: "demo"},
			Status: tenancyv1alpha1.VirtualClusterStatus{Conditions: []metav1.Condition{{
				Type: tenancyv1alpha1.ConditionSynced, Status: metav1.ConditionTrue, Reason: "Synced", Message: "changes are carried both ways", LastTransitionTime: ago(time.Hour),
			}}},
		},
		Pod:      types.NamespacedName{Namespace: "shop", Name: "web-0"},
		SuperPod: types.NamespacedName{Namespace: "vc-demo-shop-abc", Name: "web-0"},
		Tenant: Side{Pod: &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web-0", UID: "tenant-uid", CreationTimestamp: ago(2 * time.Minute)},
			Status:     corev1.PodStatus{Phase: corev1.PodPending},
		}},
	}
}

func super(in *Input) *corev1.Pod {
	in.Super.Pod = &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: in.SuperPod.Namespace, Name: in.SuperPod.Name, CreationTimestamp: ago(119 * time.Second)},
		Status:     corev1.PodStatus{Phase: corev1.PodPending},
	}
	return in.Super.Pod
}

func condition(pod *corev1.Pod, name corev1.PodConditionType, status corev1.ConditionStatus, since time.Duration, reason, message string) {
	pod.Status.Conditions = append(pod.Status.Conditions, corev1.PodCondition{Type: name, Status: status, LastTransitionTime: ago(since), Reason: reason, Message: message})
}

// onNode is a super pod that the kubelet has.
func onNode(in *Input) *corev1.Pod {
	pod := super(in)
	pod.Spec.NodeName, in.Tenant.Pod.Spec.NodeName = "node-1", "node-1"
	start := ago(100 * time.Second)
	pod.Status.StartTime = &start
	condition(pod, corev1.PodScheduled, corev1.ConditionTrue, 110*time.Second, "", "")
	return pod
}

func event(reason, message string, since time.Duration) corev1.Event {
	return corev1.Event{Reason: reason, Message: message, LastTimestamp: ago(since)}
}

func running(in *Input) *corev1.Pod {
	pod := onNode(in)
	condition(pod, corev1.PodReadyToStartContainers, corev1.ConditionTrue, 90*time.Second, "", "")
	condition(pod, corev1.PodReady, corev1.ConditionTrue, 80*time.Second, "", "")
	pod.Status.Phase, in.Tenant.Pod.Status.Phase = corev1.PodRunning, corev1.PodRunning
	pod.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "main", Ready: true, State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: ago(85 * time.Second)}}}}
	condition(in.Tenant.Pod, corev1.PodReady, corev1.ConditionTrue, 80*time.Second, "", "")
	return pod
}

func TestExplain(t *testing.T) {
	for name, edit := range map[string]func(in *Input){
		"none":    func(in *Input) { in.Tenant.Pod = nil },
		"unasked": func(in *Input) { in.SyncerErr = errors.New("the syncer could not be asked: you lack a right") },
		"unseen": func(in *Input) {
			in.Tenant, in.Super = Side{PodErr: errors.New("the tenant's cluster cannot be read")}, Side{PodErr: errors.New("you lack a right to pods")}
		},
		"gated": func(in *Input) {
			in.Tenant.Pod.Spec.SchedulingGates = []corev1.PodSchedulingGate{{Name: "example.com/quota"}}
		},
		"unreachable": func(in *Input) {
			c := &in.VirtualCluster.Status.Conditions[0]
			c.Status, c.Reason, c.Message, c.LastTransitionTime = metav1.ConditionFalse, "Unreachable", "the tenant's apiserver does not answer", ago(30*time.Second)
			in.Syncer = &report.Object{Direction: "down", State: report.Queued, Since: at(-25 * time.Second), Tenant: report.Tenant{Down: report.Queue{Waiting: 4, Paused: true}}}
		},
		"queued": func(in *Input) {
			in.Syncer = &report.Object{Direction: "down", State: report.Queued, Since: at(-5 * time.Second), Tenant: report.Tenant{Down: report.Queue{Waiting: 40000}}}
		},
		"retrying": func(in *Input) {
			in.Syncer = &report.Object{
				Direction: "down", State: report.Retrying, Since: at(-7 * time.Second), Until: at(9 * time.Second), Failures: 9,
				LastError: "creating pods shop/web-0 in the super cluster:\n pods \"web-0\" is forbidden: exceeded quota",
			}
		},
		"refused": func(in *Input) {
			refused := event("RefusedByPlatform", "spec.hostNetwork: not allowed by Pod Security \"baseline\"", time.Minute)
			before := event("NameTaken", "of a pod of that name before", time.Second)
			before.InvolvedObject.UID = "another"
			in.Tenant.Events = []corev1.Event{refused, before}
			in.Tenant.Events[1].LastTimestamp = ago(3 * time.Minute)
			in.Syncer = &report.Object{Direction: "down", State: report.Delayed, Until: at(4 * time.Minute)}
		},
		"tenant-scheduler": func(in *Input) {
			condition(in.Tenant.Pod, corev1.PodScheduled, corev1.ConditionFalse, 90*time.Second, "Unschedulable", "0/3 nodes are available")
		},
		"unschedulable": func(in *Input) {
			condition(super(in), corev1.PodScheduled, corev1.ConditionFalse, 110*time.Second, "Unschedulable", "0/3 nodes are available: 3 Insufficient cpu.")
		},
		"sandbox": func(in *Input) {
			condition(onNode(in), corev1.PodReadyToStartContainers, corev1.ConditionFalse, 100*time.Second, "", "")
			in.Super.Events = []corev1.Event{event("Scheduled", "", time.Minute), event("FailedCreatePodSandBox", "no runtime for \"kata\" is configured", 3*time.Second)}
		},
		"rules": func(in *Input) {
			pod := onNode(in)
			condition(pod, corev1.PodReadyToStartContainers, corev1.ConditionTrue, 90*time.Second, "", "")
			pod.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "main", State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "ContainerCreating"}}}}
			in.Super.Events = []corev1.Event{event("RulesPending", "Containers wait for the service rules: tenant-proxy is not connected", 80*time.Second)}
		},
		"image": func(in *Input) {
			pod := onNode(in)
			condition(pod, corev1.PodReadyToStartContainers, corev1.ConditionTrue, 90*time.Second, "", "")
			pod.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "main", State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "ImagePullBackOff", Message: "Back-off pulling image \"nowhere\""}}}}
		},
		"crashes": func(in *Input) {
			pod := running(in)
			pod.Status.Conditions[2].Status = corev1.ConditionFalse
			pod.Status.ContainerStatuses[0] = corev1.ContainerStatus{Name: "main", RestartCount: 4, State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "CrashLoopBackOff"}},
				LastTerminationState: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: 1}}}
		},
		"not-ready": func(in *Input) {
			pod := running(in)
			pod.Status.Conditions[2].Status, pod.Status.Conditions[2].Reason, pod.Status.Conditions[2].Message = corev1.ConditionFalse, "ReadinessGatesNotReady", "corresponding condition of pod readiness gate \"example.com/lb\" does not exist."
			in.Tenant.Pod.Status.Conditions = nil
		},
		"status": func(in *Input) {
			running(in)
			in.Tenant.Pod.Spec.NodeName, in.Tenant.Pod.Status = "", corev1.PodStatus{Phase: corev1.PodPending}
			in.Syncer = &report.Object{Direction: "down", State: report.Queued, Since: at(-2 * time.Second)}
		},
		"running": func(in *Input) {
			running(in)
			in.Super.Events = []corev1.Event{event("RulesInjected", "12 services", 88*time.Second)}
			in.Syncer = &report.Object{Direction: "down", State: report.Idle}
		},
		"succeeded": func(in *Input) {
			running(in).Status.Phase = corev1.PodSucceeded
			in.Tenant.Pod.Status.Phase = corev1.PodSucceeded
		},
		"deleting": func(in *Input) {
			running(in).DeletionTimestamp = &metav1.Time{Time: now.Add(20 * time.Second)}
			in.Tenant.Pod.DeletionTimestamp = &metav1.Time{Time: now.Add(20 * time.Second)}
		},
		"orphan": func(in *Input) {
			running(in).DeletionTimestamp = &metav1.Time{Time: now.Add(-time.Minute)}
			in.Tenant.Pod = nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			in := newInput()
			edit(&in)
			explanation := Explain(in)
			var out bytes.Buffer
			if err := explanation.Write(&out, now); err != nil {
				t.Fatal(err)
			}
			golden(t, filepath.Join("testdata", name+".out"), out.String())
			if name == "refused" {
				content, err := json.MarshalIndent(explanation, "", "  ")
				if err != nil {
					t.Fatal(err)
				}
				golden(t, filepath.Join("testdata", name+".json"), string(content)+"\n")
			}
		})
	}
}

func golden(t *testing.T, file, got string) {
	t.Helper()
	if *update {
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s (-update writes it anew):\n%s", file, diff)
	}
}
