// Package ipvs carries a tenant's Services by ip_vs, as kube-proxy's ipvs mode does,
// but for what is made inside a sandbox alone: a virtual service for each frontend,
// routes that bring packets for it past ip_vs, and neither ipset, nor iptables, nor
// a device. Commands and routes go to the kernel in batches, because one request
// and answer for each is what takes the time.
//
// A real server whose endpoint is gone gets no new connection, by weight 0, and is
// removed once it has none. A virtual service with such is kept under a mark until
// then.
package ipvs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/bulkhead-dev/bulkhead/cri-ext/kernel/held"
	"github.com/bulkhead-dev/bulkhead/cri-ext/kernel/nftables"
	"github.com/bulkhead-dev/bulkhead/cri-ext/kernel/wire"
	"github.com/bulkhead-dev/bulkhead/internal/ruleset"
)

// mark is the persistence in seconds that marks a virtual service whose frontend
// is gone: no frontend has that much affinity.
const mark = ruleset.MaxAffinity + 1

// MaxPorts bounds the frontends at addresses outside the ranges, of one IP family:
// each is a rule that every routing decision is compared with.
const MaxPorts = 2000

// few is how many services are asked for one by one, rather than all at once.
const few = 32

// sysctls are settings of the namespace. A connection to a server that was removed
// ends at once; affinity to one that takes no more is given up; the other two save
// work that nobody needs. What a kernel does not have is left.
var sysctls = map[string]string{
	"vs/expire_nodest_conn":        "1",
	"vs/expire_quiescent_template": "1",
	"vs/conntrack":                 "0",
	"vs/run_estimation":            "0",
	// The sandbox does not answer for the frontends' addresses.
	"conf/all/arp_ignore":   "1",
	"conf/all/arp_announce": "2",
}

// Engine programs the ip_vs of one network namespace. It is not for use by several
// goroutines at once.
type Engine struct {
	namespace int
	genl      *wire.Socket
	routes    *wire.Socket
	netfilter *wire.Socket
	id        uint16
	families  []string
	podIPs    []netip.Addr
	// second is how many ticks of the kernel's clock it has, 0 if not known yet.
	second uint64
	// leaving are virtual services that wait for their connections to end.
	leaving map[ruleset.Key]bool
	// refused are the services without an endpoint that takes connections.
	refused map[ruleset.Key]bool
	// guarded is what the guard has, by family.
	guarded map[string]guarded
}

type guarded struct {
	ranges  []netip.Prefix
	refused []ruleset.Key
}

// Probe tells why ip_vs cannot carry an IP family in the namespace, nil if it can:
// by adding a virtual service and a routing rule, and removing them.
func Probe(ctx context.Context, namespace int, family string) error {
	e, err := Open(ctx, namespace, []string{family}, nil)
	if err != nil {
		return err
	}
	defer e.Close()
	key := ruleset.Key{Addr: netip.MustParseAddr("192.0.2.1"), Protocol: ruleset.TCP, Port: 1}
	if family == "IPv6" {
		key.Addr = netip.MustParseAddr("2001:db8::1")
	}
	b := e.batch()
	b.service(cmdNewService, key, 0)
	b.removeService(key)
	if err := e.send(ctx, b); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("trying %s services: %w", family, err)
	}
	var trial wire.Builder
	r := rule{v4: key.Addr.Is4(), key: key}
	appendRule(&trial, unix.RTM_NEWRULE, unix.NLM_F_CREATE, r)
	appendRule(&trial, unix.RTM_DELRULE, 0, r)
	if err := finish(ctx, e.routes, &trial); err != nil {
		return fmt.Errorf("trying %s routing rules: %w", family, err)
	}
	if err := nftables.Probe(ctx, namespace, family); err != nil {
		return fmt.Errorf("ip_vs leaves unanswered what has no endpoint, which nftables has to refuse: %w", err)
	}
	return nil
}

// Open prepares the engine for IP families that Probe found to work. Without podIPs
// it sends from the addresses of the namespace's interfaces.
func Open(ctx context.Context, namespace int, families []string, podIPs []netip.Addr) (*Engine, error) {
	e := &Engine{namespace: namespace, families: families, podIPs: podIPs, guarded: map[string]guarded{}, refused: map[ruleset.Key]bool{}, leaving: map[ruleset.Key]bool{}}
	var err error
	if e.genl, err = wire.Dial(namespace, unix.NETLINK_GENERIC); err != nil {
		return nil, err
	}
	if e.id, err = resolve(ctx, e.genl); err != nil {
		return nil, errors.Join(err, e.Close())
	}
	if e.routes, err = wire.Dial(namespace, unix.NETLINK_ROUTE); err != nil {
		return nil, errors.Join(err, e.Close())
	}
	if e.netfilter, err = wire.Dial(namespace, unix.NETLINK_NETFILTER); err != nil {
		return nil, errors.Join(err, e.Close())
	}
	return e, nil
}

// Close gives up the engine. The rules stay.
func (e *Engine) Close() error {
	var errs []error
	for _, socket := range []*wire.Socket{e.genl, e.routes, e.netfilter} {
		if socket != nil {
			errs = append(errs, socket.Close())
		}
	}
	return errors.Join(errs...)
}

// Adopt finds nothing: ip_vs has no place to say which set it holds.
func (e *Engine) Adopt(context.Context) (*held.Part, error) { return nil, nil }

func (e *Engine) batch() *batch { return &batch{family: e.id} }

// send has the commands carried out.
func (e *Engine) send(ctx context.Context, b *batch) error {
	if b.count == 0 {
		return nil
	}
	b.Acknowledge()
	if err := e.genl.Send(ctx, b.Bytes, b.Sequence()); err != nil {
		return fmt.Errorf("sending %d commands to ip_vs: %w", b.count, err)
	}
	return nil
}

func isInterrupted(err error) bool { return errors.Is(err, wire.ErrInterrupted) }

// prepare sets the namespace's settings.
func (e *Engine) prepare(set *ruleset.Set) error {
	if len(set.Services()) == 0 && len(set.Ranges()) == 0 {
		return nil
	}
	return wire.Inside(e.namespace, func() error {
		for name, value := range sysctls {
			path := "/proc/sys/net/ipv4/" + name
			if old, err := os.ReadFile(path); err != nil || string(bytes.TrimSpace(old)) == value {
				continue // a kernel without it, or as it should be
			}
			if err := os.WriteFile(path, []byte(value), 0o644); err != nil {
				return fmt.Errorf("setting %s: %w", name, err)
			}
		}
		return nil
	})
}

// guard has refused what ip_vs would not answer.
func (e *Engine) guard(ctx context.Context, family string, ranges []netip.Prefix) error {
	var refused []ruleset.Key
	for key := range e.refused {
		if key.Addr.Is4() == (family == "IPv4") {
			refused = append(refused, key)
		}
	}
	slices.SortFunc(refused, ruleset.Key.Compare)
	if old, known := e.guarded[family]; known && slices.Equal(old.ranges, ranges) && slices.Equal(old.refused, refused) {
		return nil
	}
	if err := nftables.Guard(ctx, e.netfilter, family, ranges, refused); err != nil {
		return err
	}
	e.guarded[family] = guarded{ranges: ranges, refused: refused}
	return nil
}

// note keeps which services have no endpoint that takes connections.
func (e *Engine) note(keys []ruleset.Key, have map[ruleset.Key]*virtual) {
	for _, key := range keys {
		v := have[key]
		takes := v == nil
		if v != nil {
			for _, s := range v.servers {
				takes = takes || s.weight > 0
			}
		}
		if takes {
			delete(e.refused, key)
		} else {
			e.refused[key] = true
		}
	}
}

// source is the address that connections to frontends come from.
func (e *Engine) source(v4 bool) (netip.Addr, error) {
	candidates := e.podIPs
	if len(candidates) == 0 {
		var err error
		if candidates, err = e.addresses(v4); err != nil {
			return netip.Addr{}, err
		}
	}
	for _, addr := range candidates {
		if addr.Is4() == v4 {
			return addr, nil
		}
	}
	family := "IPv6"
	if v4 {
		family = "IPv4"
	}
	return netip.Addr{}, fmt.Errorf("no interface has an %s address to reach services from", family)
}

// addresses are the global ones of the namespace's interfaces.
func (e *Engine) addresses(v4 bool) ([]netip.Addr, error) {
	var b wire.Builder
	b.Begin(unix.RTM_GETADDR, unix.NLM_F_DUMP)
	family := byte(unix.AF_INET6)
	if v4 {
		family = unix.AF_INET
	}
	b.Raw(family, 0, 0, 0, 0, 0, 0, 0)
	b.End()
	var found []netip.Addr
	err := e.routes.Read(context.Background(), b.Bytes, func(_ uint16, data []byte) error {
		if len(data) < unix.SizeofIfAddrmsg || data[3] != unix.RT_SCOPE_UNIVERSE {
			return nil
		}
		raw := wire.Find(data[unix.SizeofIfAddrmsg:], unix.IFA_LOCAL)
		if raw == nil {
			raw = wire.Find(data[unix.SizeofIfAddrmsg:], unix.IFA_ADDRESS)
		}
		if addr, ok := netip.AddrFromSlice(raw); ok && addr.IsGlobalUnicast() {
			found = append(found, addr)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("listing addresses: %w", err)
	}
	return found, nil
}

// Repair makes the kernel hold the set, ends what only waited for its connections to
// end, and returns how many services were not right.
func (e *Engine) Repair(ctx context.Context, set *ruleset.Set) (int, error) {
	clear(e.guarded)
	return e.level(ctx, set)
}

// Remove takes the rules away. Connections through them end.
func (e *Engine) Remove(ctx context.Context) error {
	table, err := e.all(ctx)
	if err != nil {
		return err
	}
	for _, family := range e.families {
		v4 := family == "IPv4"
		there, err := readPaths(ctx, e.routes, v4)
		if err != nil {
			return err
		}
		if err := there.change(ctx, e.routes, &paths{}); err != nil {
			return err
		}
		clear(e.refused)
		if err := e.guard(ctx, family, nil); err != nil {
			return err
		}
	}
	b := e.batch()
	for key := range table {
		b.removeService(key)
	}
	return e.send(ctx, b)
}
