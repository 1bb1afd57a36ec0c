// Command dataplane measures the data plane: how long rules take into a sandbox's
// kernel, a network namespace's and a guest's, what the CRI proxy and the gate add,
// and what the programs take of memory. Injection and memory are measured with
// sandboxes, guests and clusters of its own; proxy, gate and the way from an
// EndpointSlice to a kernel in the embedded cluster, which has to be up. It prints a
// table and writes bench/out/dataplane.json.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	ctrl "sigs.k8s.io/controller-runtime"

	"github.com/go-logr/logr"

	"github.com/bulkhead-dev/bulkhead/internal/ruleset"
	"github.com/bulkhead-dev/bulkhead/internal/testenv"
)

// sizes are the numbers of Services, each with two endpoints, that are measured.
var sizes = []int{100, 1000, 10000}

// bySize are milliseconds by number of Services.
type bySize map[string]float64

// quantiles of a distribution, in milliseconds.
type quantiles struct {
	P50 float64 `json:"p50"`
	P99 float64 `json:"p99"`
}

// result is what is written as JSON.
type result struct {
	Machine string            `json:"machine"`
	Load    string            `json:"load_average"`
	Inject  map[string]bySize `json:"inject_ms"`
	Delta   map[string]bySize `json:"delta_ms"`
	Slice   quantiles         `json:"slice_to_kernel_ms"`
	Gate    quantiles         `json:"gate_added_ms"`
	Proxy   struct {
		P50 float64 `json:"p50"`
	} `json:"proxy_added_us"`
	Memory struct {
		TenantProxy float64 `json:"tenant_proxy"`
		CRIExt      float64 `json:"cri_ext"`
		Agent       float64 `json:"agent"`
	} `json:"rss_mb"`
}

func main() {
	out := flag.String("out", "bench/out/dataplane.json", "file for the figures")
	flag.Parse()
	ctrl.SetLogger(logr.Discard())
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, *out); err != nil {
		fmt.Fprintln(os.Stderr, "bench dataplane:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, out string) error {
	root, err := testenv.Root()
	if err != nil {
		return err
	}
	load, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return err
	}
	r := &result{
		Machine: fmt.Sprintf("%s/%s, %d cores", runtime.GOOS, runtime.GOARCH, runtime.NumCPU()),
		Load:    strings.Fields(string(load))[0],
		Inject:  map[string]bySize{}, Delta: map[string]bySize{},
	}
	for _, part := range []struct {
		name string
		run  func(context.Context, *result) error
	}{
		{"proxy, gate and slices in the embedded cluster", func(ctx context.Context, r *result) error { return measureCluster(ctx, root, r) }},
		{"network namespaces", measureNamespaces},
		{"a guest under emulation", measureGuest},
		{"memory with 10,000 Services", func(ctx context.Context, r *result) error { return measureMemory(ctx, root, r) }},
	} {
		fmt.Printf("measuring %s\n", part.name)
		if err := part.run(ctx, r); err != nil {
			return fmt.Errorf("measuring %s: %w", part.name, err)
		}
	}
	return r.write(out)
}

// write prints the table and writes the file.
func (r *result) write(out string) error {
	fmt.Printf("\n%s, load average %s at the start\n\n", r.Machine, r.Load)
	fmt.Printf("%-36s", "Services, two endpoints each")
	for _, size := range sizes {
		fmt.Printf("%12d", size)
	}
	fmt.Println()
	for _, row := range []struct {
		name string
		from bySize
	}{
		{"whole set into a network namespace", r.Inject["netns"]}, {"whole set into a guest", r.Inject["guest"]},
		{"delta of one into a network namespace", r.Delta["netns"]}, {"delta of one into a guest", r.Delta["guest"]},
	} {
		fmt.Printf("%-36s", row.name)
		for _, size := range sizes {
			fmt.Printf("%9.2f ms", row.from[strconv.Itoa(size)])
		}
		fmt.Println()
	}
	fmt.Printf("\n%-44s p50 %8.2f ms  p99 %8.2f ms\n", "EndpointSlice written to kernel changed", r.Slice.P50, r.Slice.P99)
	fmt.Printf("%-44s p50 %8.2f ms  p99 %8.2f ms\n", "container start held by the gate", r.Gate.P50, r.Gate.P99)
	fmt.Printf("%-44s p50 %8.0f µs\n", "added to a CRI call", r.Proxy.P50)
	fmt.Printf("%-44s tenant-proxy %.0f MB, cri-ext %.0f MB, agent %.0f MB\n", "resident memory at 10,000 Services", r.Memory.TenantProxy, r.Memory.CRIExt, r.Memory.Agent)
	data, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return fmt.Errorf("encoding the figures: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(out), 0o755); err != nil {
		return fmt.Errorf("writing the figures: %w", err)
	}
	if err := os.WriteFile(out, append(data, '\n'), 0o644); err != nil {
		return fmt.Errorf("writing the figures: %w", err)
	}
	return nil
}

// ranges is where the Services' addresses are from.
var ranges = []netip.Prefix{netip.MustParsePrefix("10.96.0.0/16")}

// services makes n of them; the first has its endpoints at the given host number.
func services(n int, first byte) []ruleset.Service {
	list := make([]ruleset.Service, n)
	for i := range list {
		list[i] = ruleset.Service{
			Key: ruleset.Key{Addr: serviceAddress(i), Protocol: ruleset.TCP, Port: 80},
			Endpoints: []netip.AddrPort{
				netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 78, 1, 1}), uint16(1024+i)),
				netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 78, 2, 1}), uint16(1024+i)),
			},
		}
	}
	list[0].Endpoints[0] = netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 78, 3, first}), 80)
	return list
}

func serviceAddress(i int) netip.Addr {
	return netip.AddrFrom4([4]byte{10, 96, byte((i + 256) >> 8), byte(i + 256)})
}

// quantile of a sorted list, by nearest rank.
func quantile(list []time.Duration, q float64) time.Duration {
	slices.Sort(list)
	return list[min(len(list)-1, int(float64(len(list))*q))]
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
