package sandbox

import (
	"context"
	"fmt"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/bulkhead-dev/bulkhead/cri-ext/channel"
	"github.com/bulkhead-dev/bulkhead/cri-ext/cri"
	"github.com/bulkhead-dev/bulkhead/internal/feed"
	"github.com/bulkhead-dev/bulkhead/internal/ruleset"
)

// State is where a sandbox stands.
type State string

// States of sandboxes.
const (
	// Unbound: nobody has said yet whose it is.
	Unbound State = "Unbound"
	// Waiting: its tenant has no rules yet.
	Waiting State = "Waiting"
	// Injecting: the newest rules are on their way.
	Injecting State = "Injecting"
	// Current: the sandbox holds the newest rules.
	Current State = "Current"
	// Failing: the last try did not work, another will follow.
	Failing State = "Failing"
	// Exempt: it gets no rules, and containers may start.
	Exempt State = "Exempt"
	// Refused: what is known of it contradicts itself. It gets nothing any more, and no
	// container starts.
	Refused State = "Refused"
	// Stopped: the runtime says that it has ended.
	Stopped State = "Stopped"
)

// sandbox is one pod sandbox of a tenant. Its worker alone talks through its channel.
type sandbox struct {
	cri.Sandbox
	seen time.Time
	// wake makes the worker look again.
	wake chan struct{}
	// questions are what others want to have done through the channel.
	questions chan question
	end       context.CancelFunc
	done      chan struct{}

	mu sync.Mutex
	// changed is closed, and made anew, whenever something below is different.
	changed chan struct{}
	state   State
	// reason says more of the state to people.
	reason string
	// bound is set once, and never changes.
	bound *feed.Pod
	// acked is the set that the sandbox acknowledged last.
	acked   *ruleset.Set
	ackedAt time.Time
	hello   *channel.Hello
	failed  error
	status  *cri.Status
	// figures for the outside.
	reconnects, repaired int
}

func newSandbox(s cri.Sandbox, end context.CancelFunc) *sandbox {
	return &sandbox{
		Sandbox: s, seen: time.Now(), end: end, done: make(chan struct{}),
		wake: make(chan struct{}, 1), questions: make(chan question), changed: make(chan struct{}), state: Unbound,
	}
}

// poke makes the worker look again.
func (s *sandbox) poke() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// update changes what others see, and tells them.
func (s *sandbox) update(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f()
	close(s.changed)
	s.changed = make(chan struct{})
}

// set changes the state. A refused sandbox stays so.
func (s *sandbox) set(state State, reason string) {
	s.update(func() {
		if s.state != Refused {
			s.state, s.reason = state, reason
		}
	})
}

// refuse ends all that a sandbox may get.
func (s *sandbox) refuse(reason string) { s.set(Refused, reason) }

// tenant is whose sandbox it is, empty if that is not known.
func (s *sandbox) tenant() types.UID {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.bound == nil {
		return ""
	}
	return s.bound.Tenant
}

// ContradictionError says that two records of one sandbox cannot both be true.
type ContradictionError struct {
	Sandbox string
	What    string
}

func (e *ContradictionError) Error() string {
	return fmt.Sprintf("sandbox %s: %s", e.Sandbox, e.What)
}

// bind takes a record for the sandbox's, once. A later one has to say the same.
func (s *sandbox) bind(pod feed.Pod) error {
	s.mu.Lock()
	bound := s.bound
	s.mu.Unlock()
	switch {
	case pod.UID != s.UID || pod.Namespace != s.Namespace || pod.Name != s.Name:
		return &ContradictionError{s.ID, fmt.Sprintf("the runtime has pod %s with UID %s in it, the record is of %s/%s with UID %s", s.Pod(), s.UID, pod.Namespace, pod.Name, pod.UID)}
	case bound != nil && bound.Tenant != pod.Tenant:
		return &ContradictionError{s.ID, fmt.Sprintf("it is bound to tenant %s, the record is of tenant %s", bound.Tenant, pod.Tenant)}
	case bound != nil && bound.ControlPlane != pod.ControlPlane:
		return &ContradictionError{s.ID, "a pod cannot become, nor cease to be, of a control plane"}
	case bound == nil:
		s.update(func() { s.bound = &pod })
	}
	return nil
}
