package kernel

import (
	"context"
	"fmt"
	"slices"
	"sync"

	"github.com/bulkhead-dev/bulkhead/cri-ext/channel"
	"github.com/bulkhead-dev/bulkhead/cri-ext/kernel/iptables"
	"github.com/bulkhead-dev/bulkhead/cri-ext/kernel/ipvs"
	"github.com/bulkhead-dev/bulkhead/cri-ext/kernel/nftables"
)

// kind is an engine that a kernel may have.
type kind struct {
	// probe tells why the kernel does not have what the engine needs for a family.
	probe func(ctx context.Context, namespace int, family string) error
	open  func(ctx context.Context, namespace int, families []string, options Options) (engine, error)
}

var kinds = map[string]kind{
	"ipvs": {
		probe: ipvs.Probe,
		open: func(ctx context.Context, namespace int, families []string, options Options) (engine, error) {
			return ipvs.Open(ctx, namespace, families, options.PodIPs)
		},
	},
	"nftables": {
		probe: nftables.Probe,
		open: func(_ context.Context, namespace int, families []string, options Options) (engine, error) {
			return nftables.Open(namespace, families, options.Seed)
		},
	},
	"iptables": {
		probe: iptables.Probe,
		open: func(ctx context.Context, namespace int, families []string, options Options) (engine, error) {
			return iptables.Open(ctx, namespace, families, options.Seed)
		},
	},
}

// preference is the order of the engines where the options have none.
var preference = []string{"ipvs", "nftables", "iptables"}

// works notes what was found to work, by engine and family. That is a property of
// the machine's kernel and not of a namespace, and finding out takes longer than
// putting a set in: taking back a trial waits for all processors.
var works sync.Map

func proven(ctx context.Context, namespace int, name, family string, candidate kind) error {
	if _, known := works.Load(name + family); known {
		return nil
	}
	err := candidate.probe(ctx, namespace, family)
	if err == nil {
		works.Store(name+family, true)
	}
	return err
}

// choose picks an engine for each IP family and opens them.
func (k *Kernel) choose(ctx context.Context, options Options) error {
	names := options.Engines
	if len(names) == 0 {
		names = preference
	}
	carried := map[string][]string{}
	for _, family := range []string{IPv4, IPv6} {
		reasons := map[string]string{}
		backend := channel.Backend{Family: family}
		for _, name := range names {
			candidate, known := kinds[name]
			if !known {
				reasons[name] = "there is no such engine"
				continue
			}
			err := proven(ctx, k.namespace, name, family, candidate)
			if ctx.Err() != nil {
				return ctx.Err()
			}
			if err == nil {
				backend.Engine = name
				carried[name] = append(carried[name], family)
				break
			}
			reasons[name] = err.Error()
		}
		if backend.Engine == "" || backend.Engine != names[0] {
			backend.Reason = join(names, reasons)
		}
		k.reasons[family] = reasons
		k.backends = append(k.backends, backend)
	}
	for _, name := range names {
		if carried[name] == nil || slices.ContainsFunc(k.engines, func(o opened) bool { return o.name == name }) {
			continue
		}
		e, err := kinds[name].open(ctx, k.namespace, carried[name], options)
		if err != nil {
			return fmt.Errorf("opening %s: %w", name, err)
		}
		k.engines = append(k.engines, opened{engine: e, name: name})
	}
	return k.findLeftovers(ctx, carried, options)
}

// findLeftovers looks for rules of an engine that was used for a family before, and
// is not now, because the preference has changed since. The first whole set takes
// them away. A namespace never used iptables where it has another engine.
func (k *Kernel) findLeftovers(ctx context.Context, carried map[string][]string, options Options) error {
	for _, name := range []string{"ipvs", "nftables"} {
		var families []string
		for _, family := range []string{IPv4, IPv6} {
			if !slices.Contains(carried[name], family) {
				families = append(families, family)
			}
		}
		if len(families) == 0 {
			continue
		}
		e, err := kinds[name].open(ctx, k.namespace, families, options)
		if err != nil {
			continue // not in this kernel
		}
		services, err := e.Dump(ctx)
		if err == nil && len(services) > 0 {
			k.leftovers = append(k.leftovers, e)
			continue
		}
		e.Close()
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
	return nil
}

func join(names []string, reasons map[string]string) string {
	text := ""
	for _, name := range names {
		if reason, failed := reasons[name]; failed {
			if text != "" {
				text += "; "
			}
			text += name + ": " + reason
		}
	}
	return text
}
