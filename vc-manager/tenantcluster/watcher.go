// Package tenantcluster talks to the tenants' apiservers. Nothing else of
// vc-manager does: each tenant has a goroutine of its own here, so that an
// apiserver that is slow, on purpose or not, delays its own tenant only.
package tenantcluster

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/bulkhead-dev/bulkhead/vc-manager/bootstrap"
)

// Target says how a tenant's apiserver is reached and what shall be in its cluster.
type Target struct {
	// Kubeconfig is vc-manager's own for this tenant. The server's certificate is
	// verified for the host in it.
	Kubeconfig []byte
	// Address is where that host is: the Service in the super cluster. Going there
	// by address spares the DNS look-ups, whose failures would be remembered.
	Address netip.AddrPort
	// External is a further host the server's certificate must be valid for; none if empty.
	External string
	// Bootstrap is what shall be in the tenant's cluster.
	Bootstrap bootstrap.Input
}

// Observation is what was last seen of a tenant's apiserver.
type Observation struct {
	// Read is nil if a read through the apiserver succeeded.
	Read error
	// Version is what the apiserver calls itself.
	Version string
	// External is nil if the certificate it shows is valid for Target.External.
	External error
	// Bootstrapped is nil if Target.Bootstrap is in place.
	Bootstrapped error
	// Controllers is nil if the tenant's controller-manager was seen to have worked.
	Controllers error
}

// healthy tells whether nothing is waited for.
func (o Observation) healthy() bool {
	return o.Read == nil && o.External == nil && o.Bootstrapped == nil && o.Controllers == nil
}

// same compares observations by what they say.
func (o Observation) same(other Observation) bool {
	text := func(err error) string {
		if err == nil {
			return ""
		}
		return err.Error()
	}
	return o.Version == other.Version && text(o.Read) == text(other.Read) && text(o.External) == text(other.External) &&
		text(o.Bootstrapped) == text(other.Bootstrapped) && text(o.Controllers) == text(other.Controllers)
}

// Intervals between looks at an apiserver.
const (
	// healthyInterval while all is well.
	healthyInterval = 12 * time.Second
	// urgentInterval while something is waited for that ought to come soon,
	// unhurriedInterval when it has not come within patience.
	urgentInterval    = 200 * time.Millisecond
	unhurriedInterval = 3 * time.Second
	patience          = 45 * time.Second
)

// Dialer opens the connections to tenants' apiservers; *net.Dialer is one.
type Dialer interface {
	DialContext(ctx context.Context, network, address string) (net.Conn, error)
}

// Watcher watches many tenants' apiservers.
type Watcher struct {
	dialer Dialer
	notify func(types.NamespacedName)

	done sync.WaitGroup // the goroutines

	mu      sync.Mutex
	tenants map[types.UID]*attendant
	ended   bool
}

// NewWatcher makes a Watcher that calls notify, from any goroutine, with the
// virtual cluster of which something new was seen.
func NewWatcher(dialer Dialer, notify func(types.NamespacedName)) *Watcher {
	return &Watcher{dialer: dialer, notify: notify, tenants: map[types.UID]*attendant{}}
}

// Start blocks until ctx ends, then ends all goroutines and returns when they have.
func (w *Watcher) Start(ctx context.Context) error {
	<-ctx.Done()
	w.mu.Lock()
	w.ended = true
	for _, a := range w.tenants {
		a.stop()
	}
	w.mu.Unlock()
	w.done.Wait()
	return nil
}

// Watch starts watching a tenant, or goes on with a new target.
func (w *Watcher) Watch(uid types.UID, cluster types.NamespacedName, target Target) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if present, ok := w.tenants[uid]; ok {
		if present.target.same(target) {
			return nil
		}
		present.stop()
		delete(w.tenants, uid)
	}
	if w.ended {
		return errors.New("vc-manager is ending")
	}
	a, err := newAttendant(w.dialer, target)
	if err != nil {
		return err
	}
	// A goroutine outlives the pass of the reconciler that starts it.
	ctx, cancel := context.WithCancel(context.Background())
	a.stop = cancel
	w.tenants[uid] = a
	w.done.Go(func() { a.run(ctx, func() { w.notify(cluster) }) })
	return nil
}

// Look makes the tenant's goroutine look again at once.
func (w *Watcher) Look(uid types.UID) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if a, ok := w.tenants[uid]; ok {
		a.poke()
	}
}

// Observation returns what was last seen; ok is false if nothing was yet.
func (w *Watcher) Observation(uid types.UID) (seen Observation, ok bool) {
	w.mu.Lock()
	a := w.tenants[uid]
	w.mu.Unlock()
	if a == nil {
		return Observation{}, false
	}
	return a.observation()
}

// Forget ends the watching of a tenant.
func (w *Watcher) Forget(uid types.UID) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if a, ok := w.tenants[uid]; ok {
		a.stop()
		delete(w.tenants, uid)
	}
}

func (t Target) same(other Target) bool {
	return string(t.Kubeconfig) == string(other.Kubeconfig) && t.Address == other.Address &&
		t.External == other.External && t.Bootstrap == other.Bootstrap
}
