// Package transport opens the ways between cri-ext on the host and the agent in a
// guest: Firecracker's "hybrid" vsock (Cloud Hypervisor and Kata have it too),
// AF_VSOCK, and virtio-serial. The host alone opens them; it listens on nothing that
// a guest could reach.
package transport

import (
	"context"
	"fmt"
	"io"
	"sync"
	"time"
)

// Conn is an open way. Only the other end's bytes are on it, but nothing says that
// the other end is honest.
type Conn interface {
	io.ReadWriteCloser
	// SetDeadline bounds reads and writes, those that wait already included.
	SetDeadline(t time.Time) error
}

// Dialer opens the way to one guest, again and again. It is made by a Registry, and
// nobody else has another to the same guest until it is closed.
type Dialer interface {
	// Dial opens the way. ctx bounds the opening only.
	Dial(ctx context.Context) (Conn, error)
	// Serial tells that there are no connections: what is read first may be left of
	// somebody else's talk, and the other end may not notice who opens and closes.
	Serial() bool
	// Close lets others claim the guest. Connections stay as they are.
	Close() error
	// String names the way to people.
	String() string
}

// Registry knows which sandbox has which way, so that no two have the same: context
// IDs and paths come from outside, and context IDs are used again. The zero value is
// ready for use.
type Registry struct {
	mu     sync.Mutex
	owners map[string]string
}

// ClaimedError says that a way into a guest is another sandbox's already.
type ClaimedError struct {
	// Way is what was asked for, Owner the sandbox that has it, Sandbox the other.
	Way, Owner, Sandbox string
}

func (e *ClaimedError) Error() string {
	return fmt.Sprintf("%s is bound to sandbox %s and cannot be sandbox %s's too", e.Way, e.Owner, e.Sandbox)
}

// claim binds the way to the sandbox until release is called.
func (r *Registry) claim(way, sandbox string) (release func(), err error) {
	if sandbox == "" {
		return nil, fmt.Errorf("%s cannot be bound to a sandbox without a name", way)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if owner, taken := r.owners[way]; taken {
		return nil, &ClaimedError{Way: way, Owner: owner, Sandbox: sandbox}
	}
	if r.owners == nil {
		r.owners = map[string]string{}
	}
	r.owners[way] = sandbox
	return sync.OnceFunc(func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		delete(r.owners, way)
	}), nil
}

// bound is a dialer with its claim.
type bound struct {
	way
	release func()
}

// way is what the kinds of dialers have to do.
type way interface {
	Dial(ctx context.Context) (Conn, error)
	Serial() bool
	String() string
}

func (b *bound) Close() error {
	b.release()
	return nil
}

// watch ends what waits on the connection when ctx ends. The caller calls stop, and
// fails if stop tells that ctx has ended.
func watch(ctx context.Context, conn Conn) (stop func() error) {
	if deadline, has := ctx.Deadline(); has {
		_ = conn.SetDeadline(deadline)
	}
	end := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	return func() error {
		// The connection's deadline may be seen a moment before the context's own.
		if deadline, has := ctx.Deadline(); has && !time.Now().Before(deadline) {
			<-ctx.Done()
		}
		if !end() || ctx.Err() != nil {
			return context.Cause(ctx)
		}
		return conn.SetDeadline(time.Time{})
	}
}
