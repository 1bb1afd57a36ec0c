package nft

import (
	"encoding/binary"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/bulkhead-dev/bulkhead/fence/table"
)

// Names of the chains that never change.
const (
	chainSource  = "source"
	chainCheck   = "source-check"
	chainEgress  = "egress"
	chainNode    = "egress-to-node"
	chainIngress = "ingress"
	chainRefuse  = "refuse"
)

// Egress and ingress have a hook each, one after the other, so that what ends one
// does not end the other.
const (
	priorityEgress  nftables.ChainPriority = -8
	priorityIngress nftables.ChainPriority = -7
)

// hooks is the way of a packet to the maps of local pods:
//
//	prerouting  is its source address that of the interface it came in by?
//	forward     what the sender may send, then what the receiver may receive
//	input       what the sender may send to this node itself
//
// What the node itself sends is in none of these hooks. The replies of connections
// pass; the other direction of them is judged packet by packet, so that a change of
// policy holds for open connections at once.
func (t *transaction) hooks() {
	t.hook(chainSource, nftables.ChainHookPrerouting, *nftables.ChainPriorityRaw)
	t.rule(chainSource, "loopback", t.inInterface("lo", acceptance())...)
	t.rule(chainSource, "duplicate address detection has no source yet", append(ofFamily(6),
		address(6, true, register),
		&expr.Cmp{Op: expr.CmpOpEq, Register: register, Data: make([]byte, 16)}, acceptance())...)
	for _, family := range table.Families {
		t.rule(chainSource, "pods' addresses come from pods' interfaces", append(ofFamily(family),
			address(family, true, register),
			&expr.Lookup{SourceRegister: register, SetName: table.Named(table.PodNetworks, family)},
			&expr.Verdict{Kind: expr.VerdictGoto, Chain: chainCheck})...)
	}
	t.rule(chainSource, "other addresses come from outside", t.interfaceIn(expr.MetaKeyIIFNAME, acceptance())...)
	t.rule(chainSource, "or are the pod's", &expr.Verdict{Kind: expr.VerdictGoto, Chain: chainCheck})

	t.hook(chainEgress, nftables.ChainHookForward, priorityEgress)
	t.replies(chainEgress)
	t.lookup(chainEgress, table.From, true)
	t.rule(chainEgress, "not from a pod", t.interfaceIn(expr.MetaKeyIIFNAME, acceptance())...)
	t.rule(chainEgress, "from a pod that is not known yet", drop(table.CounterUnknown)...)

	t.hook(chainNode, nftables.ChainHookInput, priorityEgress)
	t.rule(chainNode, "loopback", t.inInterface("lo", acceptance())...)
	t.replies(chainNode)
	for _, kind := range []byte{icmp6NeighborSolicitation, icmp6NeighborAdvertisement} {
		t.rule(chainNode, "neighbor discovery",
			&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: register},
			&expr.Cmp{Op: expr.CmpOpEq, Register: register, Data: []byte{unix.IPPROTO_ICMPV6}},
			&expr.Payload{DestRegister: register, Base: expr.PayloadBaseTransportHeader, Offset: 0, Len: 1},
			&expr.Cmp{Op: expr.CmpOpEq, Register: register, Data: []byte{kind}}, acceptance())
	}
	t.lookup(chainNode, table.From, true)
	t.rule(chainNode, "not from a pod", t.interfaceIn(expr.MetaKeyIIFNAME, acceptance())...)
	t.rule(chainNode, "from a pod that is not known yet", drop(table.CounterUnknown)...)

	t.hook(chainIngress, nftables.ChainHookForward, priorityIngress)
	t.replies(chainIngress)
	t.lookup(chainIngress, table.To, false)
	t.rule(chainIngress, "not to a pod", t.interfaceIn(expr.MetaKeyOIFNAME, acceptance())...)
	t.rule(chainIngress, "to a pod that is not known yet", drop(table.CounterUnknown)...)
}

// endings are chains that others go to for their last word.
func (t *transaction) endings() {
	if t.recorded == nil {
		for _, name := range []string{chainCheck, chainRefuse} {
			t.conn.AddChain(&nftables.Chain{Table: t.table, Name: name})
		}
	}
	t.rule(chainCheck, "drop a source that its interface has no route to", append([]expr.Any{
		&expr.Fib{Register: register, FlagSADDR: true, FlagIIF: true, ResultOIF: true, FlagPRESENT: true},
		&expr.Cmp{Op: expr.CmpOpEq, Register: register, Data: []byte{0}},
	}, drop(table.CounterSpoofed)...)...)
	// The kernel sends few ICMP messages to one address, so TCP has its own way.
	t.rule(chainRefuse, "reset TCP",
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: register},
		&expr.Cmp{Op: expr.CmpOpEq, Register: register, Data: []byte{unix.IPPROTO_TCP}},
		&expr.Reject{Type: unix.NFT_REJECT_TCP_RST})
	t.rule(chainRefuse, "say that it is prohibited",
		&expr.Reject{Type: unix.NFT_REJECT_ICMPX_UNREACH, Code: unix.NFT_REJECT_ICMPX_ADMIN_PROHIBITED})
}

// Types of ICMPv6 (RFC 4861) by which neighbors find each other.
const (
	icmp6NeighborSolicitation  = 135
	icmp6NeighborAdvertisement = 136
)

func (t *transaction) hook(name string, at *nftables.ChainHook, priority nftables.ChainPriority) {
	if t.recorded != nil {
		return
	}
	policy := nftables.ChainPolicyAccept
	t.conn.AddChain(&nftables.Chain{Table: t.table, Name: name, Type: nftables.ChainTypeFilter, Hooknum: at, Priority: &priority, Policy: &policy})
}

func acceptance() expr.Any { return &expr.Verdict{Kind: expr.VerdictAccept} }

// replies lets pass what answers to a connection that was let through, and the
// errors that belong to one.
func (t *transaction) replies(chain string) {
	state := func(bits uint32) []expr.Any {
		mask := binary.NativeEndian.AppendUint32(nil, bits)
		return []expr.Any{
			&expr.Ct{Key: expr.CtKeySTATE, Register: register},
			&expr.Bitwise{SourceRegister: register, DestRegister: register, Len: 4, Mask: mask, Xor: make([]byte, 4)},
			&expr.Cmp{Op: expr.CmpOpNeq, Register: register, Data: make([]byte, 4)},
		}
	}
	t.rule(chain, "replies", append(state(expr.CtStateBitESTABLISHED),
		&expr.Ct{Key: expr.CtKeyDIRECTION, Register: register},
		&expr.Cmp{Op: expr.CmpOpEq, Register: register, Data: []byte{ctDirectionReply}}, acceptance())...)
	t.rule(chain, "errors of connections", append(state(expr.CtStateBitRELATED), acceptance())...)
}

// ctDirectionReply is the kernel's number of the direction from server to client.
const ctDirectionReply = 1

// lookup goes where the map of local pods says.
func (t *transaction) lookup(chain, set string, source bool) {
	for _, family := range table.Families {
		t.rule(chain, set+" a pod", append(ofFamily(family), address(family, source, register),
			&expr.Lookup{SourceRegister: register, DestRegister: unix.NFT_REG_VERDICT, IsDestRegSet: true, SetName: table.Named(set, family)})...)
	}
}

func (t *transaction) inInterface(name string, verdict expr.Any) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: register},
		&expr.Cmp{Op: expr.CmpOpEq, Register: register, Data: interfaceName(name)}, verdict,
	}
}

// interfaceIn holds for interfaces that no local pod is behind.
func (t *transaction) interfaceIn(key expr.MetaKey, verdict expr.Any) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: key, Register: register},
		&expr.Lookup{SourceRegister: register, SetName: table.Outside}, verdict,
	}
}
