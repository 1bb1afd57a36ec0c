package nftables

import (
	"context"
	"fmt"
	"net/netip"

	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/bulkhead-dev/bulkhead/cri-ext/kernel/wire"
	"github.com/bulkhead-dev/bulkhead/internal/ruleset"
)

// guardTable refuses what another engine has not translated.
const guardTable = Table + "-guard"

// chainBefore is where the guard refuses frontends, before IPVS sees them (-99).
const (
	chainBefore    = "before"
	beforePriority = -150
)

// Guard stands in for what IPVS does not do: it refuses new connections to the
// frontends without endpoints, which IPVS would leave unanswered, and what still goes
// to the networks once IPVS has passed it over, such as a port that an address does
// not have. socket is one of NETLINK_NETFILTER. With nothing to refuse the guard
// goes.
func Guard(ctx context.Context, socket *wire.Socket, ipFamily string, networks []netip.Prefix, refused []ruleset.Key) error {
	f := families[ipFamily]
	b := newBatch(guardTable, 4096+64*len(refused))
	b.addTable(f)
	b.removeTable(f)
	if len(networks)+len(refused) > 0 {
		b.addTable(f)
		b.addGuard(f)
		for _, network := range networks {
			b.addRange(f, network)
		}
		l := b.add(f, setRefused)
		for _, key := range refused {
			l.plain(appendKey(nil, key))
		}
		l.end()
	}
	b.Acknowledge()
	last := b.Sequence()
	b.commit()
	if err := socket.Send(ctx, b.Bytes, last); err != nil {
		return fmt.Errorf("changing table %s: %w", guardTable, describe(err))
	}
	return nil
}

func (b *batch) addGuard(f *family) {
	id := uint32(f.proto)<<8 + 4
	b.addSet(f, setRefused, id, f.addrType<<12|typeProtocol<<6|typeService, f.keyBytes(), 0, 0)
	b.addChain(f, chainRefuse)
	b.addChain(f, chainRanges)
	b.addBase(f, chainBefore, "filter", beforePriority)
	b.addBase(f, chainFilter, "filter", filterPriority)
	b.addRefusal(f)
	b.addRule(f, chainFilter, &expr.Verdict{Kind: expr.VerdictJump, Chain: chainRanges})
	// New connections only, as open ones outlive their endpoints: a first packet of
	// TCP has SYN without ACK, one of SCTP begins with the chunk INIT. UDP has none
	// that are open.
	b.addRefused(f, id, unix.IPPROTO_TCP,
		&expr.Payload{DestRegister: f.dataRegister(), Base: expr.PayloadBaseTransportHeader, Offset: 13, Len: 1},
		&expr.Bitwise{SourceRegister: f.dataRegister(), DestRegister: f.dataRegister(), Len: 1, Mask: []byte{0x12}, Xor: []byte{0}},
		&expr.Cmp{Op: expr.CmpOpEq, Register: f.dataRegister(), Data: []byte{0x02}})
	b.addRefused(f, id, unix.IPPROTO_UDP)
	b.addRefused(f, id, unix.IPPROTO_SCTP,
		&expr.Payload{DestRegister: f.dataRegister(), Base: expr.PayloadBaseTransportHeader, Offset: 12, Len: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: f.dataRegister(), Data: []byte{1}})
}

func (b *batch) addRefused(f *family, id uint32, protocol byte, first ...expr.Any) {
	rule := append(f.loadKey(),
		&expr.Cmp{Op: expr.CmpOpEq, Register: f.protocolRegister(), Data: []byte{protocol}},
		&expr.Lookup{SourceRegister: firstRegister, SetName: setRefused, SetID: id})
	b.addRule(f, chainBefore, append(append(rule, first...), &expr.Verdict{Kind: expr.VerdictGoto, Chain: chainRefuse})...)
}
