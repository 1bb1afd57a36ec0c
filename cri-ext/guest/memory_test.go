package guest

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
	"k8s.io/apimachinery/pkg/types"

	"github.com/bulkhead-dev/bulkhead/cri-ext/channel"
	"github.com/bulkhead-dev/bulkhead/cri-ext/transport"
	"github.com/bulkhead-dev/bulkhead/internal/ruleset"
)

// memory is an engine that keeps what it is given. The real ones, in a real guest,
// are in the microVM's test; this one fails when it is told to.
type memory struct {
	mu      sync.Mutex
	set     *ruleset.Set
	drift   int
	err     error
	replace int
	apply   int
}

func (m *memory) Backends() []channel.Backend {
	return []channel.Backend{{Family: "IPv4", Engine: "memory"}, {Family: "IPv6", Reason: "not there"}}
}

func (m *memory) Held() (uint64, ruleset.Digest) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.set == nil {
		return 0, ruleset.Digest{}
	}
	return m.set.Generation(), m.set.Digest()
}

func (m *memory) Replace(_ context.Context, set *ruleset.Set) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.replace++
	if m.err == nil {
		m.set = set
	}
	return m.err
}

func (m *memory) Apply(_ context.Context, after *ruleset.Set, delta *ruleset.Delta) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.apply++
	if m.err == nil && delta.From != m.set.Generation() {
		return errors.New("the delta does not fit")
	}
	if m.err == nil {
		m.set = after
	}
	return m.err
}

func (m *memory) Dump(context.Context) ([]ruleset.Service, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.set == nil {
		return nil, m.err
	}
	return m.set.Services(), m.err
}

func (m *memory) Repair(context.Context) (int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	repaired := m.drift
	m.drift = 0
	return repaired, m.err
}

// agent makes a server for the engine.
func agent(engine Engine) *Server {
	open := func(context.Context, ruleset.Recipient) (Engine, error) { return engine, nil }
	return NewServer(open, "v0.0.0-test", slog.New(slog.DiscardHandler))
}

// pair is a dialer whose other end the test has.
type pair struct {
	serial bool
	// accept is called with the guest's end of each connection.
	accept func(conn net.Conn)
	err    error
	// record is given what the host writes, before it is written.
	record func(data []byte)
}

func (p *pair) Serial() bool   { return p.serial }
func (p *pair) Close() error   { return nil }
func (p *pair) String() string { return "a pair of sockets" }

func (p *pair) Dial(context.Context) (transport.Conn, error) {
	if p.err != nil {
		return nil, p.err
	}
	host, guest, err := sockets()
	if err != nil {
		return nil, err
	}
	go p.accept(guest)
	return recorded{host, p.record}, nil
}

type recorded struct {
	net.Conn
	record func(data []byte)
}

func (r recorded) Write(data []byte) (int, error) {
	if r.record != nil {
		r.record(data)
	}
	return r.Conn.Write(data)
}

func sockets() (a, b net.Conn, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, err
	}
	conns := make([]net.Conn, 2)
	for i, fd := range fds {
		file := os.NewFile(uintptr(fd), "pair")
		conns[i], err = net.FileConn(file)
		file.Close()
		if err != nil {
			return nil, nil, err
		}
	}
	return conns[0], conns[1], nil
}

// serve has the server at the other end of each connection.
func serve(ctx context.Context, server *Server, serial bool) *pair {
	return &pair{serial: serial, accept: func(conn net.Conn) {
		defer conn.Close()
		_ = server.Serve(ctx, conn, serial)
	}}
}

var ours = ruleset.Recipient{Tenant: "tenant-a", Sandbox: "sandbox-1"}

// services makes n of a tenant's services, with two endpoints each.
func services(octet byte, n int) []ruleset.Service {
	all := make([]ruleset.Service, n)
	for i := range all {
		all[i] = ruleset.Service{
			Key: ruleset.Key{Addr: netip.AddrFrom4([4]byte{10, octet, byte(i >> 8), byte(i)}), Protocol: ruleset.TCP, Port: 80},
			Endpoints: []netip.AddrPort{
				netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 200, octet, 1}), 8080),
				netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 200, octet, 2}), 8080),
			},
		}
	}
	return all
}

func set(t testing.TB, tenant types.UID, generation uint64, services []ruleset.Service) *ruleset.Set {
	t.Helper()
	made, err := ruleset.New(tenant, generation, []netip.Prefix{netip.MustParsePrefix("10.0.0.0/9")}, slices.Clone(services))
	if err != nil {
		t.Fatal(err)
	}
	return made
}

// grant grants the set, by the delta from another if there is one.
func grant(t testing.TB, recipient ruleset.Recipient, from, to *ruleset.Set) ruleset.Granted {
	t.Helper()
	var delta *ruleset.Delta
	if from != nil {
		var err error
		if delta, err = ruleset.Diff(from, to); err != nil {
			t.Fatal(err)
		}
	}
	granted, err := recipient.Accept(to, delta)
	if err != nil {
		t.Fatal(err)
	}
	return granted
}

func kinds(serial bool) string { return fmt.Sprintf("serial=%v", serial) }
