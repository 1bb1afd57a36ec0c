package kernel

import (
	"fmt"
	"net/netip"
	"runtime"
	"slices"
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

func BenchmarkReplace(b *testing.B) {
	for _, n := range []int{100, 1000, 10000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			set := many(b, 1, n)
			for b.Loop() {
				b.StopTimer()
				fd := namespace(b)
				b.StartTimer()
				k := open(b, fd, Options{Engines: []string{"nftables"}})
				if err := k.Replace(b.Context(), set); err != nil {
					b.Fatal(err)
				}
				b.StopTimer()
				k.Close()
				unix.Close(fd)
				b.StartTimer()
			}
		})
	}
}

func BenchmarkApply(b *testing.B) {
	for _, n := range []int{100, 1000, 10000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			k := open(b, namespace(b), Options{Engines: []string{"nftables"}})
			set := many(b, 1, n)
			if err := k.Replace(b.Context(), set); err != nil {
				b.Fatal(err)
			}
			for b.Loop() {
				b.StopTimer()
				one := set.Services()[n/2]
				one.Endpoints = slices.Clone(one.Endpoints)
				one.Endpoints[0] = netip.AddrPortFrom(one.Endpoints[0].Addr(), 8081+uint16(set.Generation()%1000))
				after, delta := with(b, set, []ruleset.Service{one})
				set = after
				b.StartTimer()
				if err := k.Apply(b.Context(), after, delta); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkDump(b *testing.B) {
	for _, n := range []int{100, 1000, 10000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			k := open(b, namespace(b), Options{Engines: []string{"nftables"}})
			if err := k.Replace(b.Context(), many(b, 1, n)); err != nil {
				b.Fatal(err)
			}
			for b.Loop() {
				if _, err := k.Dump(b.Context()); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
