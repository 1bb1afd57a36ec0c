package nftables

import (
	"encoding/hex"
	"flag"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/bulkhead-dev/bulkhead/cri-ext/kernel/affinity"
	"github.com/bulkhead-dev/bulkhead/cri-ext/kernel/held"
	"github.com/bulkhead-dev/bulkhead/cri-ext/kernel/wire"
	"github.com/bulkhead-dev/bulkhead/internal/ruleset"
)

var update = flag.Bool("update", false, "write the golden files anew")

// namespace makes a network namespace that ends with the test.
func namespace(t testing.TB) int {
	t.Helper()
	fds := make(chan int)
	go func() {
		runtime.LockOSThread() // for good: the thread ends in its namespace
		fd, err := -1, unix.Unshare(unix.CLONE_NEWNET)
		if err == nil {
			fd, err = wire.Own()
		}
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

func engine(t testing.TB) *Engine {
	t.Helper()
	e, err := Open(namespace(t), []string{"IPv4", "IPv6"}, 7)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { e.Close() })
	return e
}

// random makes a set out of a small space, so that two of them share much.
func random(r *rand.Rand, generation uint64) *ruleset.Set {
	var services []ruleset.Service
	for _, n := range r.Perm(40)[:r.IntN(40)] {
		addr, base := netip.AddrFrom4([4]byte{10, 96, 0, byte(n + 1)}), netip.AddrFrom4([4]byte{10, 78, 0, 1})
		if n%2 == 0 {
			addr, base = netip.MustParseAddr(fmt.Sprintf("fd00:96::%x", n+1)), netip.MustParseAddr("fd00:78::1")
		}
		service := ruleset.Service{Key: ruleset.Key{Addr: addr, Protocol: []ruleset.Protocol{ruleset.TCP, ruleset.UDP, ruleset.SCTP}[n%3], Port: uint16(n%5 + 80)}}
		service.Affinity = uint32(r.IntN(2) * r.IntN(ruleset.MaxAffinity+1))
		for range r.IntN(6) {
			base = base.Next()
			if r.IntN(3) > 0 {
				service.Endpoints = append(service.Endpoints, netip.AddrPortFrom(base, uint16(8080+r.IntN(2))))
			}
		}
		services = append(services, service)
	}
	ranges := []netip.Prefix{netip.MustParsePrefix("fd00:96::/112"), netip.MustParsePrefix("10.96.0.0/16"), netip.MustParsePrefix("10.97.0.0/27")}[:r.IntN(4)]
	set, err := ruleset.New("tenant-a", generation, ranges, services)
	if err != nil {
		panic(err)
	}
	return set
}

// right fails unless the kernel holds exactly the set.
func right(t *testing.T, e *Engine, set *ruleset.Set) {
	t.Helper()
	wrong, right, err := e.compare(t.Context(), set)
	if err != nil || wrong != 0 || !right {
		t.Fatalf("%d services are wrong, the rest is right: %v, %v", wrong, right, err)
	}
}

// Whatever set follows whatever other, as a delta or whole, the kernel holds it, to
// the element; and a later process finds it.
func TestAnySetFollowsAnyOther(t *testing.T) {
	e := engine(t)
	r := rand.New(rand.NewPCG(4, 1))
	var set *ruleset.Set
	for generation := uint64(1); generation <= 150; generation++ {
		next := random(r, generation)
		var delta *ruleset.Delta
		from := set
		if from != nil && r.IntN(5) > 0 {
			var err error
			if delta, err = ruleset.Diff(from, next); err != nil {
				t.Fatal(err)
			}
		} else {
			from = nil
		}
		if err := e.Change(t.Context(), from, next, delta); err != nil {
			t.Fatalf("generation %d: %v", generation, err)
		}
		set = next
		right(t, e, set)
		later, err := Open(e.namespace, []string{"IPv4", "IPv6"}, 99)
		if err != nil {
			t.Fatal(err)
		}
		part, err := later.Adopt(t.Context())
		if err != nil || part == nil {
			t.Fatalf("generation %d: a later process found %v, %v", generation, part, err)
		}
		if found, ok := held.Merge([]*held.Part{part}); !ok || found.Digest() != set.Digest() || found.Generation() != generation {
			t.Fatalf("generation %d: a later process found another set", generation)
		}
		if n, err := later.Repair(t.Context(), set); err != nil || n != 0 {
			t.Fatalf("generation %d: a later process repaired %d, %v", generation, n, err)
		}
		if r.IntN(2) == 0 { // the later process goes on, with the choices of the earlier
			e.socket.Close()
			e = later
			continue
		}
		later.Close()
	}
}

// Whatever is taken out, changed or added behind the engine's back, it is found.
func TestEveryDamageIsFound(t *testing.T) {
	e := engine(t)
	r := rand.New(rand.NewPCG(4, 2))
	set := random(r, 1)
	for len(set.Services()) < 20 || len(set.Ranges()) < 3 {
		set = random(r, 1)
	}
	if err := e.Change(t.Context(), nil, set, nil); err != nil {
		t.Fatal(err)
	}
	v4 := families["IPv4"]
	var service, refused ruleset.Service
	for _, s := range held.Services(set.Services(), true) {
		if len(s.Endpoints) > 1 {
			service = s
		}
		if len(s.Endpoints) == 0 {
			refused = s
		}
	}
	key := appendKey(nil, service.Key)
	other := appendKey(nil, ruleset.Key{Addr: service.Addr, Protocol: service.Protocol, Port: 1})
	damages := map[string]func(b *batch){
		"frontend gone": func(b *batch) { l := b.remove(v4, setServices); l.plain(key); l.end() },
		"frontend more": func(b *batch) { l := b.add(v4, setServices); l.frontend(other, used(&service), 0); l.end() },
		"endpoint gone": func(b *batch) { l := b.remove(v4, setEndpoints); l.plain(slotKey(key, 1)); l.end() },
		"endpoint more": func(b *batch) {
			l := b.add(v4, setEndpoints)
			l.endpoint(slotKey(other, 0), service.Endpoints[0])
			l.end()
		},
		"refusal gone":     func(b *batch) { l := b.remove(v4, setRefused); l.plain(appendKey(nil, refused.Key)); l.end() },
		"refusal more":     func(b *batch) { l := b.add(v4, setRefused); l.plain(other); l.end() },
		"state gone":       func(b *batch) { b.flush(v4, setState) },
		"ranges gone":      func(b *batch) { b.flushChain(v4, chainRanges) },
		"rule gone":        func(b *batch) { b.flushChain(v4, chainRedirect) },
		"rules of a count": func(b *batch) { b.flushChain(v4, chainName(used(&service))) },
		"rule more":        func(b *batch) { b.addRange(v4, netip.MustParsePrefix("0.0.0.0/0")) },
		"table gone":       func(b *batch) { b.removeTable(v4) },
		"other table gone": func(b *batch) { b.removeTable(families["IPv6"]) },
	}
	for name, damage := range damages {
		b := newBatch(Table, 4096)
		damage(b)
		b.Acknowledge()
		last := b.Sequence()
		b.commit()
		if err := e.socket.Send(t.Context(), b.Bytes, last); err != nil {
			t.Fatalf("%s: %v", name, describe(err))
		}
		if n, err := e.Repair(t.Context(), set); err != nil || n == 0 {
			t.Errorf("%s: repaired %d, %v", name, n, err)
		}
		right(t, e, set)
		if n, err := e.Repair(t.Context(), set); err != nil || n != 0 {
			t.Errorf("%s: repaired %d again, %v", name, n, err)
		}
	}
}

// A change of others' tables is no damage, and does not hide one.
func TestOthersTablesAreTheirs(t *testing.T) {
	e := engine(t)
	set := random(rand.New(rand.NewPCG(1, 1)), 1)
	if err := e.Change(t.Context(), nil, set, nil); err != nil {
		t.Fatal(err)
	}
	b := newBatch("pod-of-its-own", 4096)
	b.addTable(families["IPv4"])
	b.Acknowledge()
	last := b.Sequence()
	b.commit()
	if err := e.socket.Send(t.Context(), b.Bytes, last); err != nil {
		t.Fatal(err)
	}
	if n, err := e.Repair(t.Context(), set); err != nil || n != 0 {
		t.Errorf("repaired %d, %v", n, err)
	}
	if e.generation == 0 {
		t.Error("the kernel's generation is not known after a comparison that found nothing")
	}
	if err := e.Remove(t.Context()); err != nil {
		t.Fatal(err)
	}
	b = newBatch("pod-of-its-own", 4096)
	b.removeTable(families["IPv4"])
	b.Acknowledge()
	if err := e.socket.Send(t.Context(), b.Bytes, b.Sequence()); err != nil {
		t.Errorf("the pod's own table: %v", err)
	}
}

// What is sent for a set is what it was: a table is not changed by accident.
func TestTransactionIsAsItWas(t *testing.T) {
	set, err := ruleset.New("tenant-a", 7, []netip.Prefix{netip.MustParsePrefix("10.96.0.0/12"), netip.MustParsePrefix("fd00:96::/112")}, []ruleset.Service{
		{Key: ruleset.Key{Addr: netip.MustParseAddr("10.96.0.1"), Protocol: ruleset.TCP, Port: 443}, Endpoints: []netip.AddrPort{netip.MustParseAddrPort("10.78.0.1:6443"), netip.MustParseAddrPort("10.78.0.2:6443")}},
		{Key: ruleset.Key{Addr: netip.MustParseAddr("10.96.0.10"), Protocol: ruleset.UDP, Port: 53}},
		{Key: ruleset.Key{Addr: netip.MustParseAddr("fd00:96::1"), Protocol: ruleset.SCTP, Port: 3868}, Affinity: 10800, Endpoints: []netip.AddrPort{netip.MustParseAddrPort("[fd00:78::1]:1"), netip.MustParseAddrPort("[fd00:78::2]:1")}},
	})
	if err != nil {
		t.Fatal(err)
	}
	e := &Engine{families: []*family{families["IPv4"], families["IPv6"]}, tables: make([]table, 2), choices: affinity.Choices{Seed: 1}}
	got := hex.Dump(e.whole(set).Bytes)
	const golden = "testdata/transaction.hex"
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
		t.Errorf("the transaction is not that of %s; with -update it is written anew", golden)
	}
}

func FuzzParseElements(f *testing.F) {
	v4 := families["IPv4"]
	b := newBatch(Table, 4096)
	at := len(b.Bytes)
	l := b.add(v4, setServices)
	key := appendKey(nil, ruleset.Key{Addr: netip.MustParseAddr("10.96.0.1"), Protocol: ruleset.TCP, Port: 80})
	l.frontend(key, 2, 600)
	l.end()
	f.Add(b.Bytes[at+16:])
	at = len(b.Bytes)
	l = b.add(v4, setEndpoints)
	l.endpoint(slotKey(key, 3), netip.MustParseAddrPort("10.78.0.1:80"))
	l.end()
	f.Add(b.Bytes[at+16:])
	f.Fuzz(func(t *testing.T, data []byte) {
		_ = parseElements(data, func(el element) {
			for _, f := range families {
				if key, ok := f.parseKey(el.key); ok && string(appendKey(nil, key)[:4*f.words]) != string(el.key[:4*f.words]) {
					t.Errorf("%x was read as %s", el.key, key)
				}
				f.parseSlot(el)
			}
			_, _ = parseAffinity(el.comment)
			_ = readState(&held.Part{}, 0, el.comment)
			_ = readState(&held.Part{}, 1, el.comment)
			if count := parseCount(el.chain); count > 0 && chainName(count) != el.chain {
				t.Errorf("%q was read as %d", el.chain, count)
			}
		})
	})
}
