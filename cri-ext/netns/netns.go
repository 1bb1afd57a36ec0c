// Package netns is the way into sandboxes that share the node's kernel and have a
// network namespace of their own, as with runc.
package netns

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"net/netip"
	"time"

	"github.com/bulkhead-dev/bulkhead/cri-ext/channel"
	"github.com/bulkhead-dev/bulkhead/cri-ext/kernel"
	"github.com/bulkhead-dev/bulkhead/internal/ruleset"
)

// Channel is a channel.Channel.
type Channel struct {
	recipient ruleset.Recipient
	path      string
	options   kernel.Options
	kernel    *kernel.Kernel
	// broken tells that the last use failed, so that the next Hello starts anew.
	broken bool
}

var _ channel.Channel = (*Channel)(nil)

// New makes a channel into the namespace at path, of a sandbox with the given
// addresses. It is not opened yet.
func New(recipient ruleset.Recipient, path string, ips []netip.Addr, engines []string) *Channel {
	// Sandboxes with affinity shall not all choose the same endpoint.
	seed := fnv.New64a()
	seed.Write([]byte(recipient.Sandbox))
	return &Channel{recipient: recipient, path: path, options: kernel.Options{Engines: engines, PodIPs: ips, Seed: seed.Sum64()}}
}

// Recipient is the sandbox that the namespace is of.
func (c *Channel) Recipient() ruleset.Recipient { return c.recipient }

// Hello opens the namespace, finds out what carries rules in it, and reads back those
// that are there.
func (c *Channel) Hello(ctx context.Context) (channel.Hello, error) {
	if c.broken {
		if err := c.Close(); err != nil {
			return channel.Hello{}, err
		}
	}
	if c.kernel == nil {
		namespace, err := open(c.path)
		if err != nil {
			return channel.Hello{}, err
		}
		defer namespace.Close()
		if c.kernel, err = kernel.Open(ctx, int(namespace.Fd()), c.options); err != nil {
			c.kernel = nil
			return channel.Hello{}, fmt.Errorf("network namespace %s: %w", c.path, err)
		}
	}
	c.broken = false
	generation, digest := c.kernel.Held()
	return channel.Hello{Backends: c.kernel.Backends(), Generation: generation, Digest: digest}, nil
}

// errNotOpen says that Hello has to come first.
var errNotOpen = errors.New("the network namespace is not open")

// Send puts the granted rules into the kernel.
func (c *Channel) Send(ctx context.Context, rules ruleset.Granted) (channel.Ack, error) {
	set, delta, err := rules.For(c.recipient)
	if err != nil {
		return channel.Ack{}, err
	}
	if c.kernel == nil {
		return channel.Ack{}, errNotOpen
	}
	began := time.Now()
	ack := channel.Ack{Generation: set.Generation(), Digest: set.Digest()}
	if held, _ := c.kernel.Held(); delta != nil && held == delta.From {
		ack.Delta = c.kernel.Apply(ctx, set, delta) == nil
	}
	if !ack.Delta {
		if err := c.kernel.Replace(ctx, set); err != nil {
			return channel.Ack{}, c.failed(err)
		}
	}
	ack.Programming = time.Since(began)
	return ack, nil
}

// Dump reads back what the kernel holds.
func (c *Channel) Dump(ctx context.Context) ([]ruleset.Service, error) {
	if c.kernel == nil {
		return nil, errNotOpen
	}
	services, err := c.kernel.Dump(ctx)
	return services, c.failed(err)
}

// Repair sets right what differs from the rules that were sent last.
func (c *Channel) Repair(ctx context.Context) (int, error) {
	if c.kernel == nil {
		return 0, errNotOpen
	}
	n, err := c.kernel.Repair(ctx)
	return n, c.failed(err)
}

// failed notes an error.
func (c *Channel) failed(err error) error {
	if err == nil {
		return nil
	}
	c.broken = true
	return fmt.Errorf("network namespace %s: %w", c.path, err)
}

// Close gives the namespace up. The rules stay.
func (c *Channel) Close() error {
	if c.kernel == nil {
		return nil
	}
	err := c.kernel.Close()
	c.kernel = nil
	return err
}
