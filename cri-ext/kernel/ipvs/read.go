package ipvs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/bulkhead-dev/bulkhead/cri-ext/kernel/held"
	"github.com/bulkhead-dev/bulkhead/cri-ext/kernel/wire"
	"github.com/bulkhead-dev/bulkhead/internal/ruleset"
)

// carries tells whether a key is of the engine's families.
func (e *Engine) carries(key ruleset.Key) bool {
	family := "IPv6"
	if key.Addr.Is4() {
		family = "IPv4"
	}
	return slices.Contains(e.families, family)
}

// all reads the whole table. The kernel writes it as text in one go for thousands of
// services, but where it goes on after a page it counts the services of other network
// namespaces on one occasion and not on the other, and leaves out as many of ours. Its
// list of services alone is whole, and what the text lacks is read one by one.
func (e *Engine) all(ctx context.Context) (map[ruleset.Key]*virtual, error) {
	var keys []ruleset.Key
	b := e.batch()
	b.list()
	err := e.genl.Read(ctx, b.Bytes, func(_ uint16, data []byte) error {
		if key, ok := parseKey(data); ok {
			keys = append(keys, key)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("listing the virtual services: %w", err)
	}
	table, err := e.text(ctx)
	if err != nil {
		return nil, err
	}
	missing := slices.DeleteFunc(keys, func(key ruleset.Key) bool { return table[key] != nil })
	rest, err := e.each(ctx, missing)
	if err != nil {
		return nil, err
	}
	maps.Copy(table, rest)
	for key := range table {
		if !e.carries(key) || key.Port == 0 {
			delete(table, key)
		}
	}
	return table, nil
}

// text reads what the kernel writes of its table as text.
func (e *Engine) text(ctx context.Context) (map[ruleset.Key]*virtual, error) {
	var text []byte
	err := wire.Inside(e.namespace, func() (err error) {
		text, err = os.ReadFile("/proc/thread-self/net/ip_vs")
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("reading the kernel's ip_vs table: %w", err)
	}
	return parseTable(bytes.Clone(text), func(key ruleset.Key, ticks uint64) (uint64, error) {
		if e.second != 0 {
			return e.second, nil
		}
		v, err := e.service(ctx, key)
		if err == nil && v != nil && v.persistence > 0 {
			e.second = ticks / uint64(v.persistence)
		}
		return max(1, e.second), err
	})
}

// some reads the virtual services of the keys.
func (e *Engine) some(ctx context.Context, keys []ruleset.Key) (map[ruleset.Key]*virtual, error) {
	if len(keys) > few {
		return e.all(ctx)
	}
	return e.each(ctx, keys)
}

// each reads virtual services one by one.
func (e *Engine) each(ctx context.Context, keys []ruleset.Key) (map[ruleset.Key]*virtual, error) {
	table := map[ruleset.Key]*virtual{}
	for _, key := range keys {
		v, err := e.service(ctx, key)
		if err != nil {
			return nil, err
		}
		if v == nil {
			continue
		}
		table[key] = v
		b := e.batch()
		b.get(cmdGetDest, key, unix.NLM_F_DUMP)
		err = e.genl.Read(ctx, b.Bytes, func(_ uint16, data []byte) error {
			if endpoint, s, ok := parseDest(data, key); ok {
				v.servers[endpoint] = s
			}
			return nil
		})
		if err != nil {
			return nil, fmt.Errorf("listing the servers of %s: %w", key, err)
		}
	}
	return table, nil
}

// service reads a virtual service without its servers, nil if it is not there.
func (e *Engine) service(ctx context.Context, key ruleset.Key) (*virtual, error) {
	b := e.batch()
	b.get(cmdGetService, key, unix.NLM_F_ACK)
	var v *virtual
	err := e.genl.Read(ctx, b.Bytes, func(_ uint16, data []byte) error {
		if persistence, ok := parseService(data); ok {
			v = &virtual{persistence: persistence, servers: map[netip.AddrPort]server{}}
		}
		return nil
	})
	if err != nil && !errors.Is(err, unix.ESRCH) {
		return nil, fmt.Errorf("reading %s: %w", key, err)
	}
	return v, nil
}

// list turns the kernel's table into services, in the order of keys.
func list(table map[ruleset.Key]*virtual) []ruleset.Service {
	services := make([]ruleset.Service, 0, len(table))
	for key, v := range table {
		if v.persistence == mark {
			continue
		}
		service := ruleset.Service{Key: key, Affinity: v.persistence}
		for endpoint, s := range v.servers {
			if s.weight > 0 {
				service.Endpoints = append(service.Endpoints, endpoint)
			}
		}
		slices.SortFunc(service.Endpoints, netip.AddrPort.Compare)
		services = append(services, service)
	}
	slices.SortFunc(services, func(a, b ruleset.Service) int { return a.Compare(b.Key) })
	return services
}

// Dump reads the services from the kernel, in the order of keys.
func (e *Engine) Dump(ctx context.Context) ([]ruleset.Service, error) {
	table, err := e.all(ctx)
	if err != nil {
		return nil, err
	}
	return list(table), nil
}

func (e *Engine) differences(set *ruleset.Set, have map[ruleset.Key]*virtual) int {
	want := slices.DeleteFunc(slices.Clone(set.Services()), func(s ruleset.Service) bool { return !e.carries(s.Key) })
	got := list(have)
	return held.Differences(want, got, func(w *ruleset.Service, j int) bool {
		return w.Affinity == got[j].Affinity && slices.Equal(w.Endpoints, got[j].Endpoints)
	})
}
