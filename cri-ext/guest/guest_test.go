package guest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"k8s.io/apimachinery/pkg/types"

	"github.com/bulkhead-dev/bulkhead/cri-ext/channel"
	"github.com/bulkhead-dev/bulkhead/cri-ext/transport"
	"github.com/bulkhead-dev/bulkhead/internal/ruleset"
)

var same = []cmp.Option{cmpopts.EquateComparable(netip.Addr{}, netip.AddrPort{}), cmpopts.EquateEmpty()}

func TestRulesAreSentAndReadBack(t *testing.T) {
	for _, serial := range []bool{false, true} {
		t.Run(kinds(serial), func(t *testing.T) {
			ctx := t.Context()
			engine := &memory{}
			client := NewClient(ours, serve(ctx, agent(engine), serial), Limits{})
			defer client.Close()
			hello, err := client.Hello(ctx)
			if err != nil {
				t.Fatal(err)
			}
			want := channel.Hello{Version: "v0.0.0-test", Backends: engine.Backends()}
			if diff := cmp.Diff(want, hello); diff != "" {
				t.Errorf("hello (-want +got):\n%s", diff)
			}
			// More than one part each way.
			first := set(t, ours.Tenant, 7, services(1, 12000))
			ack, err := client.Send(ctx, grant(t, ours, nil, first))
			if err != nil || ack.Generation != 7 || ack.Digest != first.Digest() || ack.Delta {
				t.Fatalf("snapshot: %+v, %v", ack, err)
			}
			second := set(t, ours.Tenant, 8, services(1, 11999))
			ack, err = client.Send(ctx, grant(t, ours, first, second))
			if err != nil || ack.Generation != 8 || !ack.Delta {
				t.Fatalf("delta: %+v, %v", ack, err)
			}
			dump, err := client.Dump(ctx)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(second.Services(), dump, same...); diff != "" {
				t.Errorf("dump (-want +got):\n%s", diff)
			}
			// A delta from what the guest does not hold: the whole set goes.
			fourth := set(t, ours.Tenant, 10, services(1, 3))
			ack, err = client.Send(ctx, grant(t, ours, set(t, ours.Tenant, 9, services(1, 4)), fourth))
			if err != nil || ack.Generation != 10 || ack.Delta {
				t.Fatalf("after a gap: %+v, %v", ack, err)
			}
			// One whose generation fits, but what it starts from is another.
			fifth := set(t, ours.Tenant, 11, services(1, 5))
			ack, err = client.Send(ctx, grant(t, ours, set(t, ours.Tenant, 10, services(2, 3)), fifth))
			if err != nil || ack.Generation != 11 || ack.Delta {
				t.Fatalf("after a wrong delta: %+v, %v", ack, err)
			}
			engine.drift = 3
			if n, err := client.Repair(ctx); err != nil || n != 3 {
				t.Errorf("repaired %d, %v", n, err)
			}
			if hello, err := client.Hello(ctx); err != nil || hello.Generation != 11 || hello.Digest != fifth.Digest() {
				t.Errorf("hello again: %+v, %v", hello, err)
			}
		})
	}
}

func TestFailuresOfTheKernelAreTold(t *testing.T) {
	ctx := t.Context()
	engine := &memory{err: errors.New("no such \x1b[31mfamily\n twice")}
	client := NewClient(ours, serve(ctx, agent(engine), false), Limits{})
	first := set(t, ours.Tenant, 1, services(1, 3))
	var refused *RefusedError
	if _, err := client.Send(ctx, grant(t, ours, nil, first)); !errors.As(err, &refused) || refused.Code != KernelFailed {
		t.Fatalf("error is %v", err)
	}
	if refused.Words != "no such ?[31mfamily? twice" {
		t.Errorf("words are %q", refused.Words)
	}
	if _, err := client.Dump(ctx); !errors.As(err, &refused) {
		t.Errorf("dump: %v", err)
	}
	if _, err := client.Repair(ctx); !errors.As(err, &refused) {
		t.Errorf("repair: %v", err)
	}
	// What a kernel holds after a failure is not known: no delta is tried on it.
	engine.err = nil
	ack, err := client.Send(ctx, grant(t, ours, first, set(t, ours.Tenant, 2, services(1, 4))))
	if err != nil || ack.Delta {
		t.Errorf("after the failure: %+v, %v", ack, err)
	}
}

func TestAgentBelongsToTheFirstSandbox(t *testing.T) {
	ctx := t.Context()
	server := agent(&memory{})
	client := NewClient(ours, serve(ctx, server, false), Limits{})
	if _, err := client.Hello(ctx); err != nil {
		t.Fatal(err)
	}
	for _, other := range []ruleset.Recipient{{Tenant: "tenant-b", Sandbox: ours.Sandbox}, {Tenant: ours.Tenant, Sandbox: "sandbox-2"}} {
		stranger := NewClient(other, serve(ctx, server, false), Limits{})
		var refused *RefusedError
		if _, err := stranger.Hello(ctx); !errors.As(err, &refused) || refused.Code != Foreign {
			t.Errorf("hello as %v: %v", other, err)
		}
		if _, err := stranger.Send(ctx, grant(t, other, nil, set(t, other.Tenant, 1, nil))); !errors.As(err, &refused) {
			t.Errorf("rules as %v: %v", other, err)
		}
	}
	var mismatch *ruleset.MismatchError
	other := ruleset.Recipient{Tenant: "tenant-b", Sandbox: "sandbox-1"}
	if _, err := client.Send(ctx, grant(t, other, nil, set(t, "tenant-b", 1, nil))); !errors.As(err, &mismatch) {
		t.Errorf("another tenant's rules: %v", err)
	}
}

// TestForeignRulesAreRefusedInTheGuest sends what the types of the host cannot.
func TestForeignRulesAreRefusedInTheGuest(t *testing.T) {
	ctx := t.Context()
	engine := &memory{}
	client := NewClient(ours, serve(ctx, agent(engine), false), Limits{})
	own := set(t, ours.Tenant, 1, services(1, 3))
	if _, err := client.Send(ctx, grant(t, ours, nil, own)); err != nil {
		t.Fatal(err)
	}
	foreign := set(t, "tenant-b", 2, services(2, 3))
	delta, err := ruleset.Diff(set(t, "tenant-b", 1, nil), foreign)
	if err != nil {
		t.Fatal(err)
	}
	for kind, data := range map[byte][]byte{kindSnapshot: foreign.Encode(nil), kindDelta: delta.Encode(nil)} {
		var refused *RefusedError
		if _, err := client.session.send(ctx, kind, data, foreign); !errors.As(err, &refused) || refused.Code != Foreign {
			t.Errorf("kind %d: %v", kind, err)
		}
	}
	if dump, err := client.Dump(ctx); err != nil || !cmp.Equal(own.Services(), dump, same...) {
		t.Errorf("the guest holds %v, %v", dump, err)
	}
}

// A restarted agent knows no session. The next call finds that out and goes on.
func TestAgentIsStartedAnew(t *testing.T) {
	for _, serial := range []bool{false, true} {
		t.Run(kinds(serial), func(t *testing.T) {
			engine := &memory{}
			var mu sync.Mutex
			server := agent(engine)
			var line net.Conn
			ctx, restart := context.WithCancel(t.Context())
			way := &pair{serial: serial}
			ended := make(chan struct{}, 8)
			way.accept = func(conn net.Conn) {
				mu.Lock()
				line = conn
				s, ctx := server, ctx
				mu.Unlock()
				_ = s.Serve(ctx, conn, serial)
				ended <- struct{}{}
				if !serial {
					conn.Close()
				}
			}
			client := NewClient(ours, way, Limits{})
			first := set(t, ours.Tenant, 1, services(1, 3))
			if _, err := client.Send(t.Context(), grant(t, ours, nil, first)); err != nil {
				t.Fatal(err)
			}
			restart()
			<-ended // two agents do not read from one port
			mu.Lock()
			server, ctx = agent(engine), t.Context()
			if serial { // the port stays, and the host sees nothing
				go func(s *Server, conn net.Conn) { _ = s.Serve(t.Context(), conn, true) }(server, line)
			}
			mu.Unlock()
			ack, err := client.Send(t.Context(), grant(t, ours, first, set(t, ours.Tenant, 2, services(1, 4))))
			if err != nil || ack.Generation != 2 || ack.Delta {
				t.Errorf("after the agent's restart: %+v, %v", ack, err)
			}
		})
	}
}

// line is a serial line that is there once and for all.
type line struct {
	*pair
	conn net.Conn
}

func (l line) Dial(context.Context) (transport.Conn, error) { return l.conn, nil }

// What an earlier host has left on a serial port, half a frame or noise, is passed
// over.
func TestSerialLineIsFoundAgain(t *testing.T) {
	for name, left := range map[string][]byte{
		"noise":       bytes.Repeat([]byte{0xB5, 'b', 'x'}, 1000),
		"header":      {0xB5, 'b', 'h', 0x1A, 1, 0, 0},
		"short frame": {0xB5, 'b', 'h', 0x1A, 2, 0, 0, 0, 60, 1, 2, 3, 4, 5, 6},
	} {
		t.Run(name, func(t *testing.T) {
			way := serve(t.Context(), agent(&memory{}), true)
			host, other, err := sockets()
			if err != nil {
				t.Fatal(err)
			}
			go way.accept(other)
			if _, err := host.Write(left); err != nil {
				t.Fatal(err)
			}
			client := NewClient(ours, line{way, host}, Limits{Again: 20 * time.Millisecond})
			if _, err := client.Hello(t.Context()); err != nil {
				t.Fatal(err)
			}
			if _, err := client.Send(t.Context(), grant(t, ours, nil, set(t, ours.Tenant, 1, services(1, 500)))); err != nil {
				t.Fatal(err)
			}
		})
	}
}

func TestDriftIsRepairedByTheAgentItself(t *testing.T) {
	engine := &memory{drift: 2}
	server := agent(engine)
	client := NewClient(ours, serve(t.Context(), server, false), Limits{})
	if _, err := client.Send(t.Context(), grant(t, ours, nil, set(t, ours.Tenant, 1, nil))); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		server.PatrolDrift(ctx, time.Millisecond)
	}()
	defer func() { cancel(); <-ended }()
	for drift := 1; drift > 0; {
		if err := t.Context().Err(); err != nil {
			t.Fatal(err)
		}
		engine.mu.Lock()
		drift = engine.drift
		engine.mu.Unlock()
	}
	if n, err := client.Repair(t.Context()); err != nil || n != 2 {
		t.Errorf("the agent tells of %d, %v", n, err)
	}
	if n, err := client.Repair(t.Context()); err != nil || n != 0 {
		t.Errorf("and then of %d, %v", n, err)
	}
}

// TestNoByteOnAnothersChannel sends sets of many tenants to many sandboxes at once,
// with agents and connections that end in between, and looks for a tenant's marks in
// all that was written on the others' channels.
func TestNoByteOnAnothersChannel(t *testing.T) {
	const tenants, sandboxes, rounds = 5, 4, 30
	tenant := func(i int) types.UID { return types.UID(fmt.Sprintf("tenant-%c", 'a'+i)) }
	var group sync.WaitGroup
	var recipients []ruleset.Recipient
	for i := range tenants {
		for j := range sandboxes {
			recipients = append(recipients, ruleset.Recipient{Tenant: tenant(i), Sandbox: fmt.Sprintf("sandbox-%d-%d", i, j)})
		}
	}
	history := make([][]*ruleset.Set, tenants)
	for i := range history {
		for generation := range 4 {
			history[i] = append(history[i], set(t, tenant(i), uint64(generation+1), services(byte(i+1), 20+generation)))
		}
	}
	for n, recipient := range recipients {
		group.Go(func() {
			own := n / sandboxes
			r := rand.New(rand.NewPCG(4, uint64(n)))
			var written bytes.Buffer
			engine := &memory{}
			way := serve(t.Context(), agent(engine), n%2 == 0)
			way.record = func(data []byte) { written.Write(data) }
			client := NewClient(recipient, way, Limits{})
			defer client.Close()
			for range rounds {
				of, generation := r.IntN(tenants), r.IntN(len(history[0]))
				whom := recipients[r.IntN(len(recipients))]
				if r.IntN(2) == 0 {
					of, whom = own, recipient
				}
				to := history[of][generation]
				var delta *ruleset.Delta
				if generation > 0 && r.IntN(2) == 0 {
					delta, _ = ruleset.Diff(history[of][generation-1], to)
				}
				before := written.Len()
				granted, err := whom.Accept(to, delta)
				var mismatch *ruleset.MismatchError
				if err == nil {
					_, err = client.Send(t.Context(), granted)
				}
				switch rightful := of == own && whom == recipient; {
				case rightful && err != nil:
					t.Errorf("own rules to %s: %v", recipient.Sandbox, err)
				case !rightful && (!errors.As(err, &mismatch) || written.Len() != before):
					t.Errorf("rules of %s for %s on the channel of %s: %v", tenant(of), whom.Sandbox, recipient.Sandbox, err)
				}
				switch r.IntN(6) {
				case 0:
					client.drop()
				case 1:
					way.accept = serve(t.Context(), agent(engine), way.serial).accept
					client.drop()
				}
			}
			for other := range tenants {
				if other == own {
					continue
				}
				endpoint := history[other][0].Services()[0].Endpoints[0].Addr().As4()
				if bytes.Contains(written.Bytes(), []byte(tenant(other))) || bytes.Contains(written.Bytes(), endpoint[:]) {
					t.Errorf("on the channel of %s is something of %s", recipient.Sandbox, tenant(other))
				}
			}
			engine.mu.Lock()
			defer engine.mu.Unlock()
			if engine.set != nil && engine.set.Tenant() != recipient.Tenant {
				t.Errorf("%s holds rules of %s", recipient.Sandbox, engine.set.Tenant())
			}
		})
	}
	group.Wait()
}
