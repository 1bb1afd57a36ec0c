package nftables

import (
	"context"
	"fmt"
	"net/netip"

	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/bulkhead-dev/bulkhead/cri-ext/kernel/wire"
)

// guardTable refuses what another engine has not translated.
const guardTable = Table + "-guard"

// Guard has what still goes to the networks refused once IPVS has passed it over,
// such as a port that an address does not have; IPVS itself leaves it unanswered.
// socket is one of NETLINK_NETFILTER. No networks takes the guard away.
func Guard(ctx context.Context, socket *wire.Socket, ipFamily string, networks []netip.Prefix) error {
	f := families[ipFamily]
	b := newBatch(guardTable, 4096)
	b.addTable(f)
	b.removeTable(f)
	if len(networks) > 0 {
		b.addTable(f)
		b.addChain(f, chainRefuse)
		b.addChain(f, chainRanges)
		b.addBase(f, chainFilter, "filter", filterPriority)
		b.addRule(f, chainRefuse,
			&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: firstRegister},
			&expr.Cmp{Op: expr.CmpOpEq, Register: firstRegister, Data: []byte{unix.IPPROTO_TCP}},
			&expr.Reject{Type: unix.NFT_REJECT_TCP_RST})
		b.addRule(f, chainRefuse, &expr.Reject{Type: unix.NFT_REJECT_ICMP_UNREACH, Code: f.icmpCode})
		b.addRule(f, chainFilter, &expr.Verdict{Kind: expr.VerdictJump, Chain: chainRanges})
		for _, network := range networks {
			b.addRange(f, network)
		}
	}
	b.Acknowledge()
	last := b.Sequence()
	b.commit()
	if err := socket.Send(ctx, b.Bytes, last); err != nil {
		return fmt.Errorf("changing table %s: %w", guardTable, describe(err))
	}
	return nil
}
