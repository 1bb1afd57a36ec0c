package guesttest_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"k8s.io/apimachinery/pkg/types"

	"github.com/bulkhead-dev/bulkhead/cri-ext/guest"
	"github.com/bulkhead-dev/bulkhead/cri-ext/guest/guesttest"
	"github.com/bulkhead-dev/bulkhead/internal/frame"
	"github.com/bulkhead-dev/bulkhead/internal/microvm"
	"github.com/bulkhead-dev/bulkhead/internal/ruleset"
)

var same = []cmp.Option{cmpopts.EquateComparable(netip.Addr{}, netip.AddrPort{}), cmpopts.EquateEmpty()}

// hundred are 100 Services, every tenth of them UDP, with two endpoints each.
func hundred() []ruleset.Service {
	var services []ruleset.Service
	for i := 1; i <= 100; i++ {
		service := ruleset.Service{Key: ruleset.Key{Addr: netip.AddrFrom4([4]byte{10, 96, 0, byte(i)}), Protocol: ruleset.TCP, Port: 80}}
		port := uint16(8001 + i%tcpPorts)
		if i%10 == 0 {
			service.Protocol, port = ruleset.UDP, uint16(9001+i/10%udpPorts)
		}
		for j := range 2 {
			service.Endpoints = append(service.Endpoints, netip.AddrPortFrom(netip.MustParseAddr(backend(i+j)), port))
		}
		slices.SortFunc(service.Endpoints, netip.AddrPort.Compare)
		services = append(services, service)
	}
	return services
}

func set(t *testing.T, tenant types.UID, generation uint64, services []ruleset.Service) *ruleset.Set {
	t.Helper()
	made, err := ruleset.New(tenant, generation, []netip.Prefix{netip.MustParsePrefix("10.96.0.0/16")}, slices.Clone(services))
	if err != nil {
		t.Fatal(err)
	}
	return made
}

func grant(t *testing.T, from, to *ruleset.Set) ruleset.Granted {
	t.Helper()
	var delta *ruleset.Delta
	var err error
	if from != nil {
		delta, err = ruleset.Diff(from, to)
	}
	if err != nil {
		t.Fatal(err)
	}
	granted, err := guesttest.Recipient.Accept(to, delta)
	if err != nil {
		t.Fatal(err)
	}
	return granted
}

// TestServicesInAMicroVM puts a tenant's Services into a guest's own kernel through
// virtio-serial, and sends real traffic along them.
func TestServicesInAMicroVM(t *testing.T) {
	for _, engine := range []string{"ipvs", "nftables"} {
		t.Run(engine, func(t *testing.T) {
			t.Parallel()
			servicesInAMicroVM(t, engine)
		})
	}
}

func servicesInAMicroVM(t *testing.T, engine string) {
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	network := newNetwork(t)
	g, err := guesttest.Start(ctx, guesttest.Options{
		Engine: engine, Network: &microvm.Tap{Namespace: network.file, Name: tap}, RepairEvery: time.Second,
	})
	if err != nil {
		t.Fatal(err)
	}
	defer g.Stop()
	defer func() {
		if t.Failed() {
			t.Logf("the guest's console:\n%s", g.Console())
		}
	}()
	network.serve()
	client := channel(t, g)
	hello, err := client.Hello(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if hello.Generation != 0 || len(hello.Backends) != 2 || hello.Backends[0].Engine != engine {
		t.Fatalf("the guest says %+v", hello)
	}

	services := hundred()
	first := set(t, guesttest.Recipient.Tenant, 1, services)
	begin := time.Now()
	ack, err := client.Send(ctx, grant(t, nil, first))
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("100 Services took %v, of that the kernel %v", time.Since(begin), ack.Programming)
	holds(ctx, t, client, first)
	follows(ctx, t, g, first)
	for network, address := range map[string]string{"tcp": "10.96.0.250:80", "udp": "10.96.0.250:80"} {
		refused(ctx, t, g, network, address)
	}

	// The delta: other endpoints, none, one service less and one more.
	changed := slices.Clone(services)
	changed[0].Endpoints = []netip.AddrPort{netip.MustParseAddrPort(backend(3) + ":8050")}
	changed[1].Endpoints = nil
	changed[9].Endpoints = changed[9].Endpoints[:1]
	changed[2].Addr = netip.MustParseAddr("10.96.0.201")
	second := set(t, guesttest.Recipient.Tenant, 2, changed)
	begin = time.Now()
	if ack, err = client.Send(ctx, grant(t, first, second)); err != nil || !ack.Delta {
		t.Fatalf("delta: %+v, %v", ack, err)
	}
	t.Logf("a delta of %d took %v, of that the kernel %v", 5, time.Since(begin), ack.Programming)
	holds(ctx, t, client, second)
	follows(ctx, t, g, second)
	refused(ctx, t, g, "tcp", "10.96.0.3:80")

	// Another tenant's set: not on this channel, and not in this guest.
	foreign := set(t, "another-tenant", 3, services)
	granted, err := (ruleset.Recipient{Tenant: "another-tenant", Sandbox: "another-sandbox"}).Accept(foreign, nil)
	if err != nil {
		t.Fatal(err)
	}
	var mismatch *ruleset.MismatchError
	if _, err := client.Send(ctx, granted); !errors.As(err, &mismatch) {
		t.Errorf("another tenant's set on the host: %v", err)
	}
	if err := client.Close(); err != nil {
		t.Fatal(err)
	}
	raw(ctx, t, g, foreign)

	// Another process of the host goes on where the former stopped.
	client = channel(t, g)
	if hello, err = client.Hello(ctx); err != nil || hello.Generation != 2 || hello.Digest != second.Digest() {
		t.Fatalf("after the host's restart: %+v, %v", hello, err)
	}
	third := set(t, guesttest.Recipient.Tenant, 3, services)
	if ack, err = client.Send(ctx, grant(t, second, third)); err != nil || !ack.Delta {
		t.Fatalf("delta after the host's restart: %+v, %v", ack, err)
	}
	follows(ctx, t, g, third)

	// Drift: the agent sets it right by itself.
	if err := g.Drift(ctx); err != nil {
		t.Fatal(err)
	}
	if err := g.WaitConsole(ctx, "have been repaired"); err != nil {
		t.Fatal(err)
	}
	holds(ctx, t, client, third)
	if repaired, err := client.Repair(ctx); err != nil || repaired == 0 {
		t.Errorf("the agent tells of %d repaired services, %v", repaired, err)
	}
	follows(ctx, t, g, third)

	// A new agent takes over what the kernel holds, and goes on with the next set.
	if err := g.RestartAgent(ctx); err != nil {
		t.Fatal(err)
	}
	fourth := set(t, guesttest.Recipient.Tenant, 4, changed)
	if ack, err = client.Send(ctx, grant(t, third, fourth)); err != nil || ack.Delta {
		t.Fatalf("after the agent's restart: %+v, %v", ack, err)
	}
	holds(ctx, t, client, fourth)
	if err := g.RestartAgent(ctx); err != nil {
		t.Fatal(err)
	}
	hello, err = client.Hello(ctx)
	// ip_vs has no place for a generation: its agent has to be sent the set again.
	if whole := hello.Generation == 4 && hello.Digest == fourth.Digest(); err != nil || !whole && (engine != "ipvs" || hello.Generation != 0) {
		t.Errorf("a new agent found %+v, %v", hello, err)
	}
	follows(ctx, t, g, fourth)
	memory, err := g.AgentMemory(ctx)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("the agent's resident memory is %d KiB", memory>>10)
}

func channel(t *testing.T, g *guesttest.Guest) *guest.Client {
	t.Helper()
	client, err := g.Channel(guesttest.Recipient)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	return client
}

// holds wants the guest's kernel to hold the set's services.
func holds(ctx context.Context, t *testing.T, client *guest.Client, want *ruleset.Set) {
	t.Helper()
	dump, err := client.Dump(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want.Services(), dump, same...); diff != "" {
		t.Fatalf("the kernel does not hold generation %d (-want +got):\n%s", want.Generation(), diff)
	}
}

// follows wants traffic to reach the endpoints of the set's services and no others.
// Of the first service, each endpoint shall be reached.
func follows(ctx context.Context, t *testing.T, g *guesttest.Guest, want *ruleset.Set) {
	t.Helper()
	for network, protocol := range map[string]ruleset.Protocol{"tcp": ruleset.TCP, "udp": ruleset.UDP} {
		var services []ruleset.Service
		var addresses []string
		for _, service := range want.Services() {
			address := netip.AddrPortFrom(service.Addr, service.Port).String()
			switch {
			case service.Protocol != protocol:
			case len(service.Endpoints) == 0:
				refused(ctx, t, g, network, address)
			default:
				services, addresses = append(services, service), append(addresses, address)
			}
		}
		const times = 2
		answers, err := g.Dial(ctx, network, times, addresses...)
		if err != nil {
			t.Fatal(err)
		}
		for i, answer := range answers {
			service := services[i/times]
			endpoint, err := netip.ParseAddrPort(answer)
			if err != nil || !slices.Contains(service.Endpoints, endpoint) {
				t.Errorf("generation %d: %s was answered by %q, want one of %v", want.Generation(), service.Key, answer, service.Endpoints)
			}
		}
	}
	first := want.Services()[0]
	reached := map[string]bool{}
	for try := 0; len(reached) < len(first.Endpoints); try++ {
		if try == 20 {
			t.Errorf("generation %d: of %s only %v were reached", want.Generation(), first.Key, reached)
			return
		}
		answers, err := g.Dial(ctx, "tcp", 4, netip.AddrPortFrom(first.Addr, first.Port).String())
		if err != nil {
			t.Fatal(err)
		}
		for _, answer := range answers {
			reached[answer] = true
		}
	}
}

// refused wants an address to be refused, and not to be waited for.
func refused(ctx context.Context, t *testing.T, g *guesttest.Guest, network, address string) {
	t.Helper()
	answers, err := g.Dial(ctx, network, 1, address)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(answers[0], guesttest.Refused) || strings.Contains(answers[0], "timeout") {
		t.Errorf("%s %s, which has no service, gives %q", network, address, answers[0])
	}
}

// raw sends the foreign set to the guest past cri-ext's types, in frames made by hand:
// as its own tenant, in an own session, and as the sandbox's.
func raw(ctx context.Context, t *testing.T, g *guesttest.Guest, foreign *ruleset.Set) {
	t.Helper()
	conn, err := net.Dial("unix", g.Socket().Path)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	deadline, _ := ctx.Deadline()
	if err := conn.SetDeadline(deadline); err != nil {
		t.Fatal(err)
	}
	writer, reader := frame.NewWriter(conn), frame.NewReader(conn, 64<<10, true)
	text := func(buffer []byte, s string) []byte {
		return append(binary.AppendUvarint(buffer, uint64(len(s))), s...)
	}
	hello := func(tenant types.UID, sandbox string) []byte {
		return text(text([]byte{1, 1}, string(tenant)), sandbox)
	}
	rules := foreign.Encode(nil)
	part := binary.BigEndian.AppendUint32(nil, uint32(len(rules)))
	part = append(binary.BigEndian.AppendUint32(part, 0), rules...)
	nonce := []byte("sixteen bytes ok")
	for number, step := range []struct {
		kind, answer byte
		body         []byte
		words        string
	}{
		{0x01, 0x8f, hello("another-tenant", guesttest.Recipient.Sandbox), "not guesttest-sandbox of another-tenant"},
		{0x01, 0x8f, hello(guesttest.Recipient.Tenant, "another-sandbox"), "not another-sandbox of guesttest-tenant"},
		{0x02, 0x8f, part, "no hello began this session"},
		{0x01, 0x81, hello(guesttest.Recipient.Tenant, guesttest.Recipient.Sandbox), ""},
		{0x02, 0x8f, part, "rules of tenant another-tenant must not go to sandbox guesttest-sandbox"},
	} {
		prefix := binary.BigEndian.AppendUint32(slices.Clone(nonce), uint32(number))
		if err := writer.Write(step.kind, func(buffer []byte) []byte { return append(append(buffer, prefix...), step.body...) }); err != nil {
			t.Fatal(err)
		}
		kind, payload, err := reader.Next()
		if err != nil {
			t.Fatal(err)
		}
		if kind != step.answer || !strings.HasPrefix(string(payload), string(prefix)) || !strings.Contains(string(payload), step.words) {
			t.Errorf("step %d: the guest answers with kind %#x: %q", number, kind, payload)
		}
	}
}

// Sizes of sets that are measured.
var sizes = []int{100, 1000, 10000}

// BenchmarkInject measures a whole set, and a delta of one service, into a guest.
func BenchmarkInject(b *testing.B) {
	for _, engine := range []string{"ipvs", "nftables"} {
		rules, memory, cleanup, err := guesttest.StartGuest(b.Context(), engine)
		if err != nil {
			b.Fatal(err)
		}
		generation := uint64(0)
		next := func(services []ruleset.Service) *ruleset.Set {
			generation++
			made, err := ruleset.New(guesttest.Recipient.Tenant, generation, []netip.Prefix{netip.MustParsePrefix("10.96.0.0/16")}, slices.Clone(services))
			if err != nil {
				b.Fatal(err)
			}
			return made
		}
		send := func(from, to *ruleset.Set) time.Duration {
			var delta *ruleset.Delta
			if from != nil {
				delta, err = ruleset.Diff(from, to)
				if err != nil {
					b.Fatal(err)
				}
			}
			granted, err := rules.Recipient().Accept(to, delta)
			if err != nil {
				b.Fatal(err)
			}
			ack, err := rules.Send(b.Context(), granted)
			if err != nil {
				b.Fatal(err)
			}
			return ack.Programming
		}
		for _, size := range sizes {
			services := make([]ruleset.Service, size)
			for i := range services {
				services[i] = ruleset.Service{Key: ruleset.Key{Addr: netip.AddrFrom4([4]byte{10, 96, byte(i >> 8), byte(i)}), Protocol: ruleset.TCP, Port: 80},
					Endpoints: []netip.AddrPort{netip.MustParseAddrPort("10.78.0.101:80"), netip.MustParseAddrPort("10.78.0.102:80")}}
			}
			other := slices.Clone(services)
			other[size/2].Endpoints = other[size/2].Endpoints[:1]
			b.Run(fmt.Sprintf("%s/whole/%d", engine, size), func(b *testing.B) {
				var kernel time.Duration
				for b.Loop() {
					b.StopTimer()
					send(nil, next(nil))
					full := next(services)
					b.StartTimer()
					kernel += send(nil, full)
				}
				b.ReportMetric(float64(kernel.Microseconds())/1000/float64(b.N), "kernel-ms/op")
			})
			b.Run(fmt.Sprintf("%s/delta/%d", engine, size), func(b *testing.B) {
				held := next(services)
				send(nil, held)
				var kernel time.Duration
				for n := 0; b.Loop(); n++ {
					b.StopTimer()
					to := next([][]ruleset.Service{other, services}[n%2])
					b.StartTimer()
					kernel += send(held, to)
					held = to
				}
				b.ReportMetric(float64(kernel.Microseconds())/1000/float64(b.N), "kernel-ms/op")
			})
		}
		if resident, err := memory(b.Context()); err == nil {
			b.Logf("%s: the agent's resident memory is %d KiB", engine, resident>>10)
		}
		cleanup()
	}
}
