package nft

import (
	"encoding/binary"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/bulkhead-dev/bulkhead/fence/table"
)

// Verify compares the kernel with what was put into it. It returns what is
// different, in words for a log, and nothing if all is well.
func (k *Kernel) Verify() (drift []string, err error) {
	if k.held == nil {
		return nil, nil // the next Apply replaces everything
	}
	conn, err := k.connect()
	if err != nil {
		return nil, err
	}
	t := nftTable()
	if there, err := exists(conn); err != nil || !there {
		return []string{"the table is missing"}, err
	}
	chains, err := conn.ListChainsOfTableFamily(t.Family)
	if err != nil {
		return nil, fmt.Errorf("listing chains: %w", err)
	}
	present := map[string]bool{}
	for _, chain := range chains {
		if chain.Table.Name == t.Name {
			present[chain.Name] = true
		}
	}
	want := maps.Clone(k.held.chains)
	for name, rules := range fixedRules() {
		want[name] = rules
	}
	for name := range present {
		if _, known := want[name]; !known {
			drift = append(drift, "chain "+name+" is there")
		}
	}
	for _, name := range slices.Sorted(maps.Keys(want)) {
		if !present[name] {
			drift = append(drift, "chain "+name+" is missing")
			continue
		}
		rules, err := readRules(conn, t, name)
		if err != nil {
			return drift, err
		}
		if !slices.Equal(rules, comments(want[name])) {
			drift = append(drift, "chain "+name+" has other rules")
		}
	}
	sets, err := readSets(conn, t)
	if err != nil {
		return drift, err
	}
	for name := range sets {
		if k.held.sets[name] == nil {
			drift = append(drift, "set "+name+" is there")
		}
	}
	for _, name := range slices.Sorted(maps.Keys(k.held.sets)) {
		if elements, there := sets[name]; !there {
			drift = append(drift, "set "+name+" is missing")
		} else if !maps.Equal(elements, k.held.sets[name]) {
			drift = append(drift, "set "+name+" has other elements")
		}
	}
	return drift, nil
}

// exists tells whether the kernel has our table at all.
func exists(conn *nftables.Conn) (bool, error) {
	tables, err := conn.ListTablesOfFamily(nftTable().Family)
	if err != nil {
		return false, fmt.Errorf("listing tables: %w", err)
	}
	return slices.ContainsFunc(tables, func(t *nftables.Table) bool { return t.Name == TableName }), nil
}

// fixedRules are the texts of the rules that never change.
func fixedRules() map[string][]string {
	// Nothing is sent on this connection.
	recorder := &transaction{table: nftTable(), recorded: map[string][]string{}}
	recorder.endings()
	recorder.hooks()
	return recorder.recorded
}

func comments(texts []string) []string {
	out := make([]string, 0, len(texts))
	for _, text := range texts {
		out = append(out, comment(text))
	}
	return out
}

func readRules(conn *nftables.Conn, t *nftables.Table, chain string) ([]string, error) {
	rules, err := conn.GetRules(t, &nftables.Chain{Table: t, Name: chain})
	if err != nil {
		return nil, fmt.Errorf("reading chain %s: %w", chain, err)
	}
	texts := make([]string, 0, len(rules))
	for _, rule := range rules {
		text, _ := userdata.GetString(rule.UserData, userdata.TypeComment)
		texts = append(texts, text)
	}
	return texts, nil
}

func readSets(conn *nftables.Conn, t *nftables.Table) (map[string]map[element]string, error) {
	sets, err := conn.GetSets(t)
	if err != nil {
		return nil, fmt.Errorf("listing sets: %w", err)
	}
	out := map[string]map[element]string{}
	for _, set := range sets {
		if set.Anonymous {
			continue
		}
		set.Table = t
		elements, err := conn.GetSetElements(set)
		if err != nil {
			return nil, fmt.Errorf("reading set %s: %w", set.Name, err)
		}
		out[set.Name] = map[element]string{}
		for _, e := range elements {
			out[set.Name][element{key: string(e.Key), keyEnd: string(e.KeyEnd), end: e.IntervalEnd}] = valueOf(e.Val)
		}
	}
	return out, nil
}

// valueOf reads the verdict of an element, which the library leaves as it came.
func valueOf(data []byte) string {
	if len(data) == 0 {
		return ""
	}
	attributes, err := netlink.NewAttributeDecoder(data)
	if err != nil {
		return "unreadable"
	}
	attributes.ByteOrder = binary.BigEndian
	value := ""
	for attributes.Next() {
		switch attributes.Type() {
		case unix.NFTA_VERDICT_CODE:
			if expr.VerdictKind(int32(attributes.Uint32())) == expr.VerdictReturn {
				value = passValue
			}
		case unix.NFTA_VERDICT_CHAIN:
			value = jumpTo + strings.TrimRight(attributes.String(), "\x00")
		}
	}
	return value
}

// Dropped reads how many packets were dropped since the table was made anew, by
// reason. There are none without a table.
func (k *Kernel) Dropped() (map[string]uint64, error) {
	conn, err := k.connect()
	if err != nil {
		return nil, err
	}
	if there, err := exists(conn); err != nil || !there {
		return nil, err
	}
	objects, err := conn.GetNamedObjects(nftTable())
	if err != nil {
		return nil, fmt.Errorf("reading the counters of table %s: %w", TableName, err)
	}
	dropped := map[string]uint64{}
	for _, object := range objects {
		if named, ok := object.(*nftables.NamedObj); ok && slices.Contains(table.Counters, named.Name) {
			if c, ok := named.Obj.(*expr.Counter); ok {
				dropped[named.Name] = c.Packets
			}
		}
	}
	return dropped, nil
}
