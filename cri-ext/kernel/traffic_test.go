package kernel_test

import (
	"context"
	"os/exec"
	"testing"

	"github.com/bulkhead-dev/bulkhead/cri-ext/kernel"
	"github.com/bulkhead-dev/bulkhead/cri-ext/kernel/traffic"
)

// Every engine that the kernel here has carries real traffic. IPVS does in a guest.
func TestTraffic(t *testing.T) {
	for engine, options := range map[string]traffic.Options{
		"nftables": {Stores: true, Flush: func() error { return exec.Command("nft", "flush", "ruleset").Run() }},
		"iptables": {Stores: true, Services: 2000, Flush: flushIPTables},
	} {
		t.Run(engine, func(t *testing.T) {
			options.Families = []string{kernel.IPv4, kernel.IPv6}
			open := func(ctx context.Context, namespace int, seed uint64) (traffic.Kernel, error) {
				k, err := kernel.Open(ctx, namespace, kernel.Options{Engines: []string{engine}, Seed: seed})
				if err != nil {
					return nil, err
				}
				return k, nil
			}
			err := traffic.Run(t.Context(), open, options, func(r traffic.Result) {
				t.Run(r.Name, func(t *testing.T) {
					t.Logf("took %s", r.Took)
					if r.Err != nil {
						t.Error(r.Err)
					}
				})
			})
			if err != nil {
				t.Fatal(err)
			}
		})
	}
}

func flushIPTables() error {
	for _, command := range []string{"iptables", "ip6tables"} {
		for _, table := range []string{"nat", "filter"} {
			if err := exec.Command(command, "-t", table, "-F").Run(); err != nil {
				return err
			}
		}
	}
	return nil
}
