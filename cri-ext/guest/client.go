package guest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"syscall"
	"time"

	"github.com/bulkhead-dev/bulkhead/cri-ext/channel"
	"github.com/bulkhead-dev/bulkhead/cri-ext/transport"
	"github.com/bulkhead-dev/bulkhead/internal/ruleset"
)

// Limits are how long a guest may take. A context's deadline comes first where it is
// earlier. Zero values are replaced by the default.
type Limits struct {
	// Dial is for opening the way; 5 s.
	Dial time.Duration
	// Hello is for the first answer; 10 s.
	Hello time.Duration
	// Again is when a hello is sent again on a serial port; 500 ms.
	Again time.Duration
	// Frame is for a frame to be taken by the guest, or to follow another; 10 s.
	Frame time.Duration
	// Answer is for the kernel to do what it was asked to, longer than an agent tries; 130 s.
	Answer time.Duration
}

func (l Limits) withDefaults() Limits {
	for value, standard := range map[*time.Duration]time.Duration{
		&l.Dial: 5 * time.Second, &l.Hello: 10 * time.Second, &l.Again: 500 * time.Millisecond,
		&l.Frame: 10 * time.Second, &l.Answer: 130 * time.Second,
	} {
		if *value == 0 {
			*value = standard
		}
	}
	return l
}

// Client is the host's end of a guest, and a channel.Channel. Whatever the guest
// does, the methods return within their limits, with at most some 20 MiB held, and
// say what was wrong; the next call opens the way anew.
type Client struct {
	recipient ruleset.Recipient
	dialer    transport.Dialer
	limits    Limits
	session   *session
}

var _ channel.Channel = (*Client)(nil)

// NewClient returns the way to the recipient's guest, not opened yet. It owns the
// dialer and closes it.
func NewClient(recipient ruleset.Recipient, dialer transport.Dialer, limits Limits) *Client {
	return &Client{recipient: recipient, dialer: dialer, limits: limits.withDefaults()}
}

// Recipient is whom rules on this channel are for.
func (c *Client) Recipient() ruleset.Recipient { return c.recipient }

// Hello opens the channel anew and returns what the guest says of itself.
func (c *Client) Hello(ctx context.Context) (channel.Hello, error) {
	c.drop()
	hello, err := c.open(ctx)
	if err != nil {
		return channel.Hello{}, c.failed("saying hello to", err)
	}
	return hello, nil
}

// Send sends the granted delta if the guest holds what that starts from, otherwise
// the set.
func (c *Client) Send(ctx context.Context, rules ruleset.Granted) (channel.Ack, error) {
	set, delta, err := rules.For(c.recipient)
	if err != nil {
		return channel.Ack{}, err
	}
	var ack channel.Ack
	err = c.do(ctx, "sending rules to", func(s *session) (err error) {
		if delta != nil && delta.From > 0 && delta.From == s.generation {
			ack, err = s.send(ctx, kindDelta, delta.Encode(nil), set)
			var refused *RefusedError
			if !errors.As(err, &refused) || refused.Code != NeedSnapshot {
				return err
			}
		}
		ack, err = s.send(ctx, kindSnapshot, set.Encode(nil), set)
		return err
	})
	return ack, err
}

// Dump returns what the guest says its kernel holds.
func (c *Client) Dump(ctx context.Context) (services []ruleset.Service, err error) {
	err = c.do(ctx, "dumping the rules of", func(s *session) error {
		services, err = s.dump(ctx)
		return err
	})
	return services, err
}

// Repair has the agent compare and set right. The count includes what the agent has
// repaired by itself since it was last asked.
func (c *Client) Repair(ctx context.Context) (repaired int, err error) {
	err = c.do(ctx, "repairing the rules of", func(s *session) error {
		repaired, err = s.repair(ctx)
		return err
	})
	return repaired, err
}

// Close gives up the channel and the claim on the guest.
func (c *Client) Close() error {
	c.drop()
	return c.dialer.Close()
}

func (c *Client) drop() {
	if c.session != nil {
		_ = c.session.conn.Close()
		c.session = nil
	}
}

func (c *Client) open(ctx context.Context) (channel.Hello, error) {
	dialing, cancel := context.WithTimeout(ctx, c.limits.Dial)
	defer cancel()
	conn, err := c.dialer.Dial(dialing)
	if err != nil {
		return channel.Hello{}, err
	}
	s, err := newSession(conn, c.dialer.Serial(), c.limits)
	if err != nil {
		return channel.Hello{}, errors.Join(err, conn.Close())
	}
	stop := interrupt(ctx, s)
	defer stop()
	hello, err := s.hello(ctx, c.recipient)
	if err != nil {
		return channel.Hello{}, errors.Join(err, conn.Close())
	}
	c.session = s
	return hello, nil
}

// interrupt ends the session's waits when ctx ends.
func interrupt(ctx context.Context, s *session) func() bool {
	return context.AfterFunc(ctx, func() { _ = s.conn.SetDeadline(time.Unix(1, 0)) })
}

// do runs one exchange, on a new session if there is none, or if the one there is
// turns out to have ended: an agent may have been started anew since.
func (c *Client) do(ctx context.Context, what string, exchange func(*session) error) error {
	for {
		reused := c.session != nil
		if !reused {
			if _, err := c.open(ctx); err != nil {
				return c.failed(what, err)
			}
		}
		stop := interrupt(ctx, c.session)
		err := exchange(c.session)
		stop()
		if err == nil {
			return nil
		}
		var refused *RefusedError
		if errors.As(err, &refused) && refused.Code != NoSession {
			return c.failed(what, err)
		}
		c.drop()
		if !reused || !ended(err) || ctx.Err() != nil {
			return c.failed(what, err)
		}
	}
}

// ended tells whether an error says that the other end is gone.
func ended(err error) bool {
	var refused *RefusedError
	if errors.As(err, &refused) {
		return refused.Code == NoSession
	}
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ECONNRESET)
}

func (c *Client) failed(what string, err error) error {
	return fmt.Errorf("%s sandbox %s over %s: %w", what, c.recipient.Sandbox, c.dialer, err)
}
