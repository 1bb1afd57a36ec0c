package sandbox

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/go-logr/logr"
	"k8s.io/apimachinery/pkg/util/wait"

	"github.com/bulkhead-dev/bulkhead/cri-ext/channel"
	"github.com/bulkhead-dev/bulkhead/internal/feed"
	"github.com/bulkhead-dev/bulkhead/internal/ruleset"
)

// Times that a sandbox gets.
const (
	helloTimeout  = 10 * time.Second
	sendTimeout   = 30 * time.Second
	repairTimeout = 30 * time.Second
	// firstRetry and maxRetry are waits after something did not work.
	firstRetry = 50 * time.Millisecond
	maxRetry   = 30 * time.Second
)

// question is something that others want to have done through the channel.
type question struct {
	// anew makes the worker greet the sandbox again afterwards, and send what that does
	// not say it holds.
	anew bool
	ask  func(ctx context.Context, open channel.Channel) error
	done chan error
}

// worker brings one sandbox to its tenant's rules and keeps it there.
type worker struct {
	*sandbox
	registry *Registry
	log      logr.Logger

	channel channel.Channel
	// greeted tells whether Hello has worked since the last failure.
	greeted bool
	// basis is the set that the sandbox is known to hold, nil if that is not known.
	basis    *ruleset.Set
	repairAt time.Time
	backoff  wait.Backoff
	// reported is the last failure that was reported, and reportedOnce that the first
	// rules were.
	reported     string
	reportedOnce bool
	fallback     bool
}

func newRetry() wait.Backoff {
	return wait.Backoff{Duration: firstRetry, Factor: 2, Jitter: 0.2, Steps: 16, Cap: maxRetry}
}

// forever is a wait that only news ends.
const forever = time.Duration(1<<63 - 1)

func (w *worker) run(ctx context.Context) {
	defer close(w.done)
	defer w.close()
	w.backoff = newRetry()
	for ctx.Err() == nil {
		pause, err := w.step(ctx)
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			pause = w.fail(err)
		}
		w.pause(ctx, pause)
	}
}

// pause waits for news, and answers questions.
func (w *worker) pause(ctx context.Context, pause time.Duration) {
	timer := time.NewTimer(pause)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
			return
		case <-w.wake:
			// A sandbox that fails is not hurried by changes of its tenant's rules.
			w.mu.Lock()
			hold := w.state == Failing
			w.mu.Unlock()
			if !hold {
				return
			}
		case q := <-w.questions:
			q.done <- w.answer(ctx, q)
			return
		}
	}
}

func (w *worker) answer(ctx context.Context, q question) error {
	if w.channel == nil {
		w.mu.Lock()
		defer w.mu.Unlock()
		return fmt.Errorf("there is no channel into the sandbox: %s, %s", w.state, w.reason)
	}
	if q.anew {
		w.greeted, w.basis = false, nil
	}
	return q.ask(ctx, w.channel)
}

// fail notes what did not work, and says when to try again.
func (w *worker) fail(err error) time.Duration {
	var mismatch *ruleset.MismatchError
	var contradiction *ContradictionError
	if errors.As(err, &mismatch) || errors.As(err, &contradiction) {
		w.registry.metrics.mismatches.Inc()
		w.log.Error(err, "Nothing goes into this sandbox any more")
		// Who reads this may be another tenant than the one that is named in err.
		w.refuse("records about whose sandbox this is contradict each other; cri-ext's log says which")
		w.report(feed.RulesInjectionFailed, "No service rules: records about whose sandbox this is contradict each other", true)
		w.close()
		return forever
	}
	w.greeted, w.basis = false, nil
	pause := w.backoff.Step()
	w.update(func() {
		w.failed = err
		if w.state != Refused {
			w.state, w.reason = Failing, err.Error()
		}
	})
	w.log.Info("The sandbox does not hold its rules", "error", err.Error(), "retryIn", pause.String())
	if text := err.Error(); text != w.reported {
		w.reported = text
		w.report(feed.RulesInjectionFailed, "Putting the service rules into the sandbox: "+text, true)
	}
	return pause
}

func (w *worker) close() {
	if w.channel != nil {
		if err := w.channel.Close(); err != nil {
			w.log.Info("Closing the channel into the sandbox", "error", err.Error())
		}
		w.channel, w.greeted, w.basis = nil, false, nil
	}
}

// step does what is to be done now, and returns how long nothing will be.
func (w *worker) step(ctx context.Context) (time.Duration, error) {
	w.mu.Lock()
	refused := w.state == Refused
	w.mu.Unlock()
	if refused {
		return forever, nil
	}
	record, known := w.registry.records.pod(w.UID)
	if known {
		if err := w.bind(record); err != nil {
			return 0, err
		}
	}
	if w.bound == nil { // written by this goroutine alone
		w.set(Unbound, "whose pod it is, is not known yet")
		return forever, nil
	}
	if w.bound.ControlPlane {
		w.set(Exempt, "it is of the virtual cluster's control plane")
		return forever, nil
	}
	if ended, err := w.open(ctx); err != nil || ended {
		return forever, err
	}
	if err := w.greet(ctx); err != nil {
		return 0, err
	}
	return w.follow(ctx)
}

// open finds out where the sandbox is, and makes the channel. It returns true if there
// is none to make.
func (w *worker) open(ctx context.Context) (ended bool, err error) {
	if w.channel != nil {
		return false, nil
	}
	status, err := w.registry.options.Runtime.Status(ctx, w.ID)
	if err != nil {
		return false, err
	}
	if status.UID != w.UID || status.Namespace != w.Namespace || status.Name != w.Name {
		return false, &ContradictionError{w.ID, fmt.Sprintf("it was made for pod %s with UID %s, and the runtime has pod %s with UID %s in it", w.Pod(), w.UID, status.Pod(), status.UID)}
	}
	w.update(func() { w.status = &status })
	switch {
	case !status.Ready:
		w.set(Stopped, "the runtime says that the sandbox has ended")
		return true, nil
	case status.HostNetwork:
		w.set(Exempt, "it uses the node's network, where service rules are the node's own")
		return true, nil
	}
	recipient := ruleset.Recipient{Tenant: w.bound.Tenant, Sandbox: w.ID}
	opened, err := w.registry.options.Open(recipient, status)
	if err != nil {
		return false, fmt.Errorf("opening a channel: %w", err)
	}
	if leads := opened.Recipient(); leads != recipient {
		err := &ContradictionError{w.ID, fmt.Sprintf("the channel leads to sandbox %s of tenant %s", leads.Sandbox, leads.Tenant)}
		return false, errors.Join(err, opened.Close())
	}
	w.channel = opened
	return false, nil
}

// greet finds out what the sandbox can do and holds.
func (w *worker) greet(ctx context.Context) error {
	if w.greeted {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, helloTimeout)
	defer cancel()
	began := time.Now()
	hello, err := w.channel.Hello(ctx)
	if err != nil {
		return fmt.Errorf("reaching the sandbox: %w", err)
	}
	w.registry.metrics.inject.WithLabelValues("dial").Observe(time.Since(began).Seconds())
	w.greeted = true
	w.repairAt = time.Now().Add(rand.N(w.registry.options.RepairInterval))
	again := w.hello != nil
	if again {
		w.registry.metrics.reconnects.Inc()
	}
	w.update(func() {
		if again {
			w.reconnects++
		}
		w.hello = &hello
	})
	if w.basis = w.recognise(hello); w.basis == nil {
		// What it acknowledged once, it does not hold any more.
		w.update(func() { w.acked = nil })
	}
	if w.basis != nil && w.basis == w.registry.records.Rules(w.bound.Tenant) {
		w.acknowledged(w.basis)
	}
	if hello.Generation != 0 {
		// It has rules, so that its pod was told before a restart of ours.
		w.reportedOnce, w.fallback = true, true
	}
	for _, backend := range hello.Backends {
		if backend.Reason != "" && !w.fallback {
			w.fallback = true
			w.report(feed.BackendFallback, fmt.Sprintf("%s service rules are carried by %s: %s", backend.Family, name(backend.Engine), limited(backend.Reason)), backend.Engine == "")
		}
	}
	return nil
}

// recognise returns the set that a sandbox says it holds, if it is one that we know.
func (w *worker) recognise(hello channel.Hello) *ruleset.Set {
	for _, set := range []*ruleset.Set{w.registry.records.Rules(w.bound.Tenant), w.acked} {
		if set != nil && set.Generation() == hello.Generation && set.Digest() == hello.Digest {
			return set
		}
	}
	return nil
}

// follow brings the newest rules into the sandbox, or compares if that is due.
func (w *worker) follow(ctx context.Context) (time.Duration, error) {
	set, delta, err := w.registry.records.newest(w.bound.Tenant, w.basis)
	switch {
	case err != nil:
		return 0, err
	case set == nil:
		w.set(Waiting, "the virtual cluster has no rules yet")
		return forever, nil
	case set != w.basis:
		return 0, w.send(ctx, set, delta)
	}
	if due := time.Until(w.repairAt); due > 0 {
		w.set(Current, "")
		return due, nil
	}
	return 0, w.repair(ctx)
}

func (w *worker) send(ctx context.Context, set *ruleset.Set, delta *ruleset.Delta) error {
	w.set(Injecting, fmt.Sprintf("generation %d is on its way", set.Generation()))
	recipient := w.channel.Recipient()
	granted, err := recipient.Accept(set, delta)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, sendTimeout)
	defer cancel()
	began := time.Now()
	ack, err := w.channel.Send(ctx, granted)
	if err != nil {
		return fmt.Errorf("sending generation %d: %w", set.Generation(), err)
	}
	if ack.Generation != set.Generation() || ack.Digest != set.Digest() {
		return fmt.Errorf("the sandbox was sent generation %d (%s) and acknowledges generation %d (%s)", set.Generation(), set.Digest(), ack.Generation, ack.Digest)
	}
	w.registry.metrics.sent(ack, w.backends(), time.Since(began))
	w.basis = set
	w.backoff = newRetry()
	w.acknowledged(set)
	if !w.reportedOnce {
		w.reportedOnce = true
		w.report(feed.RulesInjected, fmt.Sprintf("Service rules of generation %d (%d frontends, %d endpoints) are in the sandbox after %s, carried by %s",
			set.Generation(), len(set.Services()), set.Backends(), time.Since(began).Round(time.Millisecond), engines(w.backends())), false)
	}
	return nil
}

// acknowledged opens the gate for what waits for the set.
func (w *worker) acknowledged(set *ruleset.Set) {
	before := w.acked
	w.update(func() {
		w.acked, w.ackedAt, w.failed = set, time.Now(), nil
		if w.state != Refused {
			w.state, w.reason = Current, ""
		}
	})
	w.reported = ""
	if before == nil {
		w.registry.metrics.inject.WithLabelValues("total").Observe(time.Since(w.seen).Seconds())
		return
	}
	for _, at := range w.registry.records.causes(set.Tenant(), before.Generation(), set.Generation()) {
		w.registry.metrics.programming.Observe(time.Since(at).Seconds())
	}
}

func (w *worker) repair(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, repairTimeout)
	defer cancel()
	n, err := w.channel.Repair(ctx)
	if err != nil {
		return fmt.Errorf("comparing what the sandbox holds with its rules: %w", err)
	}
	if n > 0 {
		w.log.Info("The sandbox's rules had changed and are set right", "services", n)
		w.registry.metrics.repairs.Add(float64(n))
		w.update(func() { w.repaired += n })
	}
	// Spread, so that sandboxes that came together do not stay together.
	interval := w.registry.options.RepairInterval
	w.repairAt = time.Now().Add(interval*3/4 + rand.N(interval/2+1))
	return nil
}

func (w *worker) backends() []channel.Backend {
	if w.hello == nil {
		return nil
	}
	return w.hello.Backends
}

func (w *worker) report(reason, message string, warning bool) {
	if w.bound != nil {
		w.registry.options.Report(feed.Report{Pod: *w.bound, Reason: reason, Message: limited(message), Warning: warning, Time: time.Now()})
	}
}

// maxText is the longest text for an Event, whose messages end at 1024 bytes.
const maxText = 900

// limited cuts a text that a guest may have had a say in.
func limited(text string) string {
	if len(text) > maxText {
		return text[:maxText] + "..."
	}
	return text
}
