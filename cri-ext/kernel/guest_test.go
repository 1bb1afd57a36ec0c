package kernel_test

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/bulkhead-dev/bulkhead/cri-ext/kernel/traffic"
	"github.com/bulkhead-dev/bulkhead/internal/microvm"
	"github.com/bulkhead-dev/bulkhead/internal/microvm/guestinit"
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
		if err := examine(context.Background(), engine, func(r traffic.Result) {
			fmt.Printf("result\t%s/%s\t%d\t%v\n", engine, r.Name, r.Took.Milliseconds(), r.Err)
		}); err != nil {
			fmt.Println(err)
			code = 1
		}
	}
	return code
}

// A kernel with ip_vs, of the kind that sandboxes have, carries real traffic.
func TestTrafficInGuest(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	init, err := microvm.BuildTest(ctx, t.TempDir(), ".")
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
