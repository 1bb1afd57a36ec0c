// Package traffic is what every rule engine has to pass: it makes network
// namespaces on the machine that it runs on, puts rule sets into one by the engine,
// and sends real traffic through it. It runs in tests, and inside a guest whose
// kernel has what the machine's own lacks.
package traffic

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/bulkhead-dev/bulkhead/internal/ruleset"
)

// Kernel is what is examined; see kernel.Kernel.
type Kernel interface {
	Held() (generation uint64, digest ruleset.Digest)
	Replace(ctx context.Context, set *ruleset.Set) error
	Apply(ctx context.Context, after *ruleset.Set, delta *ruleset.Delta) error
	Dump(ctx context.Context) ([]ruleset.Service, error)
	Repair(ctx context.Context) (int, error)
	Remove(ctx context.Context) error
	Close() error
}

// Opener opens the network namespace behind the descriptor.
type Opener func(ctx context.Context, namespace int, seed uint64) (Kernel, error)

// Options say what to expect of an engine.
type Options struct {
	// Families are those to examine, "IPv4" and "IPv6".
	Families []string
	// Services is how many there are in the test with many, 10,000 if it is 0.
	Services int
	// Flush takes the engine's rules out of a namespace behind its back; the
	// caller is on a thread in it.
	Flush func() error
	// Stores tells that a later process finds the generation.
	Stores bool
	// NoSCTP tells that the machine translates no SCTP.
	NoSCTP bool
}

// Result is the outcome of one test.
type Result struct {
	Name string
	// Err is nil if the test passed.
	Err  error
	Took time.Duration
}

// limit is how long one test may take in a guest without KVM, on a busy machine.
const limit = 5 * time.Minute

// Run runs all tests and reports each. It returns an error if they cannot be run.
func Run(ctx context.Context, open Opener, options Options, report func(Result)) error {
	if options.Services == 0 {
		options.Services = 10000
	}
	for _, family := range options.Families {
		net, err := newNetwork(family)
		if err != nil {
			return fmt.Errorf("making the network for the tests: %w", err)
		}
		for _, test := range tests {
			begin := time.Now()
			err := net.run(ctx, open, options, test.run)
			if !errors.Is(err, errNotMeant) {
				report(Result{Name: family + "/" + test.name, Err: err, Took: time.Since(begin)})
			}
		}
		net.close()
	}
	return nil
}

// errNotMeant is the outcome of a test that is not for the engine.
var errNotMeant = errors.New("not meant for this engine")

// backends is how many servers there are. Each has an address of its own.
const backends = 4

// backendPort is the port that they listen on.
const backendPort = 8080

// network is the world outside the sandboxes: a router with the servers.
type network struct {
	v4        bool
	outside   *namespace
	servers   []*backend
	closers   []func()
	sandboxes int
}

func newNetwork(family string) (*network, error) {
	n := &network{v4: family == "IPv4"}
	var err error
	if n.outside, err = makeNamespace(); err != nil {
		return nil, err
	}
	n.closers = append(n.closers, n.outside.close)
	for i := range backends {
		at := n.backend(i)
		if err := n.outside.address("lo", single(at.Addr())); err != nil {
			return nil, err
		}
		server, err := serve(n.outside, at)
		if err != nil {
			return nil, err
		}
		n.servers = append(n.servers, server)
		n.closers = append(n.closers, server.close)
		conn, err := serveSCTP(n.outside, at, uint32(i+1))
		if err != nil {
			return nil, err
		}
		n.closers = append(n.closers, func() { conn.Close() })
	}
	return n, nil
}

func (n *network) close() {
	for i := range n.closers {
		n.closers[len(n.closers)-1-i]()
	}
}

// backend is the address of a server.
func (n *network) backend(i int) netip.AddrPort {
	return netip.AddrPortFrom(n.pick("10.79.0.10", "fd00:79::10", i), backendPort)
}

// vip is an address of the services' range.
func (n *network) vip(i int) netip.Addr { return n.pick("10.96.0.10", "fd00:96::10", i) }

// node is an address outside the range, which is nobody's own in the sandbox.
func (n *network) node() netip.Addr { return n.pick("198.51.100.7", "2001:db8::7", 0) }

func (n *network) ranges() []netip.Prefix {
	if n.v4 {
		return []netip.Prefix{netip.MustParsePrefix("10.96.0.0/16")}
	}
	return []netip.Prefix{netip.MustParsePrefix("fd00:96::/108")}
}

// pick returns the address i after the one of the family.
func (n *network) pick(v4, v6 string, i int) netip.Addr {
	if n.v4 {
		a := netip.MustParseAddr(v4).As4()
		a[3] += byte(i)
		return netip.AddrFrom4(a)
	}
	a := netip.MustParseAddr(v6).As16()
	a[15] += byte(i)
	return netip.AddrFrom16(a)
}

// sandbox is a namespace with rules.
type sandbox struct {
	*namespace
	net  *network
	addr netip.Addr
	Kernel
	set  *ruleset.Set
	open func(ctx context.Context) (Kernel, error)
}

// sandbox makes one that reaches the servers.
func (n *network) sandbox(ctx context.Context, open Opener) (*sandbox, error) {
	inner, err := makeNamespace()
	if err != nil {
		return nil, err
	}
	s := &sandbox{namespace: inner, net: n}
	n.sandboxes++
	if err := errors.Join(n.attach(s, n.sandboxes), n.await(ctx, inner)); err != nil {
		inner.close()
		return nil, err
	}
	s.open = func(ctx context.Context) (Kernel, error) { return open(ctx, inner.fd, uint64(n.sandboxes)) }
	if s.Kernel, err = s.open(ctx); err != nil {
		inner.close()
		return nil, err
	}
	return s, nil
}

// await waits until a namespace reaches the servers. The kernel sets a wire to work some
// time after it was laid, and what is sent before gets lost, with IPv6 for seconds.
func (n *network) await(ctx context.Context, from *namespace) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	ticker := time.NewTicker(10 * time.Millisecond)
	defer ticker.Stop()
	for {
		try, end := context.WithTimeout(ctx, 500*time.Millisecond)
		c, err := from.dial(try, n.backend(0))
		end()
		if err == nil {
			return c.Close()
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waiting until the servers can be reached: %w", err)
		case <-ticker.C:
		}
	}
}

func (n *network) attach(s *sandbox, number int) error {
	name := fmt.Sprintf("sandbox%d", number)
	if err := connect(n.outside, s.namespace, name, "eth0"); err != nil {
		return err
	}
	router := n.pick("10.78.0.1", "fd00:78::1", 0)
	all := netip.MustParsePrefix("::/0")
	bits := 126
	if n.v4 {
		a := router.As4()
		a[2] = byte(number)
		router, all, bits = netip.AddrFrom4(a), netip.MustParsePrefix("0.0.0.0/0"), 30
	} else {
		a := router.As16()
		a[13] = byte(number)
		router = netip.AddrFrom16(a)
	}
	s.addr = router.Next()
	return errors.Join(
		n.outside.address(name, netip.PrefixFrom(router, bits)),
		s.address("eth0", netip.PrefixFrom(s.addr, bits)),
		neighbours(n.outside, s.namespace, name, "eth0", router, s.addr),
		s.route(all, router))
}

func (s *sandbox) end() {
	s.Close()
	s.close()
}

// service is a frontend at one of the VIPs.
func (n *network) service(vip netip.Addr, protocol ruleset.Protocol, port uint16, servers ...int) ruleset.Service {
	s := ruleset.Service{Key: ruleset.Key{Addr: vip, Protocol: protocol, Port: port}}
	for _, i := range servers {
		s.Endpoints = append(s.Endpoints, n.backend(i))
	}
	return s
}

// replace gives the sandbox a whole set.
func (s *sandbox) replace(ctx context.Context, services ...ruleset.Service) error {
	set, err := ruleset.New("tenant", s.next(), s.net.ranges(), services)
	if err != nil {
		return err
	}
	if err := s.Replace(ctx, set); err != nil {
		return err
	}
	s.set = set
	return nil
}

func (s *sandbox) next() uint64 {
	if s.set == nil {
		return 1
	}
	return s.set.Generation() + 1
}

// apply gives the sandbox a delta to the services.
func (s *sandbox) apply(ctx context.Context, services ...ruleset.Service) error {
	set, err := ruleset.New("tenant", s.next(), s.net.ranges(), services)
	if err != nil {
		return err
	}
	delta, err := ruleset.Diff(s.set, set)
	if err != nil {
		return err
	}
	if err := s.Apply(ctx, set, delta); err != nil {
		return err
	}
	s.set = set
	return nil
}

// holds compares the kernel with the set.
func (s *sandbox) holds(ctx context.Context) error {
	services, err := s.Dump(ctx)
	if err != nil {
		return err
	}
	set, err := ruleset.New(s.set.Tenant(), 1, s.set.Ranges(), services)
	if err != nil {
		return err
	}
	if set.Digest() != s.set.Digest() {
		return fmt.Errorf("the kernel holds %d services with %d endpoints that are not the %d with %d of the set",
			len(set.Services()), set.Backends(), len(s.set.Services()), s.set.Backends())
	}
	return nil
}

func (n *network) run(ctx context.Context, open Opener, options Options, test func(ctx context.Context, t *world) error) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	w := &world{network: n, opener: open, options: options}
	defer w.end()
	return test(ctx, w)
}

// world is what a test has to itself.
type world struct {
	*network
	opener  Opener
	options Options
	mine    []func()
}

func (w *world) end() {
	for i := range w.mine {
		w.mine[len(w.mine)-1-i]()
	}
}

// sandbox makes one that ends with the test.
func (w *world) sandbox(ctx context.Context) (*sandbox, error) {
	s, err := w.network.sandbox(ctx, w.opener)
	if err == nil {
		w.mine = append(w.mine, s.end)
	}
	return s, err
}
