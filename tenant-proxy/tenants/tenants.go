// Package tenants watches the clusters of the tenants that have pods on this node,
// and has each one's rules compiled and handed on. Each tenant has clients, caches
// and goroutines of its own: one whose apiserver does not answer is no other's
// concern.
package tenants

import (
	"context"
	"net/netip"
	"sync"
	"time"

	"github.com/go-logr/logr"
	"k8s.io/apimachinery/pkg/types"

	"github.com/bulkhead-dev/bulkhead/internal/ruleset"
	"github.com/bulkhead-dev/bulkhead/internal/tenancy"
	"github.com/bulkhead-dev/bulkhead/tenant-proxy/compile"
)

// Feed takes the rules; see feed.Client.
type Feed interface {
	PutRules(tenant types.UID, ranges []netip.Prefix, services []ruleset.Service, trigger time.Time) error
	SetPending(tenant types.UID, reason string)
	Forget(tenant types.UID)
}

// Options are the settings of Tenants. All must be set.
type Options struct {
	// Node is the name of the node that rules are for.
	Node string
	Feed Feed
	// Credentials reads what a tenant's cluster is reached by.
	Credentials CredentialsReader
	// Linger is how long a tenant is watched on after its last pod has left the node:
	// the next may come soon.
	Linger time.Duration
	// Resync is how often credentials are read again although nothing failed.
	Resync time.Duration
	// Debounce is the least time between two compilations for one tenant. The first
	// change after a time of rest does not wait.
	Debounce time.Duration
	Log      logr.Logger
	Metrics  *Metrics
}

// Tenants are those with pods on this node.
type Tenants struct {
	Options

	mu    sync.Mutex
	ctx   context.Context //nolint:containedctx // links begin and end within Start, at others' calls
	zone  string
	links map[types.UID]*holding
	ended sync.WaitGroup
}

// holding is a tenant and for how many pods it is watched.
type holding struct {
	tenant tenancy.Tenant
	pods   int
	link   *link
	cancel context.CancelFunc
	// leave stops the link once it has lingered.
	leave *time.Timer
}

// New makes Tenants without a tenant.
func New(options Options) *Tenants {
	return &Tenants{Options: options, links: map[types.UID]*holding{}}
}

// Start watches tenants that are held until the context ends.
func (t *Tenants) Start(ctx context.Context) error {
	t.mu.Lock()
	t.ctx = ctx
	for _, h := range t.links {
		t.run(h)
	}
	t.mu.Unlock()
	<-ctx.Done()
	t.ended.Wait()
	return nil
}

// SetZone says in which zone the node is.
func (t *Tenants) SetZone(zone string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.zone == zone {
		return
	}
	t.zone = zone
	for _, h := range t.links {
		if h.link != nil {
			h.link.setZone(zone)
		}
	}
}

// Hold says that there is one more pod of the tenant that needs its rules.
func (t *Tenants) Hold(tenant tenancy.Tenant) {
	t.mu.Lock()
	defer t.mu.Unlock()
	h := t.links[tenant.UID]
	if h == nil {
		h = &holding{tenant: tenant}
		t.links[tenant.UID] = h
		if t.ctx != nil {
			t.run(h)
		}
	}
	h.pods++
	if h.leave != nil {
		h.leave.Stop()
		h.leave = nil
	}
}

// Release says that one pod of the tenant is gone.
func (t *Tenants) Release(tenant types.UID) {
	t.mu.Lock()
	defer t.mu.Unlock()
	h := t.links[tenant]
	if h == nil {
		return
	}
	h.pods--
	if h.pods > 0 {
		return
	}
	linger := t.Linger
	if h.link != nil && h.link.orphaned() {
		linger = 0 // the virtual cluster is going: no other pod will come
	}
	h.leave = time.AfterFunc(linger, func() { t.drop(h) })
}

// hurry lets a tenant without credentials linger no more.
func (t *Tenants) hurry(h *holding) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if h.pods == 0 && h.leave != nil {
		h.leave.Reset(0)
	}
}

// drop ends a tenant that nobody holds. It waits for the link's end, which is soon, so
// that the tenant's next link is the only one that speaks for it.
func (t *Tenants) drop(h *holding) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if h.pods > 0 || t.links[h.tenant.UID] != h {
		return
	}
	delete(t.links, h.tenant.UID)
	if h.link != nil {
		h.cancel()
		<-h.link.done
	}
	t.Feed.Forget(h.tenant.UID)
	t.Metrics.forget(h.tenant.UID)
}

// run starts a tenant's link. The caller holds the lock.
func (t *Tenants) run(h *holding) {
	ctx, cancel := context.WithCancel(t.ctx)
	h.cancel = cancel
	h.link = newLink(&t.Options, h.tenant, compile.Node{Name: t.Node, Zone: t.zone})
	// Not by the link itself, which the end of a tenant waits for.
	h.link.orphan = func() { go t.hurry(h) }
	t.ended.Go(func() { h.link.run(ctx) })
}

// Len is the number of tenants that are watched.
func (t *Tenants) Len() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.links)
}
