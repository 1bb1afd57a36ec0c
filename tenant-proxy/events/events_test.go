package events

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"

	"github.com/bulkhead-dev/bulkhead/internal/feed"
)

// recorder keeps what would be written.
type recorder struct{ notes []string }

func (r *recorder) Eventf(_, _ runtime.Object, kind, reason, _, note string, arguments ...any) {
	r.notes = append(r.notes, kind+" "+reason+" "+fmt.Sprintf(note, arguments...))
}

func newWriter() (*Writer, *recorder) {
	r := &recorder{}
	return &Writer{Recorder: r, Known: func(pod feed.Pod) bool { return pod.Name != "stranger" }, Observe: func(string) {}}, r
}

func report(pod, reason, message string) feed.Report {
	return feed.Report{Pod: feed.Pod{UID: types.UID(pod), Namespace: "vc-demo-web", Name: pod, Tenant: "tenant"}, Reason: reason, Message: message, Warning: reason == feed.RulesInjectionFailed}
}

func TestRepetitionsAreCounted(t *testing.T) {
	w, r := newWriter()
	start := time.Now()
	for i := range 5 {
		w.write(report("front", feed.RulesInjectionFailed, fmt.Sprint("attempt ", i)), start.Add(time.Duration(i)*time.Second))
	}
	// Another reason, and another pod, have their own.
	w.write(report("front", feed.RulesInjected, "done"), start)
	w.write(report("back", feed.RulesInjectionFailed, "100%d"), start)
	w.write(report("stranger", feed.RulesInjected, "done"), start)
	w.write(report("front", feed.RulesInjectionFailed, "attempt 5"), start.Add(time.Minute))
	want := []string{
		"Warning RulesInjectionFailed attempt 0", "Normal RulesInjected done", "Warning RulesInjectionFailed 100%d",
		"Warning RulesInjectionFailed attempt 5 (and 4 more since the last such event)",
	}
	if diff := cmp.Diff(want, r.notes); diff != "" {
		t.Error(diff)
	}
}

// One tenant's pods cannot make events without end, and cost no other tenant theirs.
func TestEventsOfATenantAreBounded(t *testing.T) {
	w, r := newWriter()
	now := time.Now()
	for i := range 10 * tenantBurst {
		w.write(report(fmt.Sprint("pod-", i), feed.RulesPending, "waiting"), now)
	}
	if len(r.notes) != tenantBurst {
		t.Errorf("%d events, want %d", len(r.notes), tenantBurst)
	}
	other := report("front", feed.RulesInjected, "done")
	other.Pod.Tenant = "other"
	if result := w.write(other, now); result != Written {
		t.Errorf("another tenant's report was %s", result)
	}
}

func TestPodsAreForgotten(t *testing.T) {
	w, _ := newWriter()
	now := time.Now()
	w.write(report("front", feed.RulesInjected, "done"), now)
	w.sweep(now.Add(forgetAfter / 2))
	if len(w.pods) != 1 || len(w.tenants) != 1 {
		t.Error("forgotten too early")
	}
	w.sweep(now.Add(2 * forgetAfter))
	if len(w.pods) != 0 || len(w.tenants) != 0 {
		t.Error("remembered for ever")
	}
}

func TestLongMessagesAreCut(t *testing.T) {
	w, r := newWriter()
	w.write(report("front", feed.RulesInjected, strings.Repeat("é", 2000)), time.Now())
	if note := strings.TrimPrefix(r.notes[0], "Normal RulesInjected "); len(note) > maxNote || !strings.HasSuffix(note, "é...") {
		t.Errorf("a note of %d bytes: ...%s", len(note), note[len(note)-10:])
	}
}
