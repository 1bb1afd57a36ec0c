package feed

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"

	"github.com/bulkhead-dev/bulkhead/internal/frame"
	"github.com/bulkhead-dev/bulkhead/internal/ruleset"
	"github.com/bulkhead-dev/bulkhead/internal/unixsocket"
)

// Waits between connections.
const (
	firstWait = 100 * time.Millisecond
	maxWait   = 5 * time.Second
	// replacedWait is for one that a newer feeder has replaced, which is about to end.
	replacedWait = 30 * time.Second
)

// errReplaced says that a newer feeder is there.
var errReplaced = errors.New("a newer feeder has taken over")

// Run keeps a connection to cri-ext until ctx ends.
func (c *Client) Run(ctx context.Context) error {
	backoff := newBackoff()
	for {
		began := time.Now()
		err := c.session(ctx)
		if ctx.Err() != nil {
			return nil //nolint:nilerr // the connection ends because it should
		}
		if time.Since(began) > maxWait {
			backoff = newBackoff()
		}
		pause := backoff.Step()
		if errors.Is(err, errReplaced) {
			pause = replacedWait
		}
		c.log.Info("No connection to cri-ext", "socket", c.socket, "error", err.Error(), "retryIn", pause.String())
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(pause):
		}
	}
}

func newBackoff() wait.Backoff {
	return wait.Backoff{Duration: firstWait, Factor: 2, Jitter: 0.2, Steps: 8, Cap: maxWait}
}

// session is one connection. It returns why it ended.
func (c *Client) session(ctx context.Context) error {
	dialling, cancel := context.WithTimeout(ctx, greetTimeout)
	defer cancel()
	conn, err := unixsocket.Dial(dialling, c.socket)
	if err != nil {
		return err
	}
	return c.converse(ctx, conn)
}

// converse speaks the protocol on a connection, and closes it.
func (c *Client) converse(ctx context.Context, conn net.Conn) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	defer conn.Close()
	reader := frame.NewReader(conn, maxToClient, false)
	writer := frame.NewWriter(conn)
	if err := conn.SetDeadline(time.Now().Add(greetTimeout)); err != nil {
		return err
	}
	greeting, err := readGreeting(reader)
	if err != nil {
		return fmt.Errorf("being greeted by cri-ext: %w", err)
	}
	if err := writeJSON(writer, kindClientHello, hello{Version: version}); err != nil {
		return fmt.Errorf("greeting cri-ext: %w", err)
	}
	if err := conn.SetDeadline(time.Time{}); err != nil {
		return err
	}
	c.begin(greeting)
	defer c.end()
	c.log.Info("Connected to cri-ext", "socket", c.socket, "tenantsHeld", len(greeting))
	go func() { cancel(c.listen(reader)) }()
	for {
		more, err := c.say(conn, writer)
		if err != nil {
			if cause := context.Cause(ctx); cause != nil {
				return cause
			}
			return err
		}
		if more {
			continue
		}
		select {
		case <-c.wake:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

func readGreeting(reader *frame.Reader) ([]Held, error) {
	kind, payload, err := reader.Next()
	if err != nil {
		return nil, err
	}
	var greeting hello
	if kind != kindServerHello {
		return nil, fmt.Errorf("message of kind %d, not a greeting", kind)
	}
	if err := readJSON(payload, maxToClient, &greeting); err != nil {
		return nil, err
	}
	if greeting.Version != version {
		return nil, fmt.Errorf("cri-ext speaks version %d of the protocol, and this is %d: install versions that fit", greeting.Version, version)
	}
	if len(greeting.Held) > MaxTenants {
		return nil, fmt.Errorf("it holds rules of %d tenants, more than %d", len(greeting.Held), MaxTenants)
	}
	var all []Held
	for _, h := range greeting.Held {
		one, err := h.decode()
		if err != nil {
			return nil, err
		}
		all = append(all, one)
	}
	return all, nil
}

// listen takes what the server says until the connection ends.
func (c *Client) listen(reader *frame.Reader) error {
	for {
		kind, payload, err := reader.Next()
		if err != nil {
			return fmt.Errorf("reading from cri-ext: %w", err)
		}
		if err := c.take(kind, payload); err != nil {
			return fmt.Errorf("message of kind %d from cri-ext: %w", kind, err)
		}
	}
}

// take takes one message of the server.
func (c *Client) take(kind byte, payload []byte) error {
	switch kind {
	case kindResend:
		var encoded held
		if err := readJSON(payload, maxSmall, &encoded); err != nil {
			return err
		}
		h, err := encoded.decode()
		if err != nil {
			return err
		}
		c.log.Info("cri-ext asks for a whole rule set", "tenant", h.Tenant, "holds", h.Generation)
		c.change(func() { c.resend(h) })
	case kindReport:
		var report Report
		if err := readJSON(payload, maxSmall, &report); err != nil {
			return err
		}
		select {
		case c.reports <- report:
		default:
			c.log.Info("Dropped a report: nobody reads them", "pod", report.Pod.Namespace+"/"+report.Pod.Name, "reason", report.Reason)
		}
	case kindMetrics:
		number, text, err := cutNumber(payload)
		if err != nil {
			return err
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		if answer := c.answers[number]; answer != nil {
			delete(c.answers, number)
			answer <- append([]byte(nil), text...)
		}
	case kindReplaced:
		return errReplaced
	}
	// Kinds that a newer server may have are passed over.
	return nil
}

func (c *Client) resend(h Held) {
	t := c.tenants[h.Tenant]
	if t == nil || t.current == nil {
		return
	}
	t.sent = nil
	if h.Generation >= t.current.Generation() {
		t.current = t.current.WithGeneration(h.Generation + 1)
	}
	c.dirtyTenants[h.Tenant] = true
}

// say says one thing that the server does not know, or returns false.
func (c *Client) say(conn net.Conn, writer *frame.Writer) (bool, error) {
	tell := c.next()
	if tell == nil {
		return false, nil
	}
	if err := conn.SetWriteDeadline(time.Now().Add(writeTimeout)); err != nil {
		return false, err
	}
	if err := tell(writer); err != nil {
		return false, fmt.Errorf("writing to cri-ext: %w", err)
	}
	return true, nil
}

// next takes one piece of news. Pods come before the word that they are complete,
// and a tenant's pending reason before its rules.
func (c *Client) next() func(*frame.Writer) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for uid := range c.dirtyPods {
		delete(c.dirtyPods, uid)
		if pod, there := c.pods[uid]; there {
			return func(w *frame.Writer) error { return writeJSON(w, kindPod, pod) }
		}
		return func(w *frame.Writer) error { return writeBytes(w, kindPodGone, []byte(uid)) }
	}
	if c.complete && !c.toldComplete {
		c.toldComplete = true
		c.forgetStrangers()
		return func(w *frame.Writer) error { return w.Write(kindPodsComplete, nil) }
	}
	if len(c.requests) > 0 {
		number := c.requests[0]
		c.requests = c.requests[1:]
		return func(w *frame.Writer) error {
			return w.Write(kindMetricsRequest, func(b []byte) []byte { return binary.BigEndian.AppendUint64(b, number) })
		}
	}
	for uid := range c.dirtyTenants {
		t := c.tenants[uid]
		switch {
		case t == nil:
			delete(c.dirtyTenants, uid)
			return func(w *frame.Writer) error { return writeBytes(w, kindForget, []byte(uid)) }
		case t.tellPending:
			t.tellPending = false
			reason := t.pending
			return func(w *frame.Writer) error { return writeJSON(w, kindPending, pending{Tenant: uid, Reason: reason}) }
		}
		delete(c.dirtyTenants, uid)
		if t.current != nil && t.current != t.sent {
			return c.rules(uid, t)
		}
	}
	return nil
}

// forgetStrangers gives up what the server holds of tenants that have nothing here any
// more, such as those that went while no feeder was there.
func (c *Client) forgetStrangers() {
	present := map[types.UID]bool{}
	for _, pod := range c.pods {
		present[pod.Tenant] = true
	}
	for uid := range c.held {
		if c.tenants[uid] == nil && !present[uid] {
			delete(c.held, uid)
			c.dirtyTenants[uid] = true
		}
	}
}

// rules returns what sends a tenant's rules. If that fails the connection ends, and
// the next one finds out what the server holds.
func (c *Client) rules(uid types.UID, t *tenantRules) func(*frame.Writer) error {
	from, to, trigger := t.sent, t.current, t.trigger
	t.sent, t.trigger = t.current, time.Time{}
	return func(w *frame.Writer) error {
		var delta *ruleset.Delta
		if from != nil {
			d, err := ruleset.Diff(from, to)
			if err != nil {
				return err
			}
			// What touches most services is no shorter than the whole.
			if d.Size() < len(to.Services()) {
				delta = d
			}
		}
		if err := encodeRules(w, to, delta, trigger); err != nil {
			return fmt.Errorf("rules of tenant %s: %w", uid, err)
		}
		return nil
	}
}
