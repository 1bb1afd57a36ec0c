package nftables

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/bulkhead-dev/bulkhead/cri-ext/kernel/affinity"
	"github.com/bulkhead-dev/bulkhead/cri-ext/kernel/held"
	"github.com/bulkhead-dev/bulkhead/cri-ext/kernel/wire"
	"github.com/bulkhead-dev/bulkhead/internal/ruleset"
)

// dumpTries is how often a dump is read again whose parts do not fit: something
// changed in between, or the kernel was just growing a table.
const dumpTries = 4

// content is what one family's table holds.
type content struct {
	state held.Part
	// services are in the order of keys, their endpoints in that of their numbers.
	services []ruleset.Service
	// used is how many endpoints of each service are picked from.
	used []int
}

// errInconsistent says that a table's parts do not fit one another.
var errInconsistent = errors.New("the table's parts do not fit one another")

// Adopt returns what an earlier process left, nil if there is nothing, or nothing
// that is whole.
func (e *Engine) Adopt(ctx context.Context) (*held.Part, error) {
	generation, err := e.kernelGeneration(ctx)
	if err != nil {
		return nil, err
	}
	var parts []*held.Part
	for i, f := range e.families {
		c, err := e.content(ctx, f)
		switch {
		case errors.Is(err, unix.ENOENT), errors.Is(err, errInconsistent):
			return nil, nil // no table, or not one of ours as it should be
		case err != nil:
			return nil, err
		}
		for j := range c.services {
			service := &c.services[j]
			if service.Affinity > 0 && len(service.Endpoints) > 0 {
				e.choices.Keep(service.Key, service.Endpoints[0])
				slices.SortFunc(service.Endpoints, netip.AddrPort.Compare)
			}
		}
		counts := map[int]bool{}
		good, err := e.structure(ctx, f, len(c.state.Ranges), counts)
		if err != nil {
			return nil, err
		}
		if !good {
			return nil, nil
		}
		if e.tables[i].structure, err = e.fingerprint(ctx, f); err != nil {
			return nil, err
		}
		e.tables[i].counts = counts
		c.state.Services = c.services
		parts = append(parts, &c.state)
	}
	all := *parts[0]
	for _, part := range parts[1:] {
		if part.Generation != all.Generation || part.Digest != all.Digest || part.Tenant != all.Tenant {
			return nil, nil
		}
		all.Ranges, all.Services = append(all.Ranges, part.Ranges...), append(all.Services, part.Services...)
	}
	after, err := e.kernelGeneration(ctx)
	if err != nil {
		return nil, err
	}
	if after == generation {
		e.generation = generation
	}
	return &all, nil
}

// Dump reads the services from the kernel, in the order of keys.
func (e *Engine) Dump(ctx context.Context) ([]ruleset.Service, error) {
	var services []ruleset.Service
	for _, f := range e.families {
		c, err := e.content(ctx, f)
		if errors.Is(err, unix.ENOENT) {
			continue
		}
		if err != nil && !errors.Is(err, errInconsistent) {
			return nil, err
		}
		for i := range c.services {
			slices.SortFunc(c.services[i].Endpoints, netip.AddrPort.Compare)
		}
		services = append(services, c.services...)
	}
	return services, nil
}

// compare returns how many services the kernel does not hold as the set has them.
// right tells that everything else is as it should be, too.
func (e *Engine) compare(ctx context.Context, set *ruleset.Set) (wrong int, right bool, err error) {
	right = true
	for i, f := range e.families {
		want, ranges := held.Services(set.Services(), f.v4), held.Ranges(set.Ranges(), f.v4)
		got, err := e.content(ctx, f)
		switch {
		case errors.Is(err, unix.ENOENT):
			wrong, right = wrong+len(want), false
			continue
		case errors.Is(err, errInconsistent):
			right = false
		case err != nil:
			return 0, false, err
		}
		wrong += held.Differences(want, got.services, func(w *ruleset.Service, j int) bool {
			return w.Affinity == got.services[j].Affinity && used(w) == got.used[j] &&
				slices.Equal(affinity.Order(w, e.choices.Get(w.Key)), got.services[j].Endpoints)
		})
		structure, err := e.fingerprint(ctx, f)
		if err != nil {
			return 0, false, err
		}
		right = right && wrong == 0 && structure == e.tables[i].structure && got.state.Digest == set.Digest() &&
			got.state.Generation == set.Generation() && slices.Equal(got.state.Ranges, ranges)
	}
	return wrong, right, nil
}

// content reads a family's table. With errInconsistent it returns what there is.
func (e *Engine) content(ctx context.Context, f *family) (*content, error) {
	for try := 1; ; try++ {
		c, err := e.readContent(ctx, f)
		if (errors.Is(err, errInconsistent) || errors.Is(err, wire.ErrInterrupted)) && try < dumpTries {
			continue
		}
		return c, err
	}
}

// slot is an element of the map of endpoints.
type slot struct {
	key      ruleset.Key
	number   uint32
	endpoint netip.AddrPort
}

func (e *Engine) readContent(ctx context.Context, f *family) (*content, error) {
	c := &content{}
	fits := true
	err := e.elements(ctx, f, setState, func(el element) {
		fits = fits && len(el.key) == 4 && readState(&c.state, binary.NativeEndian.Uint32(el.key), el.comment) == nil
	})
	if err != nil {
		return nil, err
	}
	slices.SortFunc(c.state.Ranges, func(a, b netip.Prefix) int {
		return cmp.Or(a.Addr().Compare(b.Addr()), cmp.Compare(a.Bits(), b.Bits()))
	})
	type frontend struct {
		service ruleset.Service
		used    int
	}
	var frontends []frontend
	take := func(el element, count int) {
		key, ok := f.parseKey(el.key)
		seconds, err := parseAffinity(el.comment)
		if !ok || err != nil || count < 0 {
			fits = false
			return
		}
		frontends = append(frontends, frontend{ruleset.Service{Key: key, Affinity: seconds}, count})
	}
	err = e.elements(ctx, f, setServices, func(el element) { take(el, parseCount(el.chain)) })
	if err != nil {
		return nil, err
	}
	err = e.elements(ctx, f, setRefused, func(el element) { take(el, 0) })
	if err != nil {
		return nil, err
	}
	slices.SortFunc(frontends, func(a, b frontend) int { return a.service.Compare(b.service.Key) })
	var endpoints []slot
	err = e.elements(ctx, f, setEndpoints, func(el element) {
		s, ok := f.parseSlot(el)
		if !ok {
			fits = false
			return
		}
		endpoints = append(endpoints, s)
	})
	if err != nil {
		return nil, err
	}
	slices.SortFunc(endpoints, func(a, b slot) int { return cmp.Or(a.key.Compare(b.key), cmp.Compare(a.number, b.number)) })

	c.services, c.used = make([]ruleset.Service, 0, len(frontends)), make([]int, 0, len(frontends))
	all := make([]netip.AddrPort, 0, len(endpoints))
	for i := range frontends {
		service := frontends[i].service
		if i > 0 && frontends[i-1].service.Key == service.Key {
			fits = false
			continue
		}
		for len(endpoints) > 0 && endpoints[0].key.Compare(service.Key) < 0 {
			fits, endpoints = false, endpoints[1:] // of no frontend
		}
		begin := len(all)
		for len(endpoints) > 0 && endpoints[0].key == service.Key {
			fits = fits && int(endpoints[0].number) == len(all)-begin
			all, endpoints = append(all, endpoints[0].endpoint), endpoints[1:]
		}
		if begin < len(all) {
			service.Endpoints = all[begin:len(all):len(all)]
		}
		fits = fits && used(&service) == frontends[i].used
		c.services, c.used = append(c.services, service), append(c.used, frontends[i].used)
	}
	if !fits || len(endpoints) > 0 {
		return c, errInconsistent
	}
	return c, nil
}

// element is one of a set or map as the kernel lists it.
type element struct {
	key, data []byte
	chain     string
	comment   string
}

// elements lists a set. What the function gets is valid until it returns.
func (e *Engine) elements(ctx context.Context, f *family, set string, take func(element)) error {
	b := &batch{table: Table}
	b.begin(f, unix.NFT_MSG_GETSETELEM, unix.NLM_F_DUMP)
	b.Text(unix.NFTA_SET_ELEM_LIST_TABLE, Table)
	b.Text(unix.NFTA_SET_ELEM_LIST_SET, set)
	b.End()
	err := e.socket.Read(ctx, b.Bytes, func(kind uint16, data []byte) error {
		if kind != unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_NEWSETELEM {
			return nil
		}
		return parseElements(data, take)
	})
	if err != nil {
		return fmt.Errorf("listing %s of table %s: %w", set, Table, err)
	}
	return nil
}

// parseElements takes apart a message that lists elements.
func parseElements(data []byte, take func(element)) error {
	if len(data) < 4 {
		return errors.New("message without header")
	}
	rest := wire.Find(data[4:], unix.NFTA_SET_ELEM_LIST_ELEMENTS)
	for len(rest) > 0 {
		var kind uint16
		var value []byte
		var ok bool
		if kind, value, rest, ok = wire.Attributes(rest); !ok {
			return errors.New("elements that are cut off")
		}
		if kind == unix.NFTA_LIST_ELEM {
			take(parseElement(value))
		}
	}
	return nil
}

func parseElement(data []byte) (el element) {
	for len(data) > 0 {
		kind, value, rest, ok := wire.Attributes(data)
		if !ok {
			break
		}
		data = rest
		switch kind {
		case unix.NFTA_SET_ELEM_KEY:
			el.key = wire.Find(value, unix.NFTA_DATA_VALUE)
		case unix.NFTA_SET_ELEM_DATA:
			el.data = wire.Find(value, unix.NFTA_DATA_VALUE)
			verdict := wire.Find(value, unix.NFTA_DATA_VERDICT)
			if code := wire.Find(verdict, unix.NFTA_VERDICT_CODE); len(code) == 4 && binary.BigEndian.Uint32(code) == verdictGoto {
				el.chain = string(bytes.TrimRight(wire.Find(verdict, unix.NFTA_VERDICT_CHAIN), "\x00"))
			}
		case unix.NFTA_SET_ELEM_USERDATA:
			if len(value) >= 2 && value[0] == commentData && int(value[1]) <= len(value)-2 {
				el.comment = string(bytes.TrimRight(value[2:2+int(value[1])], "\x00"))
			}
		}
	}
	return el
}

func parseCount(chain string) int {
	digits, found := strings.CutPrefix(chain, chainOf)
	count, err := strconv.Atoi(digits)
	if !found || err != nil || count < 1 || chainName(count) != chain {
		return -1
	}
	return count
}

func parseAffinity(comment string) (uint32, error) {
	digits, found := strings.CutPrefix(comment, affinityComment)
	if !found {
		return 0, nil
	}
	seconds, err := strconv.ParseUint(digits, 10, 32)
	return uint32(seconds), err
}

func (f *family) parseAddr(data []byte) netip.Addr {
	addr, _ := netip.AddrFromSlice(data[:4*f.words])
	return addr
}

func (f *family) parseKey(data []byte) (ruleset.Key, bool) {
	if len(data) != f.keyBytes() {
		return ruleset.Key{}, false
	}
	rest := data[4*f.words:]
	return ruleset.Key{Addr: f.parseAddr(data), Protocol: ruleset.Protocol(rest[0]), Port: binary.BigEndian.Uint16(rest[4:])}, true
}

func (f *family) parseSlot(el element) (slot, bool) {
	if len(el.key) != f.keyBytes()+4 || len(el.data) != f.dataBytes() {
		return slot{}, false
	}
	key, ok := f.parseKey(el.key[:f.keyBytes()])
	endpoint := netip.AddrPortFrom(f.parseAddr(el.data), binary.BigEndian.Uint16(el.data[4*f.words:]))
	return slot{key: key, number: binary.NativeEndian.Uint32(el.key[f.keyBytes():]), endpoint: endpoint}, ok
}

// kernelGeneration is how often the namespace's rules were changed.
func (e *Engine) kernelGeneration(ctx context.Context) (uint32, error) {
	var b wire.Builder
	b.Begin(unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_GETGEN, unix.NLM_F_ACK)
	b.Raw(0, 0, 0, 0)
	b.End()
	generation := uint32(0)
	err := e.socket.Read(ctx, b.Bytes, func(_ uint16, data []byte) error {
		if len(data) >= 4 {
			if id := wire.Find(data[4:], unix.NFTA_GEN_ID); len(id) == 4 {
				generation = binary.BigEndian.Uint32(id)
			}
		}
		return nil
	})
	if err != nil {
		return 0, fmt.Errorf("reading the generation of nftables: %w", err)
	}
	return generation, nil
}

// fingerprint covers the table's chains and rules, with the handles that the kernel
// gives out once only: while it stays, they are the same ones.
func (e *Engine) fingerprint(ctx context.Context, f *family) (uint64, error) {
	sum := fnv.New64a()
	for _, what := range []struct {
		get, table uint16
		parts      []uint16
	}{
		{unix.NFT_MSG_GETTABLE, unix.NFTA_TABLE_NAME, []uint16{unix.NFTA_TABLE_FLAGS}},
		{unix.NFT_MSG_GETCHAIN, unix.NFTA_CHAIN_TABLE, []uint16{unix.NFTA_CHAIN_NAME, unix.NFTA_CHAIN_HANDLE, unix.NFTA_CHAIN_HOOK, unix.NFTA_CHAIN_POLICY, unix.NFTA_CHAIN_TYPE}},
		{unix.NFT_MSG_GETRULE, unix.NFTA_RULE_TABLE, []uint16{unix.NFTA_RULE_CHAIN, unix.NFTA_RULE_HANDLE, unix.NFTA_RULE_EXPRESSIONS}},
	} {
		err := e.objects(ctx, f, what.get, what.table, func(data []byte) {
			for _, part := range what.parts {
				sum.Write(wire.Find(data, part))
				sum.Write([]byte{0xff})
			}
		})
		if err != nil {
			return 0, err
		}
	}
	return max(1, sum.Sum64()), nil
}

// structure tells whether the chains and rules of a table are there that a rule set
// with so many ranges has, and notes the chains for numbers of endpoints.
func (e *Engine) structure(ctx context.Context, f *family, ranges int, counts map[int]bool) (bool, error) {
	hooks := 0
	err := e.objects(ctx, f, unix.NFT_MSG_GETCHAIN, unix.NFTA_CHAIN_TABLE, func(data []byte) {
		hook := wire.Find(data, unix.NFTA_CHAIN_HOOK)
		number, priority := wire.Find(hook, unix.NFTA_HOOK_HOOKNUM), wire.Find(hook, unix.NFTA_HOOK_PRIORITY)
		if len(number) != 4 || len(priority) != 4 || binary.BigEndian.Uint32(number) != unix.NF_INET_LOCAL_OUT {
			return
		}
		name, at := text(wire.Find(data, unix.NFTA_CHAIN_NAME)), int32(binary.BigEndian.Uint32(priority))
		if name == chainRedirect && at == redirectPriority || name == chainFilter && at == filterPriority {
			hooks++
		}
	})
	if err != nil {
		return false, err
	}
	rules := map[string]int{}
	err = e.objects(ctx, f, unix.NFT_MSG_GETRULE, unix.NFTA_RULE_TABLE, func(data []byte) {
		chain := text(wire.Find(data, unix.NFTA_RULE_CHAIN))
		rules[chain]++
		if count := parseCount(chain); count > 0 {
			counts[count] = true
		}
	})
	if err != nil {
		return false, err
	}
	for chain, want := range map[string]int{chainRefuse: 2, chainRedirect: 1, chainFilter: 3, chainRanges: ranges} {
		if rules[chain] != want {
			return false, nil
		}
	}
	for count := range counts {
		if rules[chainName(count)] != 1 {
			return false, nil
		}
	}
	return hooks == 2, nil
}

func text(data []byte) string { return string(bytes.TrimRight(data, "\x00")) }

// objects lists tables, chains or rules of our table.
func (e *Engine) objects(ctx context.Context, f *family, get, tableAttribute uint16, take func(data []byte)) error {
	for try := 1; ; try++ {
		b := &batch{table: Table}
		b.begin(f, get, unix.NLM_F_DUMP)
		if get == unix.NFT_MSG_GETRULE {
			b.Text(tableAttribute, Table)
		}
		b.End()
		var found [][]byte
		err := e.socket.Read(ctx, b.Bytes, func(_ uint16, data []byte) error {
			if len(data) >= 4 && text(wire.Find(data[4:], tableAttribute)) == Table {
				found = append(found, bytes.Clone(data[4:]))
			}
			return nil
		})
		if errors.Is(err, wire.ErrInterrupted) && try < dumpTries {
			continue
		}
		if err != nil {
			return fmt.Errorf("listing the structure of table %s: %w", Table, err)
		}
		for _, data := range found {
			take(data)
		}
		return nil
	}
}
