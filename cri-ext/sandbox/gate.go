package sandbox

import (
	"context"
	"errors"
	"fmt"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/bulkhead-dev/bulkhead/internal/feed"
	"github.com/bulkhead-dev/bulkhead/internal/ruleset"
)

// pendingAfter is how long a container waits before its pod is told.
const pendingAfter = time.Second

// Gate returns once a container may start: at once if its sandbox is no tenant's or
// gets no rules, else when the sandbox has acknowledged the rules that are current now.
// Its error is a gRPC status whose message is for the pod.
func (r *Registry) Gate(ctx context.Context, container string) error {
	if !r.options.Gate {
		return nil
	}
	s, err := r.sandboxOf(ctx, container)
	if err != nil {
		r.metrics.gate("error", 0)
		return refusal(ctx, err)
	}
	if s == nil {
		return nil
	}
	return r.wait(ctx, s)
}

// GateSandbox is Gate for a sandbox in which containers run already.
func (r *Registry) GateSandbox(ctx context.Context, id string) error {
	s, err := r.find(ctx, id)
	if err != nil {
		return refusal(ctx, err)
	}
	if s == nil || !r.options.Gate {
		return nil
	}
	return r.wait(ctx, s)
}

// refusal keeps the status of an error of the runtime.
func refusal(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return canceled(ctx, err.Error())
	}
	code := status.Code(err)
	if code == codes.Unknown {
		code = codes.Unavailable
	}
	return status.Errorf(code, "cri-ext cannot tell whether the container may start: %v", err)
}

func (r *Registry) wait(ctx context.Context, s *sandbox) error {
	began := time.Now()
	limit := time.NewTimer(r.options.GateTimeout)
	defer limit.Stop()
	pending := time.NewTimer(pendingAfter)
	defer pending.Stop()
	var required *ruleset.Set
	for {
		v := r.verdict(s, &required)
		switch {
		case v.open:
			r.metrics.gate("passed", time.Since(began))
			return nil
		case v.refused:
			r.metrics.gate("refused", time.Since(began))
			return status.Errorf(codes.FailedPrecondition, "this container must not start: %s", v.why)
		}
		select {
		case <-v.changed:
		case <-pending.C:
			if v.bound != nil {
				r.options.Report(feed.Report{Pod: *v.bound, Reason: feed.RulesPending, Message: "Containers wait for the service rules: " + limited(v.why), Time: time.Now()})
			}
		case <-limit.C:
			r.metrics.gate("timeout", time.Since(began))
			return status.Errorf(codes.Unavailable,
				"this container may start only when its pod has the service rules of its virtual cluster, which were not there after %s: %s", r.options.GateTimeout, v.why)
		case <-ctx.Done():
			r.metrics.gate("canceled", time.Since(began))
			return canceled(ctx, v.why)
		}
	}
}

func canceled(ctx context.Context, why string) error {
	cause := context.Cause(ctx)
	switch {
	case errors.Is(cause, context.DeadlineExceeded):
		return status.Errorf(codes.DeadlineExceeded, "this container may start only when its pod has the service rules of its virtual cluster: %s", why)
	case errors.Is(cause, context.Canceled):
		return status.Error(codes.Canceled, "the call was given up")
	}
	return status.Error(codes.Unavailable, cause.Error())
}

// verdict is what the gate makes of a sandbox at one moment.
type verdict struct {
	open, refused bool
	why           string
	bound         *feed.Pod
	// changed is closed when the verdict may be another.
	changed <-chan struct{}
}

// verdict looks at a sandbox. required is the set that is waited for: the first that
// there is.
func (r *Registry) verdict(s *sandbox, required **ruleset.Set) verdict {
	s.mu.Lock()
	defer s.mu.Unlock()
	v := verdict{changed: s.changed, bound: s.bound}
	switch {
	case s.state == Refused || s.state == Stopped:
		v.refused, v.why = true, s.reason
		return v
	case s.state == Exempt:
		v.open = true
		return v
	case s.bound == nil:
		v.why = r.records.whyUnknown(s.Pod(), s.UID)
		return v
	}
	if *required == nil {
		*required = r.records.Rules(s.bound.Tenant)
	}
	switch {
	case *required == nil:
		v.why = r.records.whyNoRules(s.bound.Tenant)
	case s.acked != nil && s.acked.Generation() >= (*required).Generation():
		v.open = true
	case s.failed != nil:
		v.why = s.failed.Error()
	default:
		v.why = fmt.Sprintf("the sandbox has not acknowledged generation %d of the rules", (*required).Generation())
	}
	return v
}
