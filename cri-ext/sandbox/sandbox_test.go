package sandbox

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/bulkhead-dev/bulkhead/internal/feed"
	"github.com/bulkhead-dev/bulkhead/internal/ruleset"
)

// The gate opens when the rules are in, and the pod is told.
func TestGateOpensOnAcknowledgement(t *testing.T) {
	w := newWorld(t)
	s := newStand(t, w, nil)
	pod := podOf("a", 1)
	s.feeder(t, pod)
	s.Add(w.add("s1", pod))
	opened := make(chan error, 1)
	go func() { opened <- s.Gate(within(t), "c-s1") }()
	eventually(t, "waiting", func() bool { return s.state("s1") == Waiting })
	select {
	case err := <-opened:
		t.Fatalf("the gate opened without rules: %v", err)
	default:
	}
	s.put(t, rules(t, "a", 1, 5))
	if err := <-opened; err != nil {
		t.Fatal(err)
	}
	w.guest("s1", func(g *guest) {
		if g.held == nil || g.held.Generation() != 1 {
			t.Errorf("the gate is open, and the sandbox holds %v", g.held)
		}
	})
	eventually(t, "the report", func() bool { return len(s.reported(feed.RulesInjected)) == 1 })
	if report := s.reported(feed.RulesInjected)[0]; report.Pod != pod || report.Warning {
		t.Errorf("report %+v", report)
	}
	s.put(t, rules(t, "a", 2, 6))
	eventually(t, "generation 2", func() bool { v, _ := s.Show("s1"); return v.Generation == 2 })
	w.guest("s1", func(g *guest) {
		if g.wholes != 1 || g.deltas != 1 {
			t.Errorf("%d whole sets and %d deltas came, want one of each", g.wholes, g.deltas)
		}
	})
}

// What counts is the generation that is current when the container wants to start:
// neither an older one, nor every newer one.
func TestGateWantsWhatIsCurrentAtEntry(t *testing.T) {
	w := newWorld(t)
	s := newStand(t, w, nil)
	pod := podOf("a", 1)
	s.feeder(t, pod)
	s.put(t, rules(t, "a", 1, 5))
	sandbox := w.add("s1", pod)
	release := map[uint64]chan struct{}{2: make(chan struct{}), 3: make(chan struct{})}
	arrived := make(chan uint64, 10)
	w.guest("s1", func(g *guest) {
		g.hook = func(ctx context.Context, set *ruleset.Set) error {
			if wait := release[set.Generation()]; wait != nil {
				arrived <- set.Generation()
				<-wait
			}
			return nil
		}
	})
	s.Add(sandbox)
	if err := s.Gate(within(t), "c-s1"); err != nil {
		t.Fatal(err)
	}
	s.put(t, rules(t, "a", 2, 5))
	<-arrived
	opened, waits := make(chan error, 1), make(chan struct{})
	go func() { opened <- s.Gate(&watched{Context: within(t), waits: waits}, "c-s1") }()
	<-waits
	short, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := s.Gate(short, "c-s1"); status.Code(err) != codes.DeadlineExceeded || !strings.Contains(err.Error(), "generation 2") {
		t.Errorf("a gate with generation 2 on its way: %v", err)
	}
	s.put(t, rules(t, "a", 3, 5))
	close(release[2])
	<-arrived // generation 3 hangs
	if err := <-opened; err != nil {
		t.Errorf("the gate waits for more than was current: %v", err)
	}
	close(release[3])
}

// watched is a context that tells when somebody waits for its end.
type watched struct {
	context.Context //nolint:containedctx // it is one
	waits           chan struct{}
	once            sync.Once
}

func (w *watched) Done() <-chan struct{} {
	w.once.Do(func() { close(w.waits) })
	return w.Context.Done()
}

func TestGateFailsClosedInWords(t *testing.T) {
	pod := podOf("a", 1)
	for name, test := range map[string]struct {
		prepare func(t *testing.T, w *world, s *stand)
		why     string
		code    codes.Code
	}{
		"no feeder":      {func(*testing.T, *world, *stand) {}, "tenant-proxy is not connected", codes.Unavailable},
		"feeder lists":   {func(_ *testing.T, _ *world, s *stand) { s.records.Connected() }, "has not listed the pods", codes.Unavailable},
		"unknown pod":    {func(t *testing.T, _ *world, s *stand) { s.feeder(t) }, "by the super cluster's records it is no tenant's", codes.Unavailable},
		"no rules":       {func(t *testing.T, _ *world, s *stand) { s.feeder(t, pod) }, "no rules of the virtual cluster yet", codes.Unavailable},
		"feeder is away": {func(t *testing.T, _ *world, s *stand) { s.feeder(t, pod); s.records.Disconnected() }, "has left no rules", codes.Unavailable},
		"pending": {func(t *testing.T, _ *world, s *stand) {
			s.feeder(t, pod)
			if err := s.records.SetPending("a", "forbidden by its apiserver"); err != nil {
				t.Fatal(err)
			}
		}, "forbidden by its apiserver", codes.Unavailable},
		"sandbox fails": {func(t *testing.T, w *world, s *stand) {
			s.feeder(t, pod)
			w.guest("s1", func(g *guest) {
				g.hook = func(context.Context, *ruleset.Set) error { return errors.New("no engine for IPv4") }
			})
			s.put(t, rules(t, "a", 1, 1))
		}, "no engine for IPv4", codes.Unavailable},
		"sandbox hangs": {func(t *testing.T, w *world, s *stand) {
			s.feeder(t, pod)
			w.guest("s1", func(g *guest) {
				g.hook = func(ctx context.Context, _ *ruleset.Set) error { <-ctx.Done(); return ctx.Err() }
			})
			s.put(t, rules(t, "a", 1, 1))
		}, "has not acknowledged generation 1", codes.Unavailable},
		"record of another pod": {func(t *testing.T, _ *world, s *stand) {
			other := pod
			other.Namespace = "vc-b-default"
			s.feeder(t, other)
			s.put(t, rules(t, "a", 1, 1))
		}, "contradict", codes.FailedPrecondition},
		"channel to somewhere else": {func(t *testing.T, w *world, s *stand) {
			w.guest("s1", func(g *guest) { g.leads = &ruleset.Recipient{Tenant: "b", Sandbox: "s2"} })
			s.feeder(t, pod)
			s.put(t, rules(t, "a", 1, 1))
		}, "contradict", codes.FailedPrecondition},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			s := newStand(t, w, func(o *Options) { o.GateTimeout = 200 * time.Millisecond })
			sandbox := w.add("s1", pod)
			test.prepare(t, w, s)
			s.Add(sandbox)
			s.becauseOf(t, "s1", test.why)
			err := s.Gate(within(t), "c-s1")
			if status.Code(err) != test.code || !strings.Contains(err.Error(), test.why) {
				t.Errorf("%v; want %s because %s", err, test.code, test.why)
			}
		})
	}
}

// The feeder changes its mind on whose pod it is: nothing goes there any more, and
// nobody is told who the other is.
func TestASandboxNeverChangesTenant(t *testing.T) {
	w := newWorld(t)
	s := newStand(t, w, nil)
	pod := podOf("a", 1)
	s.feeder(t, pod)
	s.put(t, rules(t, "a", 1, 3))
	s.put(t, rules(t, "tenant-b", 1, 3))
	s.Add(w.add("s1", pod))
	if err := s.Gate(within(t), "c-s1"); err != nil {
		t.Fatal(err)
	}
	changed := pod
	changed.Tenant = "tenant-b"
	if err := s.records.PutPod(changed); err != nil {
		t.Fatal(err)
	}
	eventually(t, "refusal", func() bool { return s.state("s1") == Refused })
	s.put(t, rules(t, "a", 2, 4))
	s.put(t, rules(t, "tenant-b", 2, 4))
	err := s.Gate(within(t), "c-s1")
	if status.Code(err) != codes.FailedPrecondition || strings.Contains(err.Error(), "tenant-b") {
		t.Errorf("the gate says %v", err)
	}
	if n := testutil.ToFloat64(s.metrics.mismatches); n != 1 {
		t.Errorf("tenant_mismatch_total is %v", n)
	}
	w.guest("s1", func(g *guest) {
		if g.held.Tenant() != "a" || g.held.Generation() != 1 || w.sent["s1"] != 1 {
			t.Errorf("the sandbox holds generation %d of %s after %d sends", g.held.Generation(), g.held.Tenant(), w.sent["s1"])
		}
	})
	for _, report := range s.reported(feed.RulesInjectionFailed) {
		if strings.Contains(report.Message, "tenant-b") || report.Pod.Tenant != "a" {
			t.Errorf("report %+v", report)
		}
	}
}

// An acknowledgement of something else opens nothing.
func TestWrongAcknowledgement(t *testing.T) {
	w := newWorld(t)
	s := newStand(t, w, nil)
	pod := podOf("a", 1)
	s.feeder(t, pod)
	s.put(t, rules(t, "a", 7, 3))
	sandbox := w.add("s1", pod)
	// It says from the start that it holds generation 7, but of other rules.
	w.guest("s1", func(g *guest) {
		g.held = rules(t, "a", 7, 9)
		g.hook = func(context.Context, *ruleset.Set) error { return errFault }
	})
	s.Add(sandbox)
	s.becauseOf(t, "s1", "a fault")
	short, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := s.Gate(short, "c-s1"); status.Code(err) != codes.DeadlineExceeded || !strings.Contains(err.Error(), "a fault") {
		t.Errorf("the gate says %v", err)
	}
	// One that holds just these needs nothing.
	other := podOf("a", 2)
	if err := s.records.PutPod(other); err != nil {
		t.Fatal(err)
	}
	sandbox = w.add("s2", other)
	w.guest("s2", func(g *guest) { g.held = rules(t, "a", 7, 3) })
	s.Add(sandbox)
	if err := s.Gate(within(t), "c-s2"); err != nil || w.sent["s2"] != 0 {
		t.Errorf("the gate of one that holds the rules: %v after %d sends", err, w.sent["s2"])
	}
}

// A sandbox that never answers keeps no other waiting.
func TestOneThatHangsIsAlone(t *testing.T) {
	w := newWorld(t)
	s := newStand(t, w, nil)
	hangs, works := podOf("a", 1), podOf("a", 2)
	s.feeder(t, hangs, works)
	s.put(t, rules(t, "a", 1, 3))
	first, second := w.add("s1", hangs), w.add("s2", works)
	w.guest("s1", func(g *guest) { g.hello = func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() } })
	s.Add(first)
	s.Add(second)
	if err := s.Gate(within(t), "c-s2"); err != nil {
		t.Fatal(err)
	}
	began := make(chan error, 1)
	go func() { began <- s.Gate(within(t), "c-s1") }()
	w.locked(func() { w.guests["s1"].ready = false })
	s.Remove("s1") // and its removal ends what waits
	if err := <-began; status.Code(err) != codes.FailedPrecondition && status.Code(err) != codes.Unavailable {
		t.Errorf("the gate of a removed sandbox says %v", err)
	}
}

func TestExemptions(t *testing.T) {
	w := newWorld(t)
	s := newStand(t, w, nil)
	etcd, agent := podOf("a", 1), podOf("a", 2)
	etcd.ControlPlane = true
	s.feeder(t, etcd, agent)
	s.put(t, rules(t, "a", 1, 3))
	platform := feed.Pod{UID: "u", Namespace: "kube-system", Name: "dns"}
	sandboxes := []string{"s1", "s2", "s3"}
	for i, pod := range []feed.Pod{etcd, agent, platform} {
		sandbox := w.add(sandboxes[i], pod)
		w.guest(sandboxes[i], func(g *guest) { g.host = i == 1 })
		s.Add(sandbox)
		if err := s.Gate(within(t), "c-"+sandboxes[i]); err != nil {
			t.Errorf("%s: %v", pod.Name, err)
		}
		if w.sent[sandboxes[i]] != 0 {
			t.Errorf("%s got rules", pod.Name)
		}
	}
	if s.state("s1") != Exempt || s.state("s2") != Exempt || s.state("s3") != "" {
		t.Errorf("states %q %q %q", s.state("s1"), s.state("s2"), s.state("s3"))
	}
}

// After a restart all is found again: sandboxes, containers, and what they hold.
func TestRestartFindsSandboxes(t *testing.T) {
	w := newWorld(t)
	s := newStand(t, w, nil)
	pod := podOf("a", 1)
	s.feeder(t, pod)
	s.put(t, rules(t, "a", 1, 3))
	s.Add(w.add("s1", pod))
	if err := s.Gate(within(t), "c-s1"); err != nil {
		t.Fatal(err)
	}
	s.stop()
	w.add("s2", podOf("b", 1)) // meanwhile

	again := newStand(t, w, func(o *Options) { o.PatrolInterval = 5 * time.Millisecond })
	again.feeder(t, pod, podOf("b", 1))
	again.put(t, rules(t, "a", 1, 3))
	again.put(t, rules(t, "b", 1, 3))
	for _, id := range []string{"s1", "s2"} {
		eventually(t, id, func() bool { return again.state(id) == Current })
	}
	if w.sent["s1"] != 1 || w.sent["s2"] != 1 {
		t.Errorf("sends %v: the first held its rules already", w.sent)
	}
	w.locked(func() { w.guests["s1"].ready = false; delete(w.guests, "s2") })
	eventually(t, "both to go", func() bool { return len(again.List()) == 0 })
}

// Containers that nobody told us of are found by asking.
func TestGateAsksForWhatItDoesNotKnow(t *testing.T) {
	w := newWorld(t)
	s := newStand(t, w, func(o *Options) { o.GateTimeout = 100 * time.Millisecond })
	eventually(t, "the first patrol", func() bool { return s.Gate(within(t), "none") != nil })
	if err := s.Gate(within(t), "none"); status.Code(err) != codes.NotFound {
		t.Errorf("a container that is nowhere: %v", err)
	}
	if err := s.Gate(within(t), ""); status.Code(err) != codes.InvalidArgument {
		t.Errorf("no container: %v", err)
	}
	w.add("s1", podOf("a", 1))
	if err := s.Gate(within(t), "c-s1"); status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "tenant-proxy is not connected") {
		t.Errorf("a container of a pod that nobody knows: %v", err)
	}
	w.add("s2", podOf("a", 2))
	w.locked(func() { w.guests["s2"].ready = false })
	if err := s.Gate(within(t), "c-s2"); status.Code(err) != codes.FailedPrecondition {
		t.Errorf("a container in a sandbox that has ended: %v", err)
	}
}

func TestGateEndsWithItsCause(t *testing.T) {
	w := newWorld(t)
	s := newStand(t, w, nil)
	s.Add(w.add("s1", podOf("a", 1)))
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errors.New("cri-ext is restarting"))
	if err := s.Gate(ctx, "c-s1"); status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "restarting") {
		t.Errorf("%v", err)
	}
	off := newStand(t, w, func(o *Options) { o.Gate = false })
	if err := off.Gate(ctx, "c-s1"); err != nil {
		t.Errorf("a gate that is off: %v", err)
	}
}

func TestForgottenTenantsGoWithTheirLastSandbox(t *testing.T) {
	w := newWorld(t)
	s := newStand(t, w, nil)
	pod := podOf("a", 1)
	s.feeder(t, pod)
	s.put(t, rules(t, "a", 1, 3))
	s.put(t, rules(t, "b", 1, 3))
	s.Add(w.add("s1", pod))
	if err := s.Gate(within(t), "c-s1"); err != nil {
		t.Fatal(err)
	}
	s.records.Forget("a")
	s.records.Forget("b")
	if s.records.Rules("a") == nil || s.records.Rules("b") != nil {
		t.Error("rules of a tenant with a sandbox are gone, or those of one without are not")
	}
	if held := s.records.Held(); len(held) != 0 {
		t.Errorf("forgotten rules are told to the next feeder: %v", held)
	}
	w.locked(func() { w.guests["s1"].ready = false })
	s.Remove("s1")
	if s.records.Rules("a") != nil {
		t.Error("rules of a forgotten tenant are left after its last sandbox")
	}
}

// A pod that a new feeder does not repeat is unknown.
func TestRecordsOfAFormerFeederGo(t *testing.T) {
	w := newWorld(t)
	s := newStand(t, w, nil)
	s.feeder(t, podOf("a", 1), podOf("a", 2))
	s.records.Disconnected()
	s.feeder(t, podOf("a", 2))
	if _, known := s.records.pod(podOf("a", 1).UID); known {
		t.Error("a pod that is gone is still known")
	}
	if _, known := s.records.pod(podOf("a", 2).UID); !known {
		t.Error("a pod that was repeated is not known")
	}
}

func TestReferences(t *testing.T) {
	w := newWorld(t)
	s := newStand(t, w, nil)
	s.Add(w.add("abcd1111", podOf("a", 1)))
	s.Add(w.add("abcd2222", podOf("a", 2)))
	for reference, want := range map[string]string{
		"abcd1111": "abcd1111", "abcd2": "abcd2222", "vc-a-default/web-1": "abcd1111", "uid-a-2": "abcd2222", "abc": "", "abcd": "", "web-1": "",
	} {
		view, err := s.Show(reference)
		if view.Sandbox != want || (err == nil) != (want != "") {
			t.Errorf("%q is %q, %v", reference, view.Sandbox, err)
		}
	}
}

func TestQuestionsGoThroughTheWorker(t *testing.T) {
	w := newWorld(t)
	s := newStand(t, w, nil)
	pod := podOf("a", 1)
	s.feeder(t, pod)
	s.Add(w.add("s1", pod))
	s.put(t, rules(t, "a", 1, 3))
	if err := s.Gate(within(t), "c-s1"); err != nil {
		t.Fatal(err)
	}
	services, err := s.Live(within(t), "s1")
	if err != nil || len(services) != 3 {
		t.Errorf("%d services, %v", len(services), err)
	}
	if hello, _, err := s.Probe(within(t), "s1"); err != nil || hello.Generation != 1 {
		t.Errorf("hello %+v, %v", hello, err)
	}
	if _, err := s.Resync(within(t), "s1"); err != nil {
		t.Error(err)
	}
	set, view, err := s.Wanted("s1")
	if err != nil || set.Generation() != 1 || view.Generation != 1 {
		t.Errorf("wanted %v, %+v, %v", set, view, err)
	}
	s.Add(w.add("s2", podOf("b", 1)))
	if _, err := s.Live(within(t), "s2"); err == nil {
		t.Error("rules were read from a sandbox without a channel")
	}
	if n, err := testutil.GatherAndCount(gatherer(t, s.Metrics())); err != nil || n == 0 {
		t.Errorf("%d metrics, %v", n, err)
	}
}

// Repair comes by itself.
func TestRepairIsPeriodic(t *testing.T) {
	w := newWorld(t)
	s := newStand(t, w, func(o *Options) { o.RepairInterval = 2 * time.Millisecond })
	pod := podOf("a", 1)
	s.feeder(t, pod)
	s.put(t, rules(t, "a", 1, 3))
	s.Add(w.add("s1", pod))
	repaired := func() (n int) { w.guest("s1", func(g *guest) { n = g.repairs }); return n }
	eventually(t, "three repairs", func() bool { return repaired() >= 3 })
}
