package nftables

import (
	"net/netip"
	"strconv"

	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/bulkhead-dev/bulkhead/cri-ext/kernel/wire"
)

// Table is the name of the one table of each IP family.
const Table = "bulkhead"

// layout is the version of what the table looks like. A table of another layout is
// replaced as a whole.
const layout = 1

// The objects of a table. Services leads from a frontend to the chain of as many
// endpoints as it has, endpoints from a frontend and a number to an endpoint.
const (
	setState      = "state"
	setServices   = "services"
	setEndpoints  = "endpoints"
	setRefused    = "refused"
	chainRedirect = "redirect"
	chainFilter   = "filter"
	chainRanges   = "ranges"
	chainRefuse   = "refuse"
	chainOf       = "of-"
)

// redirectPriority is where destinations are translated (NF_IP_PRI_NAT_DST).
const redirectPriority = -100

// filterPriority is that of the chain that refuses: after the translation (-100),
// so that what still goes to a Service's address is known to have no service, and
// before the filters of the pod's own (0).
const filterPriority = -50

// Types of keys as the nft tool names them, 6 bits each (libnftables, datatype.h).
const (
	typeIPv4     = 7
	typeIPv6     = 8
	typeProtocol = 12
	typeService  = 13
	typeMark     = 19
)

// family is what differs between the IP families.
type family struct {
	name string
	// proto is the netfilter protocol family.
	proto byte
	// words is the length of an address in 32 bit registers.
	words uint32
	// destination is the offset of the destination address in the IP header.
	destination uint32
	addrType    uint32
	icmp        byte
	icmpCode    byte
	v4          bool
}

var families = map[string]*family{
	"IPv4": {name: "IPv4", proto: unix.NFPROTO_IPV4, words: 1, destination: 16, addrType: typeIPv4, icmp: unix.IPPROTO_ICMP, icmpCode: 3, v4: true},
	"IPv6": {name: "IPv6", proto: unix.NFPROTO_IPV6, words: 4, destination: 24, addrType: typeIPv6, icmp: unix.IPPROTO_ICMPV6, icmpCode: 4},
}

func (f *family) keyBytes() int  { return int(4*f.words) + 8 }
func (f *family) dataBytes() int { return int(4*f.words) + 4 }

// Registers of 32 bits. A key begins at the first.
const firstRegister = unix.NFT_REG32_00

func (f *family) protocolRegister() uint32 { return firstRegister + f.words }
func (f *family) portRegister() uint32     { return firstRegister + f.words + 1 }
func (f *family) slotRegister() uint32     { return firstRegister + f.words + 2 }
func (f *family) dataRegister() uint32     { return firstRegister + f.words + 3 }

// batch writes the messages of one transaction.
type batch struct {
	wire.Builder
	table string
}

func newBatch(table string, space int) *batch {
	b := &batch{table: table}
	b.Bytes = make([]byte, 0, space)
	b.Begin(unix.NFNL_MSG_BATCH_BEGIN, 0)
	b.Raw(0, 0, 0, unix.NFNL_SUBSYS_NFTABLES)
	b.End()
	return b
}

// commit ends the transaction. Without it the kernel tries everything, and takes
// it back.
func (b *batch) commit() {
	b.Begin(unix.NFNL_MSG_BATCH_END, 0)
	b.Raw(0, 0, 0, unix.NFNL_SUBSYS_NFTABLES)
	b.End()
}

func (b *batch) begin(f *family, kind, flags uint16) {
	b.Begin(unix.NFNL_SUBSYS_NFTABLES<<8|kind, flags)
	b.Raw(f.proto, 0, 0, 0)
}

func (b *batch) addTable(f *family) {
	b.begin(f, unix.NFT_MSG_NEWTABLE, unix.NLM_F_CREATE)
	b.Text(unix.NFTA_TABLE_NAME, b.table)
	b.Big32(unix.NFTA_TABLE_FLAGS, 0)
	b.End()
}

func (b *batch) removeTable(f *family) {
	b.begin(f, unix.NFT_MSG_DELTABLE, 0)
	b.Text(unix.NFTA_TABLE_NAME, b.table)
	b.End()
}

// addSet adds a set, or a map if it has data. The kernel tells sets of one batch
// apart by id.
func (b *batch) addSet(f *family, name string, id, keyType uint32, keyBytes int, dataType uint32, dataBytes int) {
	b.begin(f, unix.NFT_MSG_NEWSET, unix.NLM_F_CREATE)
	b.Text(unix.NFTA_SET_TABLE, b.table)
	b.Text(unix.NFTA_SET_NAME, name)
	flags := uint32(0)
	if dataType != 0 {
		flags = unix.NFT_SET_MAP
	}
	b.Big32(unix.NFTA_SET_FLAGS, flags)
	b.Big32(unix.NFTA_SET_KEY_TYPE, keyType)
	b.Big32(unix.NFTA_SET_KEY_LEN, uint32(keyBytes))
	b.Big32(unix.NFTA_SET_ID, id)
	if dataType != 0 {
		b.Big32(unix.NFTA_SET_DATA_TYPE, dataType)
		b.Big32(unix.NFTA_SET_DATA_LEN, uint32(dataBytes))
	}
	b.End()
}

// addBase adds a chain that all packets of local origin pass.
func (b *batch) addBase(f *family, name, kind string, priority int32) {
	b.begin(f, unix.NFT_MSG_NEWCHAIN, unix.NLM_F_CREATE)
	b.Text(unix.NFTA_CHAIN_TABLE, b.table)
	b.Text(unix.NFTA_CHAIN_NAME, name)
	hook := b.Nest(unix.NFTA_CHAIN_HOOK)
	b.Big32(unix.NFTA_HOOK_HOOKNUM, unix.NF_INET_LOCAL_OUT)
	b.Big32(unix.NFTA_HOOK_PRIORITY, uint32(priority))
	b.Close(hook)
	b.Big32(unix.NFTA_CHAIN_POLICY, 1) // NF_ACCEPT
	b.Text(unix.NFTA_CHAIN_TYPE, kind)
	b.End()
}

func (b *batch) addChain(f *family, name string) {
	b.begin(f, unix.NFT_MSG_NEWCHAIN, unix.NLM_F_CREATE)
	b.Text(unix.NFTA_CHAIN_TABLE, b.table)
	b.Text(unix.NFTA_CHAIN_NAME, name)
	b.End()
}

func (b *batch) addRule(f *family, chain string, expressions ...expr.Any) {
	b.begin(f, unix.NFT_MSG_NEWRULE, unix.NLM_F_CREATE|unix.NLM_F_APPEND)
	b.Text(unix.NFTA_RULE_TABLE, b.table)
	b.Text(unix.NFTA_RULE_CHAIN, chain)
	list := b.Nest(unix.NFTA_RULE_EXPRESSIONS)
	for _, expression := range expressions {
		encoded, err := expr.Marshal(f.proto, expression)
		if err != nil { // our own expressions: they do not fail
			panic(err)
		}
		b.Attr(unix.NFTA_LIST_ELEM|unix.NLA_F_NESTED, encoded)
	}
	b.Close(list)
	b.End()
}

func (b *batch) flushChain(f *family, chain string) {
	b.begin(f, unix.NFT_MSG_DELRULE, 0)
	b.Text(unix.NFTA_RULE_TABLE, b.table)
	b.Text(unix.NFTA_RULE_CHAIN, chain)
	b.End()
}

// addStructure writes a table in which nothing is a service yet.
func (b *batch) addStructure(f *family) {
	key := f.addrType<<12 | typeProtocol<<6 | typeService
	// Ids are counted apart by family for the sake of whoever reads a trace.
	id := uint32(f.proto) << 8
	b.addSet(f, setState, id+1, typeMark, 4, 0, 0)
	b.addSet(f, setServices, id+2, key, f.keyBytes(), unix.NFT_DATA_VERDICT, 16)
	b.addSet(f, setEndpoints, id+3, key<<6|typeMark, f.keyBytes()+4, f.addrType<<6|typeService, f.dataBytes())
	b.addSet(f, setRefused, id+4, key, f.keyBytes(), 0, 0)
	b.addChain(f, chainRefuse)
	b.addChain(f, chainRanges)
	b.addBase(f, chainRedirect, "nat", redirectPriority)
	b.addBase(f, chainFilter, "filter", filterPriority)

	b.addRefusal(f)
	b.addRule(f, chainRedirect, append(f.loadKey(),
		&expr.Lookup{SourceRegister: firstRegister, DestRegister: unix.NFT_REG_VERDICT, IsDestRegSet: true, SetName: setServices, SetID: id + 2})...)

	b.addRule(f, chainFilter, // what has a connection goes on
		&expr.Ct{Key: expr.CtKeySTATE, Register: firstRegister},
		&expr.Bitwise{SourceRegister: firstRegister, DestRegister: firstRegister, Len: 4, Mask: native32(expr.CtStateBitNEW), Xor: native32(0)},
		&expr.Cmp{Op: expr.CmpOpEq, Register: firstRegister, Data: native32(0)},
		&expr.Verdict{Kind: expr.VerdictAccept})
	b.addRule(f, chainFilter, append(f.loadKey(),
		&expr.Lookup{SourceRegister: firstRegister, SetName: setRefused, SetID: id + 4},
		&expr.Verdict{Kind: expr.VerdictGoto, Chain: chainRefuse})...)
	b.addRule(f, chainFilter, &expr.Verdict{Kind: expr.VerdictJump, Chain: chainRanges})
}

// addRefusal fills the chain that refuses. To TCP only a reset is an answer at once:
// a sender is not ready for an ICMP message while it still sends.
func (b *batch) addRefusal(f *family) {
	b.addRule(f, chainRefuse,
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: firstRegister},
		&expr.Cmp{Op: expr.CmpOpEq, Register: firstRegister, Data: []byte{unix.IPPROTO_TCP}},
		&expr.Reject{Type: unix.NFT_REJECT_TCP_RST})
	b.addRule(f, chainRefuse, &expr.Reject{Type: unix.NFT_REJECT_ICMP_UNREACH, Code: f.icmpCode})
}

// loadKey loads a packet's destination as the key of a frontend.
func (f *family) loadKey() []expr.Any {
	return []expr.Any{
		&expr.Payload{DestRegister: firstRegister, Base: expr.PayloadBaseNetworkHeader, Offset: f.destination, Len: 4 * f.words},
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: f.protocolRegister()},
		&expr.Payload{DestRegister: f.portRegister(), Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
	}
}

// chainName is the chain for frontends of so many endpoints.
func chainName(endpoints int) string { return chainOf + strconv.Itoa(endpoints) }

// addCount adds the chain that picks one of so many endpoints at random.
func (b *batch) addCount(f *family, endpoints int) {
	chain := chainName(endpoints)
	id := uint32(f.proto) << 8
	b.addChain(f, chain)
	b.addRule(f, chain, append(f.loadKey(),
		&expr.Numgen{Register: f.slotRegister(), Modulus: uint32(endpoints), Type: unix.NFT_NG_RANDOM},
		&expr.Lookup{SourceRegister: firstRegister, DestRegister: f.dataRegister(), IsDestRegSet: true, SetName: setEndpoints, SetID: id + 3},
		&expr.NAT{Type: expr.NATTypeDestNAT, Family: uint32(f.proto), RegAddrMin: f.dataRegister(), RegProtoMin: f.dataRegister() + f.words})...)
}

// addRange refuses what goes to the network.
func (b *batch) addRange(f *family, network netip.Prefix) {
	address := network.Masked().Addr().AsSlice()
	mask := make([]byte, len(address))
	for i := range network.Bits() {
		mask[i/8] |= 0x80 >> (i % 8)
	}
	b.addRule(f, chainRanges,
		&expr.Payload{DestRegister: firstRegister, Base: expr.PayloadBaseNetworkHeader, Offset: f.destination, Len: 4 * f.words},
		&expr.Bitwise{SourceRegister: firstRegister, DestRegister: firstRegister, Len: 4 * f.words, Mask: mask, Xor: make([]byte, len(mask))},
		&expr.Cmp{Op: expr.CmpOpEq, Register: firstRegister, Data: address},
		&expr.Verdict{Kind: expr.VerdictGoto, Chain: chainRefuse})
}
