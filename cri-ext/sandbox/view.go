package sandbox

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/bulkhead-dev/bulkhead/cri-ext/channel"
	"github.com/bulkhead-dev/bulkhead/internal/ruleset"
)

// View is what is known of one sandbox, for the outside.
type View struct {
	Sandbox      string            `json:"sandbox"`
	UID          types.UID         `json:"uid"`
	Namespace    string            `json:"namespace"`
	Name         string            `json:"name"`
	Tenant       types.UID         `json:"tenant,omitempty"`
	ControlPlane bool              `json:"controlPlane,omitempty"`
	State        State             `json:"state"`
	Reason       string            `json:"reason,omitempty"`
	Handler      string            `json:"runtimeHandler,omitempty"`
	Backends     []channel.Backend `json:"backends,omitempty"`
	Agent        string            `json:"agent,omitempty"`
	// Generation is what the sandbox acknowledged last, Wanted what it should hold.
	Generation uint64 `json:"generation"`
	Wanted     uint64 `json:"wanted"`
	Services   int    `json:"services"`
	Endpoints  int    `json:"endpoints"`
	// Since is when the sandbox acknowledged.
	Since      time.Time `json:"since,omitzero"`
	Error      string    `json:"error,omitempty"`
	Reconnects int       `json:"reconnects"`
	Repaired   int       `json:"repaired"`
}

func (r *Registry) view(s *sandbox) View {
	s.mu.Lock()
	defer s.mu.Unlock()
	v := View{
		Sandbox: s.ID, UID: s.UID, Namespace: s.Namespace, Name: s.Name, State: s.state, Reason: s.reason,
		Since: s.ackedAt, Reconnects: s.reconnects, Repaired: s.repaired,
	}
	if s.status != nil {
		v.Handler = s.status.Handler
	}
	if s.hello != nil {
		v.Backends, v.Agent = s.hello.Backends, s.hello.Version
	}
	if s.failed != nil {
		v.Error = s.failed.Error()
	}
	if s.acked != nil {
		v.Generation, v.Services, v.Endpoints = s.acked.Generation(), len(s.acked.Services()), s.acked.Backends()
	}
	if s.bound == nil {
		if s.state == Unbound {
			v.Reason = r.records.whyUnknown(s.Pod(), s.UID)
		}
		return v
	}
	v.Tenant, v.ControlPlane = s.bound.Tenant, s.bound.ControlPlane
	if set := r.records.Rules(v.Tenant); set != nil {
		v.Wanted = set.Generation()
	} else if s.state == Waiting {
		v.Reason = r.records.whyNoRules(v.Tenant)
	}
	return v
}

// List shows all sandboxes of tenants, by pod.
func (r *Registry) List() []View {
	var views []View
	for _, s := range r.all() {
		views = append(views, r.view(s))
	}
	slices.SortFunc(views, func(a, b View) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name), cmp.Compare(a.Sandbox, b.Sandbox))
	})
	return views
}

// Summary is what is known of the node.
type Summary struct {
	FeedConnected bool          `json:"feedConnected"`
	PodsComplete  bool          `json:"podsComplete"`
	Pods          int           `json:"pods"`
	Tenants       int           `json:"tenants"`
	Sandboxes     map[State]int `json:"sandboxes"`
	Others        int           `json:"otherSandboxes"`
	Gate          bool          `json:"gate"`
	GateTimeout   string        `json:"gateTimeout"`
}

// Summary sums the node up.
func (r *Registry) Summary() Summary {
	connected, complete, pods, tenants := r.records.state()
	s := Summary{
		FeedConnected: connected, PodsComplete: complete, Pods: pods, Tenants: len(tenants),
		Sandboxes: map[State]int{}, Gate: r.options.Gate, GateTimeout: r.options.GateTimeout.String(),
	}
	for _, view := range r.List() {
		s.Sandboxes[view.State]++
	}
	r.mu.RLock()
	defer r.mu.RUnlock()
	s.Others = len(r.others)
	return s
}

// shortestPrefix is the least of a sandbox ID that names one.
const shortestPrefix = 4

// lookup finds the one sandbox that a reference means: a pod as namespace/name, its
// UID, or the beginning of a sandbox ID. Of several sandboxes of a pod the newest is
// meant.
func (r *Registry) lookup(reference string) (*sandbox, error) {
	var found []*sandbox
	for _, s := range r.all() {
		switch {
		case s.Pod() == reference || string(s.UID) == reference || s.ID == reference:
			found = append(found, s)
		case len(reference) >= shortestPrefix && strings.HasPrefix(s.ID, reference):
			found = append(found, s)
		}
	}
	if len(found) == 0 {
		return nil, fmt.Errorf("no tenant's sandbox on this node is %q: name it as namespace/name of the super cluster's pod, by the pod's UID, or by the beginning of the sandbox's ID (see `cri-ext pods`)", reference)
	}
	newest := slices.MaxFunc(found, func(a, b *sandbox) int { return a.seen.Compare(b.seen) })
	for _, s := range found {
		if s.UID != newest.UID {
			return nil, fmt.Errorf("%q is the beginning of several sandboxes' IDs, such as %s and %s", reference, s.ID, newest.ID)
		}
	}
	return newest, nil
}

// Show shows one sandbox; see lookup for what may be given.
func (r *Registry) Show(reference string) (View, error) {
	s, err := r.lookup(reference)
	if err != nil {
		return View{}, err
	}
	return r.view(s), nil
}

// Wanted are the rules that a sandbox should hold, nil if it should hold none.
func (r *Registry) Wanted(reference string) (*ruleset.Set, View, error) {
	s, err := r.lookup(reference)
	if err != nil {
		return nil, View{}, err
	}
	view := r.view(s)
	if view.Tenant == "" || view.State == Exempt {
		return nil, view, nil
	}
	return r.records.Rules(view.Tenant), view, nil
}

// Live reads back what a sandbox's kernel holds.
func (r *Registry) Live(ctx context.Context, reference string) (services []ruleset.Service, err error) {
	err = r.ask(ctx, reference, false, func(ctx context.Context, open channel.Channel) (err error) {
		services, err = open.Dump(ctx)
		return err
	})
	return services, err
}

// Probe asks a sandbox what it can do and holds, and says how long the answer took.
func (r *Registry) Probe(ctx context.Context, reference string) (hello channel.Hello, took time.Duration, err error) {
	err = r.ask(ctx, reference, false, func(ctx context.Context, open channel.Channel) (err error) {
		began := time.Now()
		hello, err = open.Hello(ctx)
		took = time.Since(began)
		return err
	})
	return hello, took, err
}

// Resync makes a sandbox prove, now, that it holds its rules, and returns how many
// services had to be set right.
func (r *Registry) Resync(ctx context.Context, reference string) (repaired int, err error) {
	err = r.ask(ctx, reference, true, func(ctx context.Context, open channel.Channel) (err error) {
		repaired, err = open.Repair(ctx)
		return err
	})
	return repaired, err
}

// questionTimeout is for one question to a sandbox.
const questionTimeout = 30 * time.Second

// ask has a sandbox's worker do something through its channel.
func (r *Registry) ask(ctx context.Context, reference string, anew bool, what func(context.Context, channel.Channel) error) error {
	s, err := r.lookup(reference)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, questionTimeout)
	defer cancel()
	q := question{anew: anew, done: make(chan error, 1), ask: func(life context.Context, open channel.Channel) error {
		// It ends with the one who asks, and with the worker.
		defer context.AfterFunc(life, cancel)()
		return what(ctx, open)
	}}
	select {
	case s.questions <- q:
	case <-s.done:
		return errEnded
	case <-ctx.Done():
		return fmt.Errorf("sandbox %s is busy: %w", s.ID, ctx.Err())
	}
	// The worker answers what it took, within the deadline of what it does.
	return <-q.done
}
