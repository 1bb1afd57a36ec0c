package kernel_test

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/bulkhead-dev/bulkhead/cri-ext/kernel"
	"github.com/bulkhead-dev/bulkhead/cri-ext/kernel/traffic"
	"github.com/bulkhead-dev/bulkhead/internal/microvm"
	"github.com/bulkhead-dev/bulkhead/internal/microvm/guestinit"
	"github.com/bulkhead-dev/bulkhead/internal/ruleset"
)

func TestMain(m *testing.M) {
	if guestinit.IsInit() {
		guestinit.Run(guest)
	}
	os.Exit(m.Run())
}

// guestModules are what the engines need of Debian's kernel.
var guestModules = []string{
	"veth", "ip_vs_rr", "nf_conntrack_netlink", "nf_tables", "nft_chain_nat", "nft_ct", "nft_nat", "nft_numgen", "nft_reject_inet", "nft_reject_ipv4", "nft_reject_ipv6",
}

// guest runs the engines that it is told in the microVM, one line for each test.
func guest() int {
	code := 0
	for _, engine := range os.Args[1:] {
		// With as many as outside it would take the emulated processor most of the time.
		if err := examine(context.Background(), engine, 2000, func(r traffic.Result) {
			fmt.Printf("result\t%s/%s\t%d\t%v\n", engine, r.Name, r.Took.Milliseconds(), r.Err)
		}); err != nil {
			fmt.Println(err)
			code = 1
		}
	}
	lo, err := netlink.LinkByName("lo")
	if err == nil {
		err = netlink.LinkSetUp(lo) // so that it has an address
	}
	if err != nil {
		fmt.Println(err)
		return 1
	}
	for _, engine := range os.Args[1:] {
		for _, n := range []int{100, 1000} {
			if err := measure(context.Background(), engine, n); err != nil {
				fmt.Println(err)
				code = 1
			}
		}
	}
	return code
}

// measure says on the console how long a set and a delta take in the guest.
func measure(ctx context.Context, engine string, n int) error {
	k, err := kernel.Open(ctx, -1, kernel.Options{Engines: []string{engine}, PodIPs: []netip.Addr{netip.MustParseAddr("127.0.0.1")}})
	if err != nil {
		return err
	}
	defer k.Close()
	services := make([]ruleset.Service, n)
	for i := range services {
		services[i] = ruleset.Service{Key: ruleset.Key{Addr: netip.AddrFrom4([4]byte{10, 96, byte(i >> 8), byte(i)}), Protocol: ruleset.TCP, Port: 80},
			Endpoints: []netip.AddrPort{netip.MustParseAddrPort("10.78.0.1:80"), netip.MustParseAddrPort("10.78.0.2:80")}}
	}
	set, err := ruleset.New("tenant", 1, []netip.Prefix{netip.MustParsePrefix("10.96.0.0/12")}, services)
	if err != nil {
		return err
	}
	begin := time.Now()
	if err := k.Replace(ctx, set); err != nil {
		return err
	}
	whole := time.Since(begin)
	after, err := ruleset.New("tenant", 2, set.Ranges(), slices.Clone(set.Services()[1:]))
	if err != nil {
		return err
	}
	delta, err := ruleset.Diff(set, after)
	if err != nil {
		return err
	}
	begin = time.Now()
	if err := k.Apply(ctx, after, delta); err != nil {
		return err
	}
	fmt.Printf("measure\t%s with %d services: whole %s, delta %s\n", engine, n, whole, time.Since(begin))
	return k.Remove(ctx)
}

// A kernel with ip_vs, of the kind that sandboxes have, carries real traffic.
func TestTrafficInGuest(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 15*time.Minute)
	defer cancel()
	init, err := microvm.TestProgram(ctx, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	vm, err := microvm.Start(ctx, microvm.Config{Init: init, Args: []string{"ipvs", "nftables"}, Modules: guestModules, Memory: 1024})
	if err != nil {
		t.Fatal(err)
	}
	defer vm.Stop()
	code, err := vm.Wait(ctx)
	if err != nil || code != 0 {
		t.Fatalf("code %d, %v\n%s", code, err, vm.Console())
	}
	results := 0
	for line := range strings.SplitSeq(vm.Console(), "\n") {
		fields := strings.Split(line, "\t")
		if len(fields) == 2 && fields[0] == "measure" {
			t.Log(fields[1])
		}
		if len(fields) != 4 || fields[0] != "result" {
			continue
		}
		results++
		t.Run(fields[1], func(t *testing.T) {
			t.Logf("took %s ms", fields[2])
			if fields[3] != "<nil>" {
				t.Error(fields[3])
			}
		})
	}
	if results < 60 {
		t.Errorf("only %d results:\n%s", results, vm.Console())
	}
}
