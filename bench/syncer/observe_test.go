package main

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
)

func TestRecordTellsOfReadyAndOfLostPods(t *testing.T) {
	r := newRecord()
	well, ill := podKey{0, "well"}, podKey{1, "ill"}
	done, never := r.expect(well), r.expect(ill)
	pod := &corev1.Pod{Spec: corev1.PodSpec{NodeName: "node"}}
	pod.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}
	r.note(well, pod, false, true)
	if l := r.lives[well]; !l.ready.IsZero() || l.superReady.IsZero() || l.superBound.IsZero() {
		t.Errorf("a pod that is Ready in the super cluster alone lives as %+v", l)
	}
	r.note(well, pod, true, false)
	r.note(well, pod, true, false)
	r.lost(well) // the bench clears up
	r.lost(ill)
	r.lost(podKey{2, "of another part"})
	if err := <-done; err != nil {
		t.Error(err)
	}
	if err := <-never; err == nil {
		t.Error("a pod that was deleted was not missed")
	}
	if n := r.unready(); n != 1 {
		t.Errorf("%d pods are not Ready, and one is not", n)
	}
}
