package ruleset

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

var equalAddr = cmp.Options{
	cmp.Comparer(func(a, b netip.Addr) bool { return a == b }),
	cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b }),
	cmp.Comparer(func(a, b netip.Prefix) bool { return a == b }),
	cmpopts.EquateEmpty(),
}

// random makes a set out of a small space, so that two of them share much.
func random(r *rand.Rand, tenant string, generation uint64) *Set {
	var services []Service
	for _, n := range r.Perm(40)[:r.IntN(40)] {
		service := Service{Key: Key{Addr: netip.AddrFrom4([4]byte{10, 96, 0, byte(n)}), Protocol: []Protocol{TCP, UDP, SCTP}[n%3], Port: 80}}
		if n%2 == 0 {
			service.Addr = netip.MustParseAddr(fmt.Sprintf("fd00::%x", n+1))
		}
		service.Affinity = uint32(r.IntN(2) * 10800)
		for _, e := range r.Perm(4)[:r.IntN(4)] {
			endpoint := netip.AddrFrom4([4]byte{10, 78, 1, byte(e + 1)})
			if service.Addr.Is6() {
				endpoint = netip.MustParseAddr(fmt.Sprintf("fd01::%x", e+1))
			}
			service.Endpoints = append(service.Endpoints, netip.AddrPortFrom(endpoint, 8080))
		}
		services = append(services, service)
	}
	ranges := []netip.Prefix{netip.MustParsePrefix("fd00::/112"), netip.MustParsePrefix("10.96.0.0/16")}[:r.IntN(3)]
	set, err := New("tenant-"+"a", generation, ranges, services)
	if err != nil {
		panic(err)
	}
	return set
}

// A delta leads from any set to any other, through the encoding, and the digest
// tells sets apart exactly when their rules differ.
func TestDeltaLeadsFromOneSetToTheNext(t *testing.T) {
	r := rand.New(rand.NewPCG(4, 13))
	for range 2000 {
		from, to := random(r, "a", 7), random(r, "a", 8)
		delta, err := Diff(from, to)
		if err != nil {
			t.Fatal(err)
		}
		delta, err = DecodeDelta(delta.Encode(nil))
		if err != nil {
			t.Fatal(err)
		}
		got, err := from.Apply(delta)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(to, got, cmp.AllowUnexported(Set{}), equalAddr); diff != "" {
			t.Fatal(diff)
		}
		same := bytes.Equal(from.Encode(nil)[2:], to.Encode(nil)[2:]) || delta.Size() == 0 && cmp.Equal(from.ranges, to.ranges, equalAddr)
		if same != (from.Digest() == to.Digest()) {
			t.Fatalf("sets are the same: %v, but digests %s and %s", same, from.Digest(), to.Digest())
		}
	}
}

func TestDeltaOfAnotherSetIsRefused(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	from, to := random(r, "a", 1), random(r, "a", 2)
	good, err := Diff(from, to)
	if err != nil {
		t.Fatal(err)
	}
	for name, spoil := range map[string]func(d *Delta){
		"tenant":  func(d *Delta) { d.Tenant = "other" },
		"gap":     func(d *Delta) { d.From++ },
		"back":    func(d *Delta) { d.To = d.From },
		"digest":  func(d *Delta) { d.Digest[0]++ },
		"order":   func(d *Delta) { d.Put = append(d.Put[:len(d.Put):len(d.Put)], d.Put[0]) },
		"unknown": func(d *Delta) { d.Remove = append(d.Remove[:0:0], Key{netip.MustParseAddr("192.0.2.1"), TCP, 1}) },
	} {
		bad := *good
		spoil(&bad)
		if _, err := from.Apply(&bad); err == nil {
			t.Errorf("%s: the delta was applied", name)
		}
	}
	other, err := New("other", 3, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Diff(from, other); err == nil {
		t.Error("a delta leads from one tenant to another")
	}
}

func TestSetsOutOfBoundsAreRefused(t *testing.T) {
	key := Key{netip.MustParseAddr("10.96.0.1"), TCP, 443}
	end := netip.MustParseAddrPort("10.78.0.1:8443")
	many := make([]netip.AddrPort, MaxEndpoints+1)
	for i := range many {
		many[i] = netip.AddrPortFrom(end.Addr(), uint16(i+1))
	}
	for name, services := range map[string][]Service{
		"twice":                {{Key: key}, {Key: key}},
		"port":                 {{Key: Key{key.Addr, TCP, 0}}},
		"protocol":             {{Key: Key{key.Addr, 1, 1}}},
		"loopback frontend":    {{Key: Key{netip.MustParseAddr("127.0.0.1"), TCP, 1}}},
		"address in address":   {{Key: Key{netip.MustParseAddr("::ffff:10.0.0.1"), TCP, 1}}},
		"family":               {{Key: key, Endpoints: []netip.AddrPort{netip.MustParseAddrPort("[fd00::1]:1")}}},
		"metadata endpoint":    {{Key: key, Endpoints: []netip.AddrPort{netip.MustParseAddrPort("169.254.169.254:80")}}},
		"loopback endpoint":    {{Key: key, Endpoints: []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:80")}}},
		"endpoint's port":      {{Key: key, Endpoints: []netip.AddrPort{netip.AddrPortFrom(end.Addr(), 0)}}},
		"too many endpoints":   {{Key: key, Endpoints: many}},
		"affinity of ten days": {{Key: key, Affinity: 864000}},
	} {
		if _, err := New("t", 1, nil, services); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if _, err := New("", 1, nil, nil); err == nil {
		t.Error("a set without tenant was accepted")
	}
	if _, err := New("t", 1, []netip.Prefix{netip.MustParsePrefix("10.0.0.1/8")}, nil); err == nil {
		t.Error("a range with host bits was accepted")
	}
}

func TestRulesGoToTheirOwnTenantOnly(t *testing.T) {
	a, b := Empty("a"), Empty("b")
	ours := Recipient{Tenant: "a", Sandbox: "1"}
	var mismatch *MismatchError
	if _, err := ours.Accept(b, nil); !errors.As(err, &mismatch) {
		t.Errorf("a set of b for a: %v", err)
	}
	if _, err := ours.Accept(a, &Delta{Tenant: "b"}); !errors.As(err, &mismatch) {
		t.Errorf("a delta of b for a: %v", err)
	}
	if _, err := (Recipient{}).Accept(a, nil); !errors.As(err, &mismatch) {
		t.Errorf("a set for nobody: %v", err)
	}
	granted, err := ours.Accept(a, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, other := range []Recipient{{"a", "2"}, {"b", "1"}, {}} {
		if _, _, err := granted.For(other); !errors.As(err, &mismatch) {
			t.Errorf("what was granted to %v opened for %v", ours, other)
		}
	}
	if _, _, err := (Granted{}).For(Recipient{}); err == nil {
		t.Error("nothing was granted, and opened")
	}
	if set, _, err := granted.For(ours); err != nil || set != a {
		t.Errorf("own set: %v, %v", set, err)
	}
}

func FuzzDecodeSet(f *testing.F) {
	r := rand.New(rand.NewPCG(2, 3))
	for range 8 {
		f.Add(random(r, "a", 300).Encode(nil))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		set, err := DecodeSet(data)
		if err != nil {
			return
		}
		if again := set.Encode(nil); !bytes.Equal(again, data) {
			t.Fatalf("%x was read as what is encoded as %x", data, again)
		}
		rebuilt, err := New(set.tenant, set.generation, set.ranges, set.services)
		if err != nil || rebuilt.Digest() != set.Digest() {
			t.Fatalf("what was read is not valid: %v", err)
		}
	})
}

func FuzzDecodeDelta(f *testing.F) {
	r := rand.New(rand.NewPCG(2, 4))
	base := random(r, "a", 1)
	for range 8 {
		delta, err := Diff(base, random(r, "a", 2))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(delta.Encode(nil))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		delta, err := DecodeDelta(data)
		if err != nil {
			return
		}
		if again := delta.Encode(nil); !bytes.Equal(again, data) {
			t.Fatalf("%x was read as what is encoded as %x", data, again)
		}
		_, _ = base.Apply(delta) // must not panic, whatever it says
	})
}

func FuzzDecodeServices(f *testing.F) {
	f.Add(EncodeServices(nil, random(rand.New(rand.NewPCG(2, 5)), "a", 1).services))
	f.Fuzz(func(t *testing.T, data []byte) {
		services, err := DecodeServices(data)
		if err == nil && !bytes.Equal(EncodeServices(nil, services), data) {
			t.Fatal("another encoding of the same services was accepted")
		}
	})
}

func BenchmarkApplyOneOfTenThousand(b *testing.B) {
	services := make([]Service, 10000)
	for i := range services {
		services[i] = Service{Key: Key{netip.AddrFrom4([4]byte{10, 96, byte(i >> 8), byte(i)}), TCP, 80},
			Endpoints: []netip.AddrPort{netip.MustParseAddrPort("10.78.0.1:80"), netip.MustParseAddrPort("10.78.0.2:80")}}
	}
	changed := append([]Service(nil), services...)
	changed[5000].Endpoints = nil
	from, err := New("t", 1, nil, services[1:])
	if err != nil {
		b.Fatal(err)
	}
	to, err := New("t", 2, nil, changed[1:])
	if err != nil {
		b.Fatal(err)
	}
	delta, err := Diff(from, to)
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if _, err := from.Apply(delta); err != nil {
			b.Fatal(err)
		}
	}
}
