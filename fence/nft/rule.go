package nft

import (
	"fmt"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
	"golang.org/x/sys/unix"

	"github.com/bulkhead-dev/bulkhead/fence/table"
)

// Registers of the kernel: one of 16 bytes, and those of 4 bytes that follow it. The
// rules put what they look up from the first one on.
const (
	register = unix.NFT_REG32_00
)

// ruleText says all of a rule. It stands in the rule's comment, by which what the
// kernel holds is compared with what it should.
func ruleText(rule table.Rule) string {
	var text strings.Builder
	if rule.Family != 0 {
		fmt.Fprintf(&text, "ip%d ", rule.Family)
	}
	for _, match := range rule.Matches {
		name := map[table.Key]string{table.Source: "from", table.Destination: "to", table.Port: "port", table.DestinationPort: "to port"}[match.Key]
		fmt.Fprintf(&text, "%s @%s ", name, match.Set)
	}
	switch rule.Verdict.Action {
	case table.Pass:
		text.WriteString("pass")
	case table.Drop:
		text.WriteString("drop " + rule.Counter)
	case table.Refuse:
		text.WriteString("refuse " + rule.Counter)
	case table.Jump:
		text.WriteString(jumpTo + rule.Verdict.Chain)
	}
	return text.String()
}

// rule adds a rule with its text.
func (t *transaction) rule(chain, text string, expressions ...expr.Any) {
	if t.recorded != nil {
		t.recorded[chain] = append(t.recorded[chain], text)
		return
	}
	t.conn.AddRule(&nftables.Rule{
		Table: t.table, Chain: &nftables.Chain{Table: t.table, Name: chain}, Exprs: expressions,
		UserData: userdata.AppendString(nil, userdata.TypeComment, comment(text)),
	})
}

// maxComment is the kernel's limit of a rule's user data, less its header.
const maxComment = 250

func comment(text string) string {
	if len(text) > maxComment {
		return text[:maxComment]
	}
	return text
}

func (t *transaction) expressions(rule table.Rule) []expr.Any {
	var out []expr.Any
	if rule.Family != 0 {
		out = append(out, ofFamily(rule.Family)...)
	}
	for _, match := range rule.Matches {
		set := t.want.Sets[match.Set]
		if set == nil {
			t.fail(fmt.Errorf("there is no set %s", match.Set))
			return nil
		}
		out = append(out, load(match.Key, set.Family)...)
		out = append(out, &expr.Lookup{SourceRegister: register, SetName: set.Name})
	}
	switch rule.Verdict.Action {
	case table.Pass:
		// Ends this hook only: what judges the other direction is in another one.
		out = append(out, &expr.Verdict{Kind: expr.VerdictAccept})
	case table.Drop:
		out = append(out, drop(rule.Counter)...)
	case table.Refuse:
		out = append(out, &expr.Objref{Type: objectCounter, Name: rule.Counter}, &expr.Verdict{Kind: expr.VerdictGoto, Chain: chainRefuse})
	case table.Jump:
		out = append(out, &expr.Verdict{Kind: expr.VerdictJump, Chain: rule.Verdict.Chain})
	}
	return out
}

// load puts a key into the registers.
func load(key table.Key, family table.Family) []expr.Any {
	switch key {
	case table.Source:
		return []expr.Any{address(family, true, register)}
	case table.Destination:
		return []expr.Any{address(family, false, register)}
	case table.Port:
		return port(register)
	case table.DestinationPort:
		size := uint32(1)
		if family == 6 {
			size = 4
		}
		return append([]expr.Any{address(family, false, register)}, port(register+size)...)
	}
	return nil
}

// Places of the addresses in the headers.
func address(family table.Family, source bool, into uint32) expr.Any {
	offset, length := uint32(16), uint32(4)
	if family == 6 {
		offset, length = 24, 16
	}
	if source {
		offset -= length
	}
	return &expr.Payload{DestRegister: into, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: length}
}

// port loads protocol and destination port.
func port(into uint32) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: into},
		&expr.Payload{DestRegister: into + 1, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
	}
}

func ofFamily(family table.Family) []expr.Any {
	number := byte(unix.NFPROTO_IPV4)
	if family == 6 {
		number = unix.NFPROTO_IPV6
	}
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: register},
		&expr.Cmp{Op: expr.CmpOpEq, Register: register, Data: []byte{number}},
	}
}

func drop(counter string) []expr.Any {
	return []expr.Any{&expr.Objref{Type: objectCounter, Name: counter}, &expr.Verdict{Kind: expr.VerdictDrop}}
}

// objectCounter is the kernel's number of counters among its objects.
const objectCounter = 1

func counter() expr.Any { return &expr.Counter{} }
