package engine

import (
	"context"
	"errors"
	"io"
	"net/http"
	"sync"
	"time"
)

// lateAfter is how long a tenant's apiserver may take for a call before it counts as
// one that hangs. Webhooks of the tenant may make it take that long, but not often.
const lateAfter = 5 * time.Second

// errLate ends calls of an apiserver that hangs.
var errLate = errors.New("the tenant's apiserver has not answered for too long")

// calls makes the calls of one apiserver for a link.
type calls struct {
	next http.RoundTripper
	// leads refuses writes of a replica that does not lead any more.
	leads func() error
	// answers follows whether a tenant's apiserver does; nil for the super cluster's.
	answers *answers
}

// RoundTrip implements http.RoundTripper.
func (c *calls) RoundTrip(request *http.Request) (*http.Response, error) {
	if request.Method != http.MethodGet {
		if err := c.leads(); err != nil {
			if request.Body != nil {
				_ = request.Body.Close() // which a RoundTripper always does
			}
			return nil, err
		}
	}
	response, err := traceCall(c.side(), request, func(request *http.Request) (*http.Response, error) {
		if c.answers == nil {
			return c.next.RoundTrip(request)
		}
		return c.answers.roundTrip(c.next, request)
	})
	if err == nil && request.Method != http.MethodGet && response.StatusCode < http.StatusMultipleChoices {
		if h := handlingOf(request.Context()); h != nil {
			h.did(request, c.answers != nil)
		}
	}
	return response, err
}

func (c *calls) side() string {
	if c.answers == nil {
		return "super"
	}
	return "tenant"
}

// answers follows the calls of one tenant's apiserver. One that takes calls and does not answer
// would keep all workers that the tenant may have until the calls' deadline, and a
// few such tenants all workers there are. So it has one call at most that waits for longer
// than lateAfter, the others are ended; and from then until it answers its tenant has
// one worker.
type answers struct {
	// changed is told, without locks, when it hangs and when it answers again.
	changed func()

	mu sync.Mutex
	// late is the one call that goes on; hangs: a call was late, and none was
	// answered since.
	late  *lateCall
	hangs bool
}

type lateCall struct {
	end context.CancelCauseFunc
}

func (a *answers) roundTrip(next http.RoundTripper, request *http.Request) (*http.Response, error) {
	ctx, end := context.WithCancelCause(request.Context())
	call := &lateCall{end: end}
	timer := time.AfterFunc(lateAfter, func() { a.isLate(call) })
	response, err := next.RoundTrip(request.WithContext(ctx))
	timer.Stop()
	a.ended(call, err == nil)
	if err != nil {
		if cause := context.Cause(ctx); errors.Is(cause, errLate) {
			err = cause
		}
		end(nil)
		return nil, err
	}
	response.Body = &callBody{ReadCloser: response.Body, end: end}
	return response, nil
}

// isLate ends a call that takes too long, unless it is the only one.
func (a *answers) isLate(call *lateCall) {
	a.mu.Lock()
	first := !a.hangs
	a.hangs = true
	if a.late == nil {
		a.late = call
	} else if a.late != call {
		call.end(errLate)
	}
	a.mu.Unlock()
	if first {
		a.changed()
	}
}

func (a *answers) ended(call *lateCall, answered bool) {
	a.mu.Lock()
	if a.late == call {
		a.late = nil
	}
	again := answered && a.hangs && a.late == nil
	if again {
		a.hangs = false
	}
	a.mu.Unlock()
	if again {
		a.changed()
	}
}

// hanging tells whether a call was late, and none was answered since.
func (a *answers) hanging() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.hangs
}

// abandon ends the call that still goes on.
func (a *answers) abandon() {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.late != nil {
		a.late.end(errLate)
	}
}

// callBody lets go of a call's context once its answer is read.
type callBody struct {
	io.ReadCloser
	end context.CancelCauseFunc
}

func (b *callBody) Close() error {
	defer b.end(nil)
	return b.ReadCloser.Close()
}
