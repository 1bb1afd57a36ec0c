package kernel

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"github.com/bulkhead-dev/bulkhead/internal/ruleset"
)

// BenchmarkReplace opens a namespace that has no rules and puts a set into it.
func BenchmarkReplace(b *testing.B) {
	for _, n := range []int{100, 1000, 10000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			set := many(b, 1, n)
			for b.Loop() {
				b.StopTimer()
				fd := namespace(b)
				b.StartTimer()
				k, err := Open(b.Context(), fd, Options{Engines: []string{"nftables"}})
				if err != nil {
					b.Fatal(err)
				}
				if err := k.Replace(b.Context(), set); err != nil {
					b.Fatal(err)
				}
				b.StopTimer()
				k.Close()
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
