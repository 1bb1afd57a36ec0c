package command

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/bulkhead-dev/bulkhead/api/tenancy/v1alpha1"
)

func TestDescription(t *testing.T) {
	all := examples()
	full := description{
		vc: &all[0],
		pods: []corev1.Pod{
			{
				ObjectMeta: metav1.ObjectMeta{Name: "kube-apiserver-0", CreationTimestamp: ago(time.Hour)},
				Spec:       corev1.PodSpec{NodeName: "node-1", Containers: []corev1.Container{{}}},
				Status: corev1.PodStatus{Phase: corev1.PodRunning, ContainerStatuses: []corev1.ContainerStatus{
					{Ready: false, RestartCount: 3, State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "CrashLoopBackOff"}}},
				}},
			},
			{
				ObjectMeta: metav1.ObjectMeta{Name: "etcd-0", CreationTimestamp: ago(time.Hour)},
				Spec:       corev1.PodSpec{NodeName: "node-2", Containers: []corev1.Container{{}}},
				Status:     corev1.PodStatus{Phase: corev1.PodRunning, ContainerStatuses: []corev1.ContainerStatus{{Ready: true}}},
			},
			{
				ObjectMeta: metav1.ObjectMeta{Name: "kube-controller-manager-0", CreationTimestamp: ago(time.Hour), DeletionTimestamp: &metav1.Time{Time: now}},
				Spec:       corev1.PodSpec{Containers: []corev1.Container{{}}},
			},
		},
		events: []corev1.Event{
			{Type: "Warning", Reason: "NameTaken", Message: "Secret pki\nis not ours", ReportingController: "vc-manager", EventTime: metav1.NewMicroTime(now.Add(-time.Minute))},
			{Type: "Normal", Reason: "Created", Message: "made the namespace", Source: corev1.EventSource{Component: "vc-manager"}, LastTimestamp: ago(time.Hour)},
			{Type: "Normal", Reason: "Series", Message: "again and again", Series: &corev1.EventSeries{LastObservedTime: metav1.NewMicroTime(now)}},
		},
	}
	extra := all[3]
	extra.Spec.ExtraSANs = []string{"api.example", "192.0.2.1"}
	for name, d := range map[string]description{
		"describe.out":          full,
		"describe-fresh.out":    {vc: &all[1]},
		"describe-deleting.out": {vc: &extra, podsErr: errors.New("you lack a right to pods"), eventsErr: errors.New("you lack a right to events")},
	} {
		var out bytes.Buffer
		if err := d.write(&out, now); err != nil {
			t.Fatal(err)
		}
		golden(t, "testdata/"+name, out.String())
	}
}

func TestDescribe(t *testing.T) {
	u := newUser(t)
	vc := u.create(t, "demo")
	u.setConditions(t, vc, []string{v1alpha1.ConditionNamespaceReady})
	event := &corev1.Event{
		ObjectMeta:     metav1.ObjectMeta{Namespace: u.namespace, Name: "demo.1"},
		InvolvedObject: corev1.ObjectReference{Kind: "VirtualCluster", Namespace: u.namespace, Name: "demo", UID: vc.UID},
		Type:           corev1.EventTypeWarning, Reason: "NameTaken", Message: "a Secret is in the way", LastTimestamp: metav1.Now(),
	}
	other := event.DeepCopy()
	other.Name, other.InvolvedObject.UID, other.Message = "old.1", "before", "of a virtual cluster of that name that is gone"
	for _, e := range []*corev1.Event{event, other} {
		if err := shared.Client.Create(t.Context(), e); err != nil {
			t.Fatal(err)
		}
	}
	r := u.run(t.Context(), "describe", "demo")
	if r.err != nil {
		t.Fatal(r.err)
	}
	for _, want := range []string{string(vc.UID), "CertificatesReady", "a Secret is in the way", vc.Status.ControlPlaneNamespace} {
		if !strings.Contains(r.out, want) {
			t.Errorf("no %q in:\n%s", want, r.out)
		}
	}
	if strings.Contains(r.out, other.Message) {
		t.Error("shows the events of another")
	}
	mustFail(t, u.run(t.Context(), "describe", "none"), `virtual cluster "none" not found`)
}
