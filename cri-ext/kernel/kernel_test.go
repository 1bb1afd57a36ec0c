package kernel

import (
	"context"
	"errors"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"golang.org/x/sys/unix"

	"github.com/bulkhead-dev/bulkhead/cri-ext/kernel/wire"
	"github.com/bulkhead-dev/bulkhead/internal/ruleset"
)

var equal = []cmp.Option{
	cmp.Comparer(func(a, b netip.Addr) bool { return a == b }),
	cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b }),
	cmpopts.EquateEmpty(),
}

// namespace makes a network namespace that ends with the test.
func namespace(t testing.TB) int {
	t.Helper()
	fds := make(chan int)
	go func() {
		runtime.LockOSThread() // for good: the thread ends in its namespace
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			t.Error(err)
			fds <- -1
			return
		}
		fd, err := wire.Own()
		if err != nil {
			t.Error(err)
		}
		fds <- fd
	}()
	fd := <-fds
	if fd < 0 {
		t.FailNow()
	}
	t.Cleanup(func() { unix.Close(fd) })
	return fd
}

func open(t testing.TB, fd int, options Options) *Kernel {
	t.Helper()
	k, err := Open(t.Context(), fd, options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { k.Close() })
	return k
}

// many is a set of n frontends with two endpoints each.
func many(t testing.TB, generation uint64, n int) *ruleset.Set {
	t.Helper()
	services := make([]ruleset.Service, n)
	for i := range services {
		services[i] = ruleset.Service{Key: ruleset.Key{Addr: netip.AddrFrom4([4]byte{10, 96, byte(i >> 8), byte(i)}), Protocol: ruleset.TCP, Port: 80}}
		for j := range 2 {
			services[i].Endpoints = append(services[i].Endpoints, netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 78, byte(i >> 7), byte(2*i + j)}), 8080))
		}
	}
	services[0].Addr = netip.MustParseAddr("fd00:96::1")
	services[0].Affinity = 10800
	services[0].Endpoints = []netip.AddrPort{netip.MustParseAddrPort("[fd00:78::2]:80"), netip.MustParseAddrPort("[fd00:78::1]:80")}
	set, err := ruleset.New("tenant-a", generation, []netip.Prefix{netip.MustParsePrefix("10.96.0.0/12"), netip.MustParsePrefix("fd00:96::/112")}, services)
	if err != nil {
		t.Fatal(err)
	}
	return set
}

// with returns the set after a change, and the delta to it.
func with(t testing.TB, from *ruleset.Set, put []ruleset.Service, remove ...ruleset.Key) (*ruleset.Set, *ruleset.Delta) {
	t.Helper()
	services := slices.Clone(from.Services())
	services = slices.DeleteFunc(services, func(s ruleset.Service) bool {
		return slices.Contains(remove, s.Key) || slices.ContainsFunc(put, func(p ruleset.Service) bool { return p.Key == s.Key })
	})
	to, err := ruleset.New(from.Tenant(), from.Generation()+1, from.Ranges(), append(services, put...))
	if err != nil {
		t.Fatal(err)
	}
	delta, err := ruleset.Diff(from, to)
	if err != nil {
		t.Fatal(err)
	}
	return to, delta
}

func expect(t testing.TB, k *Kernel, want *ruleset.Set) {
	t.Helper()
	got, err := k.Dump(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want.Services(), got, equal...); diff != "" {
		t.Fatalf("the kernel holds something else (-want +got):\n%s", diff)
	}
	if generation, digest := k.Held(); generation != want.Generation() || digest != want.Digest() {
		t.Fatalf("held %d %s, want %d %s", generation, digest, want.Generation(), want.Digest())
	}
}

func TestRulesComeBackAsTheyWere(t *testing.T) {
	fd := namespace(t)
	k := open(t, fd, Options{Engines: []string{"nftables"}})
	set := many(t, 1, 300)
	if err := k.Replace(t.Context(), set); err != nil {
		t.Fatal(err)
	}
	expect(t, k, set)
	one := set.Services()[7]
	one.Endpoints = nil
	after, delta := with(t, set, []ruleset.Service{one}, set.Services()[9].Key)
	if err := k.Apply(t.Context(), after, delta); err != nil {
		t.Fatal(err)
	}
	expect(t, k, after)
	again := open(t, fd, Options{Engines: []string{"nftables"}})
	expect(t, again, after)
	if n, err := again.Repair(t.Context()); err != nil || n != 0 {
		t.Fatalf("repaired %d, %v", n, err)
	}
}

// without makes an engine be missing for an IP family while the test runs.
func without(t *testing.T, name, family string) {
	t.Helper()
	was := kinds[name]
	kinds[name] = kind{open: was.open, probe: func(ctx context.Context, namespace int, asked string) error {
		if asked == family {
			return errors.New("missing for the test")
		}
		return was.probe(ctx, namespace, asked)
	}}
	works.Clear()
	t.Cleanup(func() {
		kinds[name] = was
		works.Clear()
	})
}

// Each IP family has the engine that it can have, and a later process puts their
// parts together.
func TestFamiliesOnDifferentEngines(t *testing.T) {
	without(t, "nftables", IPv6)
	fd := namespace(t)
	options := Options{Engines: []string{"nftables", "iptables"}, Seed: 3}
	k := open(t, fd, options)
	backends := k.Backends()
	if len(backends) != 2 || backends[0].Engine != "nftables" || backends[0].Reason != "" ||
		backends[1].Engine != "iptables" || !strings.Contains(backends[1].Reason, "nftables: missing for the test") {
		t.Fatalf("backends %+v", backends)
	}
	set := many(t, 5, 20)
	if err := k.Replace(t.Context(), set); err != nil {
		t.Fatal(err)
	}
	expect(t, k, set)
	sticky := set.Services()[len(set.Services())-1]
	sticky.Endpoints = sticky.Endpoints[:1]
	after, delta := with(t, set, []ruleset.Service{sticky, {Key: ruleset.Key{Addr: netip.MustParseAddr("10.96.1.1"), Protocol: ruleset.UDP, Port: 1}}})
	if err := k.Apply(t.Context(), after, delta); err != nil {
		t.Fatal(err)
	}
	expect(t, k, after)
	again := open(t, fd, options)
	expect(t, again, after)
	if n, err := again.Repair(t.Context()); err != nil || n != 0 {
		t.Fatalf("repaired %d, %v", n, err)
	}
	if err := again.Remove(t.Context()); err != nil {
		t.Fatal(err)
	}
	if services, err := again.Dump(t.Context()); err != nil || len(services) > 0 {
		t.Fatalf("%d services are left, %v", len(services), err)
	}
}

func TestFamilyWithoutEngine(t *testing.T) {
	without(t, "nftables", IPv6)
	k := open(t, namespace(t), Options{Engines: []string{"nftables", "no-such"}})
	var unsupported *UnsupportedError
	err := k.Replace(t.Context(), many(t, 1, 3))
	if !errors.As(err, &unsupported) || unsupported.Family != IPv6 || len(unsupported.Reasons) != 2 {
		t.Fatalf("a set with services of a family without engine: %v", err)
	}
	if services, err := k.Dump(t.Context()); err != nil || len(services) > 0 {
		t.Errorf("%d services are there, %v", len(services), err)
	}
	four, err := ruleset.New("tenant-a", 2, nil, slices.Clone(many(t, 1, 3).Services()[:2]))
	if err != nil {
		t.Fatal(err)
	}
	if err := k.Replace(t.Context(), four); err != nil {
		t.Errorf("a set without them: %v", err)
	}
	expect(t, k, four)
}

// When another engine is preferred than before, the former one's rules go.
func TestFormerEngineLeaves(t *testing.T) {
	fd := namespace(t)
	set := many(t, 1, 10)
	if err := open(t, fd, Options{Engines: []string{"nftables"}}).Replace(t.Context(), set); err != nil {
		t.Fatal(err)
	}
	k := open(t, fd, Options{Engines: []string{"iptables"}})
	if generation, _ := k.Held(); generation != 0 {
		t.Errorf("generation %d is held by an engine that never got it", generation)
	}
	if err := k.Replace(t.Context(), set); err != nil {
		t.Fatal(err)
	}
	expect(t, k, set)
	if services, err := open(t, fd, Options{Engines: []string{"nftables"}}).Dump(t.Context()); err != nil || len(services) > 0 {
		t.Errorf("the former engine has %d services left, %v", len(services), err)
	}
}

func TestDeltasThatDoNotFit(t *testing.T) {
	k := open(t, namespace(t), Options{Engines: []string{"nftables"}})
	set := many(t, 1, 5)
	after, delta := with(t, set, nil, set.Services()[0].Key)
	if err := k.Apply(t.Context(), after, delta); err == nil {
		t.Error("a delta to nothing was applied")
	}
	if err := k.Replace(t.Context(), set); err != nil {
		t.Fatal(err)
	}
	_, further := with(t, after, nil, set.Services()[1].Key)
	if err := k.Apply(t.Context(), after, further); err == nil {
		t.Error("a delta of another set was applied")
	}
	if err := k.Apply(t.Context(), after, delta); err != nil {
		t.Error(err)
	}
	expect(t, k, after)
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if err := k.Replace(ended, set); !errors.Is(err, context.Canceled) {
		t.Errorf("after its context has ended: %v", err)
	}
	if generation, _ := k.Held(); generation != 0 {
		t.Errorf("after a failure generation %d is held", generation)
	}
	if err := k.Replace(t.Context(), after); err != nil {
		t.Error(err)
	}
	if err := errors.Join(k.Close(), k.Close()); err != nil {
		t.Error(err)
	}
	if err := k.Replace(t.Context(), after); err == nil {
		t.Error("a kernel that was closed was changed")
	}
}

// Namespaces are programmed side by side.
func TestManyNamespacesAtOnce(t *testing.T) {
	set := many(t, 1, 200)
	after, delta := with(t, set, nil, set.Services()[0].Key)
	var all sync.WaitGroup
	for range 8 {
		k := open(t, namespace(t), Options{Engines: []string{"nftables"}})
		all.Go(func() {
			if err := errors.Join(k.Replace(t.Context(), set), k.Apply(t.Context(), after, delta)); err != nil {
				t.Error(err)
				return
			}
			if services, err := k.Dump(t.Context()); err != nil || len(services) != 199 {
				t.Errorf("%d services, %v", len(services), err)
			}
		})
	}
	all.Wait()
}
