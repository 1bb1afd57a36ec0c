package iptables

import (
	"errors"
	"flag"
	"net/netip"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/bulkhead-dev/bulkhead/cri-ext/kernel/affinity"
	"github.com/bulkhead-dev/bulkhead/internal/ruleset"
)

var update = flag.Bool("update", false, "write the golden files anew")

func set(t testing.TB) *ruleset.Set {
	t.Helper()
	set, err := ruleset.New("tenant-a", 7, []netip.Prefix{netip.MustParsePrefix("10.96.0.0/12"), netip.MustParsePrefix("fd00:96::/112")}, []ruleset.Service{
		{Key: ruleset.Key{Addr: netip.MustParseAddr("10.96.0.1"), Protocol: ruleset.TCP, Port: 443}, Endpoints: []netip.AddrPort{netip.MustParseAddrPort("10.78.0.1:6443"), netip.MustParseAddrPort("10.78.0.2:6443"), netip.MustParseAddrPort("10.78.0.3:6443")}},
		{Key: ruleset.Key{Addr: netip.MustParseAddr("10.96.0.10"), Protocol: ruleset.UDP, Port: 53}, Affinity: 60},
		{Key: ruleset.Key{Addr: netip.MustParseAddr("10.96.0.11"), Protocol: ruleset.TCP, Port: 53}, Affinity: 60, Endpoints: []netip.AddrPort{netip.MustParseAddrPort("10.78.0.1:53"), netip.MustParseAddrPort("10.78.0.2:53")}},
		{Key: ruleset.Key{Addr: netip.MustParseAddr("fd00:96::1"), Protocol: ruleset.SCTP, Port: 3868}, Endpoints: []netip.AddrPort{netip.MustParseAddrPort("[fd00:78::1]:1")}},
	})
	if err != nil {
		t.Fatal(err)
	}
	return set
}

// What is rendered is as it was, and is read back as the set.
func TestTextIsAsItWas(t *testing.T) {
	for name, f := range families {
		choices := affinity.Choices{Seed: 1}
		got := render(f, set(t), &choices)
		golden := "testdata/" + name + ".rules"
		if *update {
			if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(golden)
		if err != nil {
			t.Fatal(err)
		}
		if got != string(want) {
			t.Errorf("%s differs, with -update it is written anew:\n%s", golden, got)
		}
		for _, jump := range jumps {
			got += "-A " + jump[1] + " " + jump[2] + "\n"
		}
		c, err := parse([]byte(got), f)
		if err != nil || !c.whole || c.part.Generation != 7 || c.part.Digest != set(t).Digest() || c.part.Tenant != "tenant-a" {
			t.Fatalf("%s was read as %+v, %v", name, c, err)
		}
		sortEndpoints(c.part.Services)
		services := slices.DeleteFunc(slices.Clone(set(t).Services()), func(s ruleset.Service) bool { return s.Addr.Is4() != f.v4 })
		if !reflect.DeepEqual(services, c.part.Services) {
			t.Errorf("%s was read as %v", name, c.part.Services)
		}
		// Without any one line it is not whole, or not the same.
		lines := strings.SplitAfter(got, "\n")
		for i, line := range lines {
			if !strings.HasPrefix(line, "-A") {
				continue
			}
			less, err := parse([]byte(strings.Join(slices.Delete(slices.Clone(lines), i, i+1), "")), f)
			if err != nil {
				t.Fatal(err)
			}
			sortEndpoints(less.part.Services)
			if less.whole && reflect.DeepEqual(less.part, c.part) {
				t.Errorf("without %q nothing is missing", line)
			}
		}
	}
}

func TestTooLargeSetIsRefused(t *testing.T) {
	services := make([]ruleset.Service, MaxServices+1)
	addr := netip.MustParseAddr("10.96.0.0")
	for i := range services {
		addr = addr.Next()
		services[i].Key = ruleset.Key{Addr: addr, Protocol: ruleset.TCP, Port: 80}
	}
	set, err := ruleset.New("tenant-a", 3, nil, services)
	if err != nil {
		t.Fatal(err)
	}
	var limit *LimitError
	if err := fits(families["IPv4"], set); !errors.As(err, &limit) || !strings.Contains(err.Error(), "5001 frontends") {
		t.Errorf("%v", err)
	}
	if err := fits(families["IPv6"], set); err != nil {
		t.Errorf("the other family has none: %v", err)
	}
}

func FuzzParse(f *testing.F) {
	for _, family := range families {
		f.Add(render(family, set(f), &affinity.Choices{}))
	}
	f.Add("-A " + chainServices + ` -d 10.0.0.1 -m comment --comment "a\" b" -j DNAT --to-destination [::1]:1`)
	f.Fuzz(func(t *testing.T, text string) {
		for _, family := range families {
			c, err := parse([]byte(text), family)
			if err != nil {
				continue
			}
			for _, s := range c.part.Services {
				if s.Addr.Is4() != family.v4 {
					t.Errorf("%s is of another family", s.Key)
				}
			}
		}
	})
}
