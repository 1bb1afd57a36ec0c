package feed

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"github.com/go-logr/logr"
	"k8s.io/apimachinery/pkg/types"

	"github.com/bulkhead-dev/bulkhead/internal/ruleset"
)

// Client is tenant-proxy's end. What is put is what shall be so, whether there is a
// connection or not: it never waits for the other end, and of many changes the last
// counts.
type Client struct {
	socket  string
	log     logr.Logger
	reports chan Report
	// wake tells the writer that there is something to say.
	wake chan struct{}

	mu       sync.Mutex
	pods     map[types.UID]Pod
	complete bool
	tenants  map[types.UID]*tenantRules
	// held is what the server said at the last connection.
	held map[types.UID]Held
	// What the server was not told yet. A UID that is in no map above is gone.
	dirtyPods    map[types.UID]bool
	dirtyTenants map[types.UID]bool
	toldComplete bool
	connected    bool
	// Requests for metrics that are to be sent, and those that wait for an answer.
	nextRequest uint64
	requests    []uint64
	answers     map[uint64]chan []byte
}

// tenantRules is what a tenant's rules shall be.
type tenantRules struct {
	current *ruleset.Set
	// sent is the set that the server has by now, nil if only a whole one helps.
	sent *ruleset.Set
	// pending is why there are no rules yet.
	pending     string
	tellPending bool
	// trigger is when the first change happened that the server does not know of.
	trigger time.Time
}

// reportsKept is the number of reports that wait for somebody to read them.
const reportsKept = 256

// requestsKept is the number of requests for metrics at one time.
const requestsKept = 16

// ErrNotConnected says that cri-ext does not answer.
var ErrNotConnected = errors.New("not connected to cri-ext")

// NewClient makes a client of the server at the socket.
func NewClient(socket string, log logr.Logger) *Client {
	return &Client{
		socket: socket, log: log,
		reports: make(chan Report, reportsKept), wake: make(chan struct{}, 1),
		pods: map[types.UID]Pod{}, tenants: map[types.UID]*tenantRules{}, held: map[types.UID]Held{},
		dirtyPods: map[types.UID]bool{}, dirtyTenants: map[types.UID]bool{}, answers: map[uint64]chan []byte{},
	}
}

// Reports are what cri-ext wants to have told on pods. If nobody reads them the
// newest are dropped.
func (c *Client) Reports() <-chan Report { return c.reports }

// Connected tells whether cri-ext answers.
func (c *Client) Connected() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.connected
}

// PutPod says to which tenant a pod belongs.
func (c *Client) PutPod(pod Pod) {
	c.change(func() {
		if c.pods[pod.UID] != pod {
			c.pods[pod.UID] = pod
			c.dirtyPods[pod.UID] = true
		}
	})
}

// RemovePod says that a pod is gone from the super cluster.
func (c *Client) RemovePod(uid types.UID) {
	c.change(func() {
		if _, known := c.pods[uid]; known {
			delete(c.pods, uid)
			c.dirtyPods[uid] = true
		}
	})
}

// PodsComplete says that all pods of the first list have been put.
func (c *Client) PodsComplete() { c.change(func() { c.complete = true }) }

// PutRules says what a tenant's rules are; see ruleset.New, which takes the slices
// over, for what is valid. trigger is when the change happened in the tenant, or
// zero. Rules that the server has already are not sent again.
func (c *Client) PutRules(tenant types.UID, ranges []netip.Prefix, services []ruleset.Service, trigger time.Time) error {
	set, err := ruleset.New(tenant, 1, ranges, services)
	if err != nil {
		return err
	}
	digest := set.Digest()
	c.change(func() {
		t := c.tenant(tenant)
		t.pending, t.tellPending = "", false
		held, isHeld := c.held[tenant]
		switch {
		case t.current != nil && t.current.Digest() == digest:
			return
		case t.current != nil:
			t.current = set.WithGeneration(t.current.Generation() + 1)
		case isHeld && held.Digest == digest:
			t.current = set.WithGeneration(held.Generation)
			t.sent = t.current
			if c.connected {
				return
			}
		default:
			t.current = set.WithGeneration(held.Generation + 1)
		}
		if t.trigger.IsZero() {
			t.trigger = trigger
		}
		c.dirtyTenants[tenant] = true
	})
	return nil
}

// SetPending says why a tenant's rules are not known yet.
func (c *Client) SetPending(tenant types.UID, reason string) {
	c.change(func() {
		t := c.tenant(tenant)
		if t.pending != reason {
			t.pending, t.tellPending = reason, true
			c.dirtyTenants[tenant] = true
		}
	})
}

// Forget says that a tenant has nothing on this node any more.
func (c *Client) Forget(tenant types.UID) {
	c.change(func() {
		if _, known := c.tenants[tenant]; known {
			delete(c.tenants, tenant)
			delete(c.held, tenant)
			c.dirtyTenants[tenant] = true
		}
	})
}

// Metrics asks cri-ext for its metrics, in Prometheus' text format.
func (c *Client) Metrics(ctx context.Context) ([]byte, error) {
	c.mu.Lock()
	if !c.connected {
		c.mu.Unlock()
		return nil, fmt.Errorf("reading cri-ext's metrics: %w", ErrNotConnected)
	}
	if len(c.answers) >= requestsKept {
		c.mu.Unlock()
		return nil, errors.New("reading cri-ext's metrics: too many requests at once")
	}
	c.nextRequest++
	number, answer := c.nextRequest, make(chan []byte, 1)
	c.answers[number] = answer
	c.requests = append(c.requests, number)
	c.mu.Unlock()
	c.poke()
	defer c.change(func() { delete(c.answers, number) })
	select {
	case text, ok := <-answer:
		if !ok {
			return nil, fmt.Errorf("reading cri-ext's metrics: %w", ErrNotConnected)
		}
		return text, nil
	case <-ctx.Done():
		return nil, fmt.Errorf("reading cri-ext's metrics: %w", ctx.Err())
	}
}

func (c *Client) tenant(uid types.UID) *tenantRules {
	t := c.tenants[uid]
	if t == nil {
		t = &tenantRules{}
		c.tenants[uid] = t
	}
	return t
}

// change runs f under the lock and wakes the writer.
func (c *Client) change(f func()) {
	c.mu.Lock()
	f()
	c.mu.Unlock()
	c.poke()
}

func (c *Client) poke() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// begin takes in what the server says it holds, and makes everything else news.
func (c *Client) begin(greeting []Held) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.connected, c.toldComplete = true, false
	clear(c.held)
	for _, held := range greeting {
		c.held[held.Tenant] = held
	}
	clear(c.dirtyPods)
	for uid := range c.pods {
		c.dirtyPods[uid] = true
	}
	clear(c.dirtyTenants)
	for uid, t := range c.tenants {
		c.dirtyTenants[uid] = true
		t.tellPending = t.pending != ""
		held, isHeld := c.held[uid]
		t.number(held, isHeld)
	}
}

// number fits the tenant's numbering to what the server holds.
func (t *tenantRules) number(held Held, isHeld bool) {
	before := t.sent
	t.sent = nil
	switch {
	case t.current == nil || !isHeld:
	case t.current.Digest() == held.Digest:
		t.current = t.current.WithGeneration(held.Generation)
		t.sent = t.current
	case held.Generation >= t.current.Generation():
		t.current = t.current.WithGeneration(held.Generation + 1)
	case before != nil && before.Generation() == held.Generation && before.Digest() == held.Digest:
		t.sent = before
	}
}

// end gives up what waits for an answer on a connection.
func (c *Client) end() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.connected = false
	c.requests = nil
	for number, answer := range c.answers {
		close(answer)
		delete(c.answers, number)
	}
}
