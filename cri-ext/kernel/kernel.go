// Package kernel puts a tenant's rules into the kernel of one network namespace,
// and reads them back: the namespace of a sandbox on this machine, or the one of
// the guest that the process runs in. Which engine carries an IP family is decided
// by trying what the kernel has (decision D12).
//
// With every engine: what is made inside the namespace is translated, and nothing
// that comes from outside. A frontend without endpoints, and an address of the
// ranges that no service has, is refused at once. Other addresses outside the
// ranges stay as they were. A removed endpoint gets no new connection, its TCP
// connections live on, its UDP flows end. With affinity, the sandbox stays with one
// endpoint for as long as the service has it.
package kernel

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
	"k8s.io/apimachinery/pkg/types"

	"github.com/bulkhead-dev/bulkhead/cri-ext/channel"
	"github.com/bulkhead-dev/bulkhead/cri-ext/kernel/held"
	"github.com/bulkhead-dev/bulkhead/cri-ext/kernel/wire"
	"github.com/bulkhead-dev/bulkhead/internal/ruleset"
)

// Options say what a Kernel is to use.
type Options struct {
	// Engines are those that may be used, the preferred ones first: of "ipvs",
	// "nftables" and "iptables", which is also the order where it is empty.
	Engines []string
	// PodIPs are the addresses that IPVS sends from. Empty: those of the
	// namespace's interfaces.
	PodIPs []netip.Addr
	// Seed makes sandboxes choose different endpoints for services with affinity.
	Seed uint64
}

// The IP families.
const (
	IPv4 = "IPv4"
	IPv6 = "IPv6"
)

// UnsupportedError says that the kernel cannot carry an IP family that a rule set
// has services of.
type UnsupportedError struct {
	Family string
	// Reasons tell for each engine why not.
	Reasons map[string]string
}

func (e *UnsupportedError) Error() string {
	reasons := make([]string, 0, len(e.Reasons))
	for engine, reason := range e.Reasons {
		reasons = append(reasons, engine+": "+reason)
	}
	slices.Sort(reasons)
	return fmt.Sprintf("no engine for %s services (%s)", e.Family, strings.Join(reasons, "; "))
}

// engine carries the rules of the IP families that it was opened for. Its methods
// are called one at a time.
type engine interface {
	// Adopt returns what an earlier process left, as far as it is of the engine's
	// families; nil if there is nothing, or nothing that is whole.
	Adopt(ctx context.Context) (*held.Part, error)
	// Change makes the kernel hold to. from is what it holds, and delta leads from
	// it to to; both are nil if what it holds is not known.
	Change(ctx context.Context, from, to *ruleset.Set, delta *ruleset.Delta) error
	// Dump reads the services in the order of keys.
	Dump(ctx context.Context) ([]ruleset.Service, error)
	// Repair makes the kernel hold the set, and returns how many services it did
	// not hold as they are.
	Repair(ctx context.Context, set *ruleset.Set) (int, error)
	Remove(ctx context.Context) error
	Close() error
}

// Kernel is the kernel of one network namespace. It is safe for use by several
// goroutines.
type Kernel struct {
	mu        sync.Mutex
	namespace int
	backends  []channel.Backend
	reasons   map[string]map[string]string
	engines   []opened
	// leftovers are engines that are not used any more and still hold rules.
	leftovers []engine
	set       *ruleset.Set
	// tenant is whose sandbox it is, empty until a set was there.
	tenant types.UID
	closed bool
}

// opened is an engine that is used.
type opened struct {
	engine
	name string
}

// Open opens the namespace behind the descriptor, or with -1 the caller's own. It
// finds out what the kernel has, picks an engine for each IP family, and takes over
// the rules that an earlier process left.
func Open(ctx context.Context, namespace int, options Options) (*Kernel, error) {
	var fd int
	var err error
	if namespace < 0 {
		fd, err = wire.Own()
	} else {
		fd, err = unix.FcntlInt(uintptr(namespace), unix.F_DUPFD_CLOEXEC, 0)
	}
	if err != nil {
		return nil, fmt.Errorf("opening network namespace %d: %w", namespace, err)
	}
	k := &Kernel{namespace: fd, reasons: map[string]map[string]string{}}
	if err := k.choose(ctx, options); err != nil {
		return nil, errors.Join(err, k.Close())
	}
	if err := k.adopt(ctx); err != nil {
		return nil, errors.Join(err, k.Close())
	}
	return k, nil
}

// Backends tell what carries each IP family.
func (k *Kernel) Backends() []channel.Backend { return slices.Clone(k.backends) }

// Held tells which rule set the kernel holds: generation 0 if none, or if it is not
// known.
func (k *Kernel) Held() (generation uint64, digest ruleset.Digest) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.set == nil {
		return 0, digest
	}
	return k.set.Generation(), k.set.Digest()
}

// adopt takes over what an earlier process left, if all engines hold parts of one
// whole.
func (k *Kernel) adopt(ctx context.Context) error {
	parts := make([]*held.Part, len(k.engines))
	for i, e := range k.engines {
		var err error
		if parts[i], err = e.Adopt(ctx); err != nil {
			return fmt.Errorf("reading the rules that %s holds: %w", e.name, err)
		}
	}
	if set, ok := held.Merge(parts); ok {
		k.set, k.tenant = set, set.Tenant()
	}
	return nil
}

// check refuses a set that this kernel must not or cannot hold.
func (k *Kernel) check(set *ruleset.Set) error {
	if k.closed {
		return errors.New("the kernel was closed")
	}
	if k.tenant != "" && k.tenant != set.Tenant() {
		return &ruleset.MismatchError{Recipient: ruleset.Recipient{Tenant: k.tenant}, Tenant: set.Tenant()}
	}
	services := set.Services()
	for _, b := range k.backends {
		if b.Engine != "" || len(services) == 0 {
			continue
		}
		// IPv4 comes first in the order of keys.
		if b.Family == IPv4 && services[0].Addr.Is4() || b.Family == IPv6 && services[len(services)-1].Addr.Is6() {
			return &UnsupportedError{Family: b.Family, Reasons: k.reasons[b.Family]}
		}
	}
	return nil
}

// Replace makes the kernel hold the set, whatever it holds. Connections live on
// through services that both have.
func (k *Kernel) Replace(ctx context.Context, set *ruleset.Set) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if err := k.check(set); err != nil {
		return err
	}
	if err := k.change(ctx, nil, set, nil); err != nil {
		return fmt.Errorf("putting rule set %d into the kernel: %w", set.Generation(), err)
	}
	for len(k.leftovers) > 0 {
		if err := k.leftovers[0].Remove(ctx); err != nil {
			return fmt.Errorf("removing the rules of an engine that is not used any more: %w", err)
		}
		k.leftovers[0].Close()
		k.leftovers = k.leftovers[1:]
	}
	return nil
}

// Apply makes the kernel hold the set after the delta. It fails if the kernel does
// not hold what the delta starts from; then Replace is needed.
func (k *Kernel) Apply(ctx context.Context, after *ruleset.Set, delta *ruleset.Delta) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if err := k.check(after); err != nil {
		return err
	}
	switch {
	case k.set == nil:
		return fmt.Errorf("delta to generation %d: it is not known what the kernel holds", delta.To)
	case delta.From != k.set.Generation() || delta.To != after.Generation() || delta.Tenant != after.Tenant() || delta.Digest != after.Digest():
		return fmt.Errorf("delta from generation %d to %d does not lead from %d to %d", delta.From, delta.To, k.set.Generation(), after.Generation())
	}
	if err := k.change(ctx, k.set, after, delta); err != nil {
		return fmt.Errorf("changing the kernel's rules from %d to %d: %w", delta.From, delta.To, err)
	}
	return nil
}

// change has all engines change. After an error it is not known what they hold.
func (k *Kernel) change(ctx context.Context, from, to *ruleset.Set, delta *ruleset.Delta) error {
	k.set, k.tenant = nil, to.Tenant()
	for _, e := range k.engines {
		if err := e.Change(ctx, from, to, delta); err != nil {
			return fmt.Errorf("%s: %w", e.name, err)
		}
	}
	k.set = to
	return nil
}

// Dump reads the services back from the kernel, in the order of keys.
func (k *Kernel) Dump(ctx context.Context) ([]ruleset.Service, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	var all []ruleset.Service
	for _, e := range k.engines {
		services, err := e.Dump(ctx)
		if err != nil {
			return nil, fmt.Errorf("reading the kernel's rules with %s: %w", e.name, err)
		}
		all = append(all, services...)
	}
	slices.SortFunc(all, func(a, b ruleset.Service) int { return a.Compare(b.Key) })
	return all, nil
}

// Repair compares the kernel with the set that it was given last, sets right what
// is not as it should be, and returns how many services that were.
func (k *Kernel) Repair(ctx context.Context) (repaired int, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.set == nil {
		return 0, nil
	}
	set := k.set
	for _, e := range k.engines {
		n, err := e.Repair(ctx, set)
		repaired += n
		if err != nil {
			k.set = nil
			return repaired, fmt.Errorf("repairing the kernel's rules with %s: %w", e.name, err)
		}
	}
	return repaired, nil
}

// Remove takes all rules out of the kernel.
func (k *Kernel) Remove(ctx context.Context) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.set, k.tenant = nil, ""
	for _, e := range k.engines {
		if err := e.Remove(ctx); err != nil {
			return fmt.Errorf("removing the kernel's rules with %s: %w", e.name, err)
		}
	}
	return nil
}

// Close gives the namespace up. The rules stay.
func (k *Kernel) Close() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.closed {
		return nil
	}
	k.closed = true
	var errs []error
	for _, e := range k.engines {
		errs = append(errs, e.Close())
	}
	for _, e := range k.leftovers {
		errs = append(errs, e.Close())
	}
	return errors.Join(append(errs, unix.Close(k.namespace))...)
}
