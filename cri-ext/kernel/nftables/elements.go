package nftables

import (
	"encoding/binary"
	"net/netip"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/bulkhead-dev/bulkhead/cri-ext/kernel/wire"
	"github.com/bulkhead-dev/bulkhead/internal/ruleset"
)

func native32(value uint32) []byte { return binary.NativeEndian.AppendUint32(nil, value) }

// appendAddr writes an address as a register has it.
func appendAddr(buffer []byte, addr netip.Addr) []byte {
	if addr.Is4() {
		a := addr.As4()
		return append(buffer, a[:]...)
	}
	a := addr.As16()
	return append(buffer, a[:]...)
}

// appendKey writes a frontend as the registers have it: each part begins a new one.
func appendKey(buffer []byte, key ruleset.Key) []byte {
	buffer = append(appendAddr(buffer, key.Addr), byte(key.Protocol), 0, 0, 0)
	return append(binary.BigEndian.AppendUint16(buffer, key.Port), 0, 0)
}

func appendEndpoint(buffer []byte, endpoint netip.AddrPort) []byte {
	return append(binary.BigEndian.AppendUint16(appendAddr(buffer, endpoint.Addr()), endpoint.Port()), 0, 0)
}

// list writes elements of one set into as many messages as they take.
type list struct {
	*batch
	family *family
	set    string
	kind   uint16
	open   bool
	nest   int
}

func (b *batch) add(f *family, set string) *list {
	return &list{batch: b, family: f, set: set, kind: unix.NFT_MSG_NEWSETELEM}
}

func (b *batch) remove(f *family, set string) *list {
	return &list{batch: b, family: f, set: set, kind: unix.NFT_MSG_DELSETELEM}
}

// flush removes all elements.
func (b *batch) flush(f *family, set string) {
	b.begin(f, unix.NFT_MSG_DELSETELEM, 0)
	b.Text(unix.NFTA_SET_ELEM_LIST_TABLE, b.table)
	b.Text(unix.NFTA_SET_ELEM_LIST_SET, set)
	b.End()
}

// largestElement bounds the encoding of an element in bytes.
const largestElement = 512

// element begins an element; done takes what it returns.
func (l *list) element(key []byte) int {
	if l.open && l.Size() > wire.MaxAttribute-largestElement {
		l.end()
	}
	if !l.open {
		flags := uint16(0)
		if l.kind == unix.NFT_MSG_NEWSETELEM {
			flags = unix.NLM_F_CREATE
		}
		l.begin(l.family, l.kind, flags)
		l.Text(unix.NFTA_SET_ELEM_LIST_TABLE, l.table)
		l.Text(unix.NFTA_SET_ELEM_LIST_SET, l.set)
		l.nest = l.Nest(unix.NFTA_SET_ELEM_LIST_ELEMENTS)
		l.open = true
	}
	element := l.Nest(unix.NFTA_LIST_ELEM)
	nest := l.Nest(unix.NFTA_SET_ELEM_KEY)
	l.Attr(unix.NFTA_DATA_VALUE, key)
	l.Close(nest)
	return element
}

func (l *list) plain(key []byte) { l.Close(l.element(key)) }

func (l *list) end() {
	if l.open {
		l.Close(l.nest)
		l.End()
		l.open = false
	}
}

// frontend adds the element that leads to the chain for so many endpoints.
func (l *list) frontend(key []byte, chosen int, affinity uint32) {
	element := l.element(key)
	data := l.Nest(unix.NFTA_SET_ELEM_DATA)
	verdict := l.Nest(unix.NFTA_DATA_VERDICT)
	l.Big32(unix.NFTA_VERDICT_CODE, verdictGoto)
	l.Text(unix.NFTA_VERDICT_CHAIN, chainName(chosen))
	l.Close(verdict)
	l.Close(data)
	if affinity > 0 {
		l.comment(affinityComment + strconv.FormatUint(uint64(affinity), 10))
	}
	l.Close(element)
}

// verdictGoto is NFT_GOTO (-4) as the kernel has it.
const verdictGoto = 0xfffffffc

// affinityComment comes before the seconds in the comment of a frontend.
const affinityComment = "affinity="

// commentData is the type of a comment in an element's user data (libnftnl, udata.h).
const commentData = 0

func (l *list) comment(text string) {
	data := append(make([]byte, 0, 255), commentData, byte(len(text)+1))
	data = append(append(data, text...), 0)
	l.Attr(unix.NFTA_SET_ELEM_USERDATA, data)
}

func (l *list) endpoint(key []byte, endpoint netip.AddrPort) {
	element := l.element(key)
	data := l.Nest(unix.NFTA_SET_ELEM_DATA)
	var space [20]byte
	l.Attr(unix.NFTA_DATA_VALUE, appendEndpoint(space[:0], endpoint))
	l.Close(data)
	l.Close(element)
}

// used is how many of the endpoints are picked from.
func used(service *ruleset.Service) int {
	if service.Affinity > 0 {
		return min(1, len(service.Endpoints))
	}
	return len(service.Endpoints)
}

func slotKey(key []byte, slot int) []byte {
	return binary.NativeEndian.AppendUint32(key, uint32(slot))
}

// refuse adds a frontend without endpoints.
func (l *list) refuse(key []byte, affinity uint32) {
	element := l.element(key)
	if affinity > 0 {
		l.comment(affinityComment + strconv.FormatUint(uint64(affinity), 10))
	}
	l.Close(element)
}
