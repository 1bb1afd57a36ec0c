package nft

import (
	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"

	"github.com/bulkhead-dev/bulkhead/fence/table"
)

// element is an element of a set as the kernel has it. Strings hold bytes, so that
// elements can be keys of a map.
type element struct {
	key, keyEnd string
	// end marks the first address after a range.
	end bool
}

// Values of elements: none, a verdict without a chain, or jumpTo and a chain.
const (
	passValue = "pass"
	jumpTo    = "jump "
)

// isFixed tells a kind whose sets are named by their content, or change so seldom
// that the whole table may be replaced for it.
func isFixed(kind table.Kind) bool { return kind == table.Networks || kind == table.Ports }

// encode is what the kernel will hold of a set, with the values.
func encode(set *table.Set) map[element]string {
	out := make(map[element]string, len(set.Elements))
	for e, verdict := range set.Elements {
		switch set.Kind {
		case table.Addresses:
			out[element{key: bytesOf(e.From.AsSlice())}] = ""
		case table.Verdicts:
			value := passValue
			if verdict.Action == table.Jump {
				value = jumpTo + verdict.Chain
			}
			out[element{key: bytesOf(e.From.AsSlice())}] = value
		case table.Networks:
			out[element{key: bytesOf(e.From.AsSlice())}] = ""
			if next := e.To.Next(); next.IsValid() {
				out[element{key: bytesOf(next.AsSlice()), end: true}] = ""
			}
		case table.Ports:
			out[element{key: portKey(e.Protocol, e.Port), keyEnd: portKey(e.Protocol, e.PortEnd)}] = ""
		case table.AddressPorts:
			out[element{key: bytesOf(e.From.AsSlice()) + portKey(e.Protocol, e.Port)}] = ""
		case table.Interfaces:
			out[element{key: string(interfaceName(e.Interface))}] = ""
		}
	}
	return out
}

func bytesOf(b []byte) string { return string(b) }

// portKey is protocol and port, each in a register of 4 bytes.
func portKey(protocol uint8, port uint16) string {
	return string([]byte{protocol, 0, 0, 0, byte(port >> 8), byte(port), 0, 0})
}

// interfaceName is a name as the kernel compares it: 16 bytes, filled up with zeros.
func interfaceName(name string) []byte {
	b := make([]byte, 16)
	copy(b, name)
	return b
}

// nft is the element in the form of the library.
func (e element) nft(value string) nftables.SetElement {
	out := nftables.SetElement{Key: []byte(e.key), KeyEnd: []byte(e.keyEnd), IntervalEnd: e.end}
	switch {
	case value == passValue:
		out.VerdictData = &expr.Verdict{Kind: expr.VerdictReturn}
	case value != "":
		out.VerdictData = &expr.Verdict{Kind: expr.VerdictGoto, Chain: value[len(jumpTo):]}
	}
	return out
}

// nftSet is the set in the form of the library.
func (t *transaction) nftSet(set *table.Set) *nftables.Set {
	out := &nftables.Set{Table: t.table, Name: set.Name, KeyByteOrder: binaryutil.BigEndian}
	address := nftables.TypeIPAddr
	if set.Family == 6 {
		address = nftables.TypeIP6Addr
	}
	switch set.Kind {
	case table.Addresses:
		out.KeyType = address
	case table.Verdicts:
		out.KeyType, out.DataType, out.IsMap = address, nftables.TypeVerdict, true
	case table.Networks:
		out.KeyType, out.Interval = address, true
	case table.Ports:
		out.KeyType, out.Interval, out.Concatenation = nftables.MustConcatSetType(nftables.TypeInetProto, nftables.TypeInetService), true, true
	case table.AddressPorts:
		out.KeyType, out.Concatenation = nftables.MustConcatSetType(address, nftables.TypeInetProto, nftables.TypeInetService), true
	case table.Interfaces:
		out.KeyType, out.KeyByteOrder = nftables.TypeIFName, binaryutil.NativeEndian
	}
	return out
}
