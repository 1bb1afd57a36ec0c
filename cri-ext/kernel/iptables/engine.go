// Package iptables carries a tenant's Services where a kernel has neither ip_vs nor
// nftables. It writes one chain of the nat table and one of the filter table, each
// as a whole, by iptables-restore and ip6tables-restore. A new connection is
// compared with one endpoint after the other, so that the number of frontends is
// bounded.
package iptables

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strings"

	"github.com/coreos/go-iptables/iptables"
	"golang.org/x/sys/unix"

	"github.com/bulkhead-dev/bulkhead/cri-ext/kernel/affinity"
	"github.com/bulkhead-dev/bulkhead/cri-ext/kernel/conntrack"
	"github.com/bulkhead-dev/bulkhead/cri-ext/kernel/held"
	"github.com/bulkhead-dev/bulkhead/cri-ext/kernel/wire"
	"github.com/bulkhead-dev/bulkhead/internal/ruleset"
)

// Bounds of what is carried of one IP family.
const (
	// MaxServices is the number of frontends.
	MaxServices = 5000
	// MaxBackends is the number of endpoints of all frontends together.
	MaxBackends = 20000
)

// LimitError says that a rule set is too large for this engine.
type LimitError struct {
	What           string
	Number, Limit  int
	GenerationOver uint64
}

func (e *LimitError) Error() string {
	return fmt.Sprintf("rule set %d has %d %s: iptables carries at most %d; the sandbox's kernel needs nftables or ip_vs",
		e.GenerationOver, e.Number, e.What, e.Limit)
}

// The chains.
const (
	chainServices = "BULKHEAD-SERVICES"
	chainRefuse   = "BULKHEAD-REFUSE"
)

// jumps lead from the kernel's chains to ours: table, chain, rule.
var jumps = [][3]string{
	{"nat", "OUTPUT", "-j " + chainServices},
	// After the translation, so that what goes to a Service's address by then is
	// known to have no service.
	{"filter", "OUTPUT", "-m conntrack --ctstate NEW -j " + chainRefuse},
}

// family is what differs between the IP families.
type family struct {
	v4       bool
	command  string
	protocol iptables.Protocol
	// reject is the answer to what is not TCP.
	reject string
}

var families = map[string]*family{
	"IPv4": {v4: true, command: "iptables", protocol: iptables.ProtocolIPv4, reject: "icmp-port-unreachable"},
	"IPv6": {command: "ip6tables", protocol: iptables.ProtocolIPv6, reject: "icmp6-port-unreachable"},
}

// variants are how the programs' names go on, depending on which kernel interface
// they use.
var variants = []string{"", "-legacy", "-nft"}

// Engine programs the iptables of one network namespace. It is not for use by
// several goroutines at once.
type Engine struct {
	namespace int
	socket    *wire.Socket
	families  []*opened
	choices   affinity.Choices
}

// opened is a family and the programs that work for it.
type opened struct {
	*family
	name string
}

// Probe tells why iptables cannot carry an IP family in the namespace, nil if it
// can: by a trial of all the kinds of rules.
func Probe(ctx context.Context, namespace int, ipFamily string) error {
	_, err := working(ctx, namespace, families[ipFamily])
	return err
}

// working returns the name of the program that works.
func working(ctx context.Context, namespace int, f *family) (string, error) {
	set, err := ruleset.New("probe", 1, nil, []ruleset.Service{f.sample(ruleset.TCP), f.sample(ruleset.UDP), f.sample(ruleset.SCTP)})
	if err != nil {
		return "", err
	}
	text := render(f, set, &affinity.Choices{})
	var missing, failed error
	for _, variant := range variants {
		name := f.command + variant
		err := run(ctx, namespace, []byte(text), nil, name+"-restore", "--noflush", "--test")
		switch {
		case err == nil:
			return name, nil
		case errors.Is(err, exec.ErrNotFound):
			missing = err
		default:
			failed = err
		}
	}
	if failed != nil {
		return "", failed
	}
	return "", missing
}

// Open prepares the engine for IP families that Probe found to work.
func Open(ctx context.Context, namespace int, ipFamilies []string, seed uint64) (*Engine, error) {
	e := &Engine{namespace: namespace, choices: affinity.Choices{Seed: seed}}
	for _, name := range ipFamilies {
		f := families[name]
		program, err := working(ctx, namespace, f)
		if err != nil {
			return nil, err
		}
		e.families = append(e.families, &opened{family: f, name: program})
	}
	var err error
	e.socket, err = wire.Dial(namespace, unix.NETLINK_NETFILTER)
	return e, err
}

// Close gives up the engine. The rules stay.
func (e *Engine) Close() error { return e.socket.Close() }

// run runs a program inside the namespace.
func run(ctx context.Context, namespace int, input []byte, output *bytes.Buffer, name string, args ...string) error {
	path, err := exec.LookPath(name)
	if err != nil {
		return err
	}
	return wire.Inside(namespace, func() error {
		command := exec.CommandContext(ctx, path, args...)
		command.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C"}
		var complaint bytes.Buffer
		command.Stdin, command.Stderr = bytes.NewReader(input), &complaint
		if output != nil {
			command.Stdout = output
		}
		if err := command.Run(); err != nil {
			return fmt.Errorf("%s: %w: %s", name, err, strings.TrimSpace(complaint.String()))
		}
		return nil
	})
}

// Change makes the kernel hold the set to, whatever it holds. Each table changes at
// once.
func (e *Engine) Change(ctx context.Context, from, to *ruleset.Set, delta *ruleset.Delta) error {
	stale := conntrack.Stale{Services: to, All: from == nil}
	if from != nil {
		note(&stale, from, to, delta)
	}
	for _, f := range e.families {
		if err := fits(f.family, to); err != nil {
			return err
		}
	}
	for _, f := range e.families {
		if err := run(ctx, e.namespace, []byte(render(f.family, to, &e.choices)), nil, f.name+"-restore", "--noflush", "--wait", "5"); err != nil {
			return err
		}
		if err := e.static(f, func(t *iptables.IPTables) error {
			for _, jump := range jumps {
				if err := t.InsertUnique(jump[0], jump[1], 1, strings.Fields(jump[2])...); err != nil {
					return err
				}
			}
			return nil
		}); err != nil {
			return err
		}
		if err := stale.Cut(ctx, e.socket, e.namespace, f.v4); err != nil {
			return err
		}
	}
	return nil
}

func note(stale *conntrack.Stale, from, to *ruleset.Set, delta *ruleset.Delta) {
	for _, key := range delta.Remove {
		if before, found := from.Find(key); found {
			stale.Note(&before, nil)
		}
	}
	for i := range delta.Put {
		if before, found := from.Find(delta.Put[i].Key); found {
			stale.Note(&before, &delta.Put[i])
		} else {
			stale.Note(nil, &delta.Put[i])
		}
	}
}

func fits(f *family, set *ruleset.Set) error {
	services, endpoints := held.Services(set.Services(), f.v4), 0
	for i := range services {
		endpoints += len(services[i].Endpoints)
	}
	if len(services) > MaxServices {
		return &LimitError{What: "frontends", Number: len(services), Limit: MaxServices, GenerationOver: set.Generation()}
	}
	if endpoints > MaxBackends {
		return &LimitError{What: "endpoints", Number: endpoints, Limit: MaxBackends, GenerationOver: set.Generation()}
	}
	return nil
}

// static has f work on the few chains that do not change with the set.
func (e *Engine) static(f *opened, work func(*iptables.IPTables) error) error {
	return wire.Inside(e.namespace, func() error {
		t, err := iptables.New(iptables.IPFamily(f.protocol), iptables.Path(f.name), iptables.Timeout(5))
		if err == nil {
			err = work(t)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", f.name, err)
		}
		return nil
	})
}

// read lists what is in the kernel.
func (e *Engine) read(ctx context.Context, f *opened) (*content, error) {
	var output bytes.Buffer
	for _, table := range []string{"nat", "filter"} {
		if err := run(ctx, e.namespace, nil, &output, f.name+"-save", "-t", table); err != nil {
			return nil, err
		}
	}
	return parse(output.Bytes(), f.family)
}

// Adopt returns what an earlier process left, nil if there is nothing, or nothing
// that is whole.
func (e *Engine) Adopt(ctx context.Context) (*held.Part, error) {
	var all *held.Part
	for _, f := range e.families {
		c, err := e.read(ctx, f)
		if err != nil {
			return nil, err
		}
		if !c.whole {
			return nil, nil
		}
		for i := range c.part.Services {
			service := &c.part.Services[i]
			if service.Affinity > 0 && len(service.Endpoints) > 0 {
				e.choices.Keep(service.Key, service.Endpoints[0])
			}
		}
		sortEndpoints(c.part.Services)
		switch {
		case all == nil:
			all = &c.part
		case all.Generation != c.part.Generation || all.Digest != c.part.Digest || all.Tenant != c.part.Tenant:
			return nil, nil
		default:
			all.Ranges, all.Services = append(all.Ranges, c.part.Ranges...), append(all.Services, c.part.Services...)
		}
	}
	return all, nil
}

// Dump reads the services from the kernel, in the order of keys.
func (e *Engine) Dump(ctx context.Context) ([]ruleset.Service, error) {
	var services []ruleset.Service
	for _, f := range e.families {
		c, err := e.read(ctx, f)
		if err != nil {
			return nil, err
		}
		sortEndpoints(c.part.Services)
		services = append(services, c.part.Services...)
	}
	return services, nil
}

// Repair compares the kernel with the set that it should hold, makes it hold that
// where it does not, and returns how many services were not right.
func (e *Engine) Repair(ctx context.Context, set *ruleset.Set) (int, error) {
	wrong, right := 0, true
	for _, f := range e.families {
		c, err := e.read(ctx, f)
		if err != nil {
			return 0, err
		}
		wrong += held.Differences(held.Services(set.Services(), f.v4), c.part.Services, func(w *ruleset.Service, j int) bool {
			return w.Affinity == c.part.Services[j].Affinity && equal(affinity.Order(w, e.choices.Get(w.Key)), c.part.Services[j].Endpoints)
		})
		right = right && c.whole && c.part.Generation == set.Generation() && c.part.Digest == set.Digest() &&
			equal(c.part.Ranges, held.Ranges(set.Ranges(), f.v4))
	}
	if wrong == 0 && right {
		return 0, nil
	}
	return max(1, wrong), e.Change(ctx, nil, set, nil)
}

// Remove takes the rules away.
func (e *Engine) Remove(_ context.Context) error {
	for _, f := range e.families {
		err := e.static(f, func(t *iptables.IPTables) error {
			for _, jump := range jumps {
				ours := jump[2][strings.LastIndexByte(jump[2], ' ')+1:]
				if found, err := t.ChainExists(jump[0], ours); err != nil || !found {
					if err != nil {
						return err
					}
					continue
				}
				if err := t.DeleteIfExists(jump[0], jump[1], strings.Fields(jump[2])...); err != nil {
					return err
				}
				if err := t.ClearAndDeleteChain(jump[0], ours); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}
