// Package channel says what cri-ext needs of the way into a sandbox. A network
// namespace is reached by system calls, a guest through its agent; see packages
// netns and guest.
package channel

import (
	"context"
	"time"

	"github.com/bulkhead-dev/bulkhead/internal/ruleset"
)

// Channel leads into one sandbox, and carries nothing but what was granted to it.
// Its methods are called one at a time. Each keeps to its context's deadline.
type Channel interface {
	// Recipient is the sandbox at the other end, and the tenant that it is of.
	Recipient() ruleset.Recipient
	// Hello opens the channel, again if need be, and tells what the sandbox can do
	// and holds.
	Hello(ctx context.Context) (Hello, error)
	// Send makes the sandbox hold the granted set: by its delta where the sandbox
	// holds what that starts from, otherwise whole. It returns once the kernel has
	// taken the rules. A set of another recipient is a *ruleset.MismatchError, and
	// not a byte of it is sent.
	Send(ctx context.Context, rules ruleset.Granted) (Ack, error)
	// Dump reads back what the sandbox's kernel holds, in the order of keys.
	Dump(ctx context.Context) ([]ruleset.Service, error)
	// Repair compares what the kernel holds with what was sent last, sets it right,
	// and returns how many services had to be.
	Repair(ctx context.Context) (int, error)
	// Close gives up the channel. The rules stay in the sandbox.
	Close() error
}

// Hello is what a sandbox says of itself. A guest's word is good for decisions
// about its own pod only.
type Hello struct {
	// Backends say for each IP family what carries the rules.
	Backends []Backend
	// Generation and Digest are of the set that the sandbox holds, 0 if none.
	Generation uint64
	Digest     ruleset.Digest
	// Version is the agent's, or empty where there is none.
	Version string
}

// Backend is what carries the rules of one IP family.
type Backend struct {
	// Family is IPv4 or IPv6.
	Family string
	// Engine is ipvs, nftables or iptables; empty if the kernel has none of them.
	Engine string
	// Reason says why it is not one that would have been preferred.
	Reason string
}

// Ack says which set the kernel has taken.
type Ack struct {
	Generation uint64
	Digest     ruleset.Digest
	// Delta tells whether a delta did, and not a whole set.
	Delta bool
	// Programming is how long the kernel took, by the sandbox's clock.
	Programming time.Duration
}
