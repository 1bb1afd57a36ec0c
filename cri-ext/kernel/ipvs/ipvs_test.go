package ipvs

import (
	"encoding/binary"
	"encoding/hex"
	"flag"
	"net/netip"
	"os"
	"reflect"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/bulkhead-dev/bulkhead/cri-ext/kernel/wire"
	"github.com/bulkhead-dev/bulkhead/internal/ruleset"
)

var update = flag.Bool("update", false, "write the golden files anew")

var (
	v4 = ruleset.Key{Addr: netip.MustParseAddr("10.96.0.1"), Protocol: ruleset.TCP, Port: 443}
	v6 = ruleset.Key{Addr: netip.MustParseAddr("fd00:96::1"), Protocol: ruleset.UDP, Port: 53}
	e4 = netip.MustParseAddrPort("10.78.0.1:6443")
	e6 = netip.MustParseAddrPort("[fd00:78::1]:5353")
)

// What is sent to ip_vs and to the routing is what it was.
func TestMessagesAreAsTheyWere(t *testing.T) {
	b := &batch{family: 0x20}
	b.service(cmdNewService, v4, 0)
	b.service(cmdSetService, v4, 10800)
	b.service(cmdNewService, v6, 60)
	b.dest(cmdNewDest, v4, e4, 1)
	b.dest(cmdSetDest, v6, e6, 0)
	b.removeDest(v4, e4)
	b.removeService(v6)
	b.get(cmdGetDest, v4, unix.NLM_F_DUMP)
	want := wanted(true, []ruleset.Key{v4}, []netip.Prefix{netip.MustParsePrefix("10.96.0.0/12")}, netip.MustParseAddr("10.78.0.9"))
	if len(want.routes) != 2 || len(want.rules) != 1 {
		t.Errorf("routes %v, rules %v", want.routes, want.rules)
	}
	outside := wanted(false, []ruleset.Key{v6}, nil, netip.MustParseAddr("fd00:78::9"))
	if len(outside.routes) != 1 || len(outside.rules) != 2 {
		t.Errorf("routes %v, rules %v", outside.routes, outside.rules)
	}
	appendRoute(&b.Builder, unix.RTM_NEWROUTE, unix.NLM_F_CREATE, route{table: tableRanges, to: netip.MustParsePrefix("10.96.0.0/12")})
	appendRoute(&b.Builder, unix.RTM_NEWROUTE, unix.NLM_F_CREATE, route{table: tablePorts, to: netip.MustParsePrefix("fd00:96::1/128"), local: true, source: netip.MustParseAddr("fd00:78::9")})
	appendRule(&b.Builder, unix.RTM_NEWRULE, unix.NLM_F_CREATE, rule{v4: true})
	appendRule(&b.Builder, unix.RTM_DELRULE, 0, rule{key: v6})
	got := hex.Dump(b.Bytes)
	const golden = "testdata/messages.hex"
	if *update {
		if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	text, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(text) {
		t.Errorf("the messages are not those of %s; with -update it is written anew", golden)
	}
}

// Our routes and rules are read as they were written, and others' are not.
func TestPathsComeBack(t *testing.T) {
	for _, want := range []route{
		{table: tableRanges, to: netip.MustParsePrefix("10.96.0.0/12")},
		{table: tablePorts, to: netip.MustParsePrefix("fd00:96::1/128"), local: true, source: netip.MustParseAddr("fd00:78::9")},
	} {
		var b wire.Builder
		appendRoute(&b, unix.RTM_NEWROUTE, 0, want)
		if got, ok := parseRoute(b.Bytes[16:]); !ok || got != want {
			t.Errorf("%v was read as %v, %v", want, got, ok)
		}
		b.Bytes[16+5] = unix.RTPROT_KERNEL
		if got, ok := parseRoute(b.Bytes[16:]); ok {
			t.Errorf("another's route was read as ours: %v", got)
		}
	}
	for _, want := range []rule{{v4: true}, {}, {v4: true, key: v4}, {key: v6}} {
		var b wire.Builder
		appendRule(&b, unix.RTM_NEWRULE, 0, want)
		if got, ok := parseRule(b.Bytes[16:]); !ok || got != want {
			t.Errorf("%v was read as %v, %v", want, got, ok)
		}
	}
}

// A service is known by what names it, and one by firewall mark is not ours.
func TestKeyComesBack(t *testing.T) {
	for _, want := range []ruleset.Key{v4, v6} {
		b := &batch{}
		b.service(cmdNewService, want, 60)
		if got, ok := parseKey(b.Bytes[16:]); !ok || got != want {
			t.Errorf("%s was read as %s, %v", want, got, ok)
		}
	}
	b := &batch{}
	b.begin(cmdNewService, 0)
	nest := b.Nest(attrService)
	b.Native16(svcFamily, unix.AF_INET)
	b.Close(nest)
	b.End()
	if got, ok := parseKey(b.Bytes[16:]); ok {
		t.Errorf("a service without address was read as %s", got)
	}
}

const sample = `IP Virtual Server version 1.2.1 (size=4096)
Prot LocalAddress:Port Scheduler Flags
  -> RemoteAddress:Port Forward Weight ActiveConn InActConn
TCP  0A600001:01BB rr  persistent 2700000 FFFFFFFF
  -> 0A4E0001:192B      Masq    1      3          4         
  -> 0A4E0002:192B      Masq    0      0          0         
UDP  [fd00:0096:0000:0000:0000:0000:0000:0001]:0035 rr 
  -> [fd00:0078:0000:0000:0000:0000:0000:0001]:14E9      Masq    1      0          0         
SCTP 0A600003:0F1C rr  
FWM  00000001 rr 
  -> 0A4E0009:192B      Masq    1      3          4         
`

func TestTableIsRead(t *testing.T) {
	table, err := parseTable([]byte(sample), func(key ruleset.Key, ticks uint64) (uint64, error) {
		if key != v4 || ticks != 2700000 {
			t.Errorf("asked for the clock with %s, %d", key, ticks)
		}
		return 250, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	want := map[ruleset.Key]*virtual{
		v4: {persistence: 10800, servers: map[netip.AddrPort]server{e4: {1, 7}, netip.MustParseAddrPort("10.78.0.2:6443"): {}}},
		v6: {servers: map[netip.AddrPort]server{e6: {1, 0}}},
		{Addr: netip.MustParseAddr("10.96.0.3"), Protocol: ruleset.SCTP, Port: 3868}: {servers: map[netip.AddrPort]server{}},
	}
	if !reflect.DeepEqual(table, want) {
		t.Errorf("read %v", table)
	}
	services := list(table)
	if len(services) != 3 || !reflect.DeepEqual(services[0], ruleset.Service{Key: v4, Affinity: 10800, Endpoints: []netip.AddrPort{e4}}) {
		t.Errorf("listed %v", services)
	}
	table[v4].persistence = mark
	if services := list(table); len(services) != 2 {
		t.Errorf("a service that leaves was listed: %v", services)
	}
	for _, bad := range []string{"TCP  0A600001:01BB\n", "TCP  0A6000:01BB rr\n", "TCP  0A600001 rr\n", "TCP  [::ffff:10.0.0.1]:0001 rr\n",
		"TCP  0A600001:01BB rr\n  -> 0A4E0001:192B Masq 1 3\n", "TCP  0A600001:01BB rr persistent x\n"} {
		heading := strings.Join(strings.SplitAfter(sample, "\n")[:3], "")
		if table, err := parseTable([]byte(heading+bad), nil); err == nil {
			t.Errorf("%q was read as %v", bad, table)
		}
	}
}

// update writes what leads from any state of a virtual service to the frontend.
func TestServersThatGoTakeNoMore(t *testing.T) {
	count := func(service ruleset.Service, v *virtual) (commands int, leavers bool) {
		b := &batch{family: 1}
		leavers = b.update(&service, v)
		return b.count, leavers
	}
	tcp := ruleset.Service{Key: v4, Endpoints: []netip.AddrPort{e4}}
	if n, leavers := count(tcp, nil); n != 2 || leavers {
		t.Errorf("new: %d commands, %v", n, leavers)
	}
	there := map[netip.AddrPort]server{e4: {weight: 1}}
	if n, leavers := count(tcp, &virtual{servers: there}); n != 0 || leavers {
		t.Errorf("as it is: %d commands, %v", n, leavers)
	}
	there[netip.MustParseAddrPort("10.78.0.2:1")] = server{weight: 1, connections: 1}
	if n, leavers := count(tcp, &virtual{servers: there}); n != 1 || !leavers {
		t.Errorf("one to go: %d commands, %v", n, leavers)
	}
	there[e4] = server{weight: 0}
	if n, _ := count(tcp, &virtual{servers: there, persistence: mark}); n != 3 {
		t.Errorf("back again: %d commands", n)
	}
	if n, leavers := count(ruleset.Service{Key: v6}, &virtual{servers: map[netip.AddrPort]server{e6: {weight: 1}}}); n != 1 || leavers {
		t.Errorf("UDP goes at once: %d commands, %v", n, leavers)
	}
}

func FuzzParseTable(f *testing.F) {
	f.Add([]byte(sample))
	f.Fuzz(func(t *testing.T, text []byte) {
		table, err := parseTable(text, func(ruleset.Key, uint64) (uint64, error) { return 100, nil })
		if err != nil {
			return
		}
		for _, service := range list(table) {
			for _, endpoint := range service.Endpoints {
				if !endpoint.Addr().IsValid() {
					t.Errorf("%s has an endpoint without address", service.Key)
				}
			}
		}
	})
}

func FuzzParseMessages(f *testing.F) {
	b := &batch{family: 1}
	b.service(cmdNewService, v4, 60)
	f.Add(b.Bytes[16:])
	b = &batch{family: 1}
	b.dest(cmdNewDest, v6, e6, 1)
	f.Add(b.Bytes[16:])
	var r wire.Builder
	appendRule(&r, 0, 0, rule{key: v6})
	f.Add(r.Bytes[16:])
	f.Add(binary.NativeEndian.AppendUint32(nil, 0))
	f.Fuzz(func(t *testing.T, data []byte) {
		parseService(data)
		if key, ok := parseKey(data); ok && !key.Addr.IsValid() {
			t.Errorf("a service without address: %v", key)
		}
		for _, key := range []ruleset.Key{v4, v6} {
			if endpoint, _, ok := parseDest(data, key); ok && endpoint.Addr().BitLen() != key.Addr.BitLen() {
				t.Errorf("%s was read as a server of %s", endpoint, key)
			}
		}
		if r, ok := parseRoute(data); ok && !r.to.IsValid() {
			t.Errorf("a route to nowhere: %v", r)
		}
		parseRule(data)
	})
}
