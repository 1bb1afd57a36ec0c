package wire

import (
	"encoding/binary"

	"golang.org/x/sys/unix"
)

// MaxAttribute is the longest payload of an attribute, in bytes.
const MaxAttribute = 65535 - attributeHeader

const (
	messageHeader   = 16
	attributeHeader = 4
)

var zeros [4]byte

// Builder writes netlink messages one after another. Netlink has the byte order of
// the machine; what an attribute holds has whatever its subsystem says.
type Builder struct {
	// Bytes is what was written.
	Bytes   []byte
	message int
	seq     uint32
}

// Begin starts a message, and ends the one before it.
func (b *Builder) Begin(kind, flags uint16) {
	b.message = len(b.Bytes)
	b.seq++
	b.Bytes = binary.NativeEndian.AppendUint32(b.Bytes, messageHeader)
	b.Bytes = binary.NativeEndian.AppendUint16(b.Bytes, kind)
	b.Bytes = binary.NativeEndian.AppendUint16(b.Bytes, flags|unix.NLM_F_REQUEST)
	b.Bytes = binary.NativeEndian.AppendUint32(b.Bytes, b.seq)
	b.Bytes = append(b.Bytes, 0, 0, 0, 0)
}

// Sequence is the number of the message that was begun last.
func (b *Builder) Sequence() uint32 { return b.seq }

// Size is the length so far of the message that was begun last, in bytes.
func (b *Builder) Size() int { return len(b.Bytes) - b.message }

// End writes the length of the message.
func (b *Builder) End() {
	binary.NativeEndian.PutUint32(b.Bytes[b.message:], uint32(len(b.Bytes)-b.message))
}

// Raw adds what is no attribute, such as the header of a subsystem.
func (b *Builder) Raw(data ...byte) { b.Bytes = append(b.Bytes, data...) }

// Attr adds an attribute.
func (b *Builder) Attr(kind uint16, data []byte) {
	b.header(kind, len(data))
	b.Bytes = append(b.Bytes, data...)
	b.pad()
}

// Text adds an attribute with a string that ends in a zero byte.
func (b *Builder) Text(kind uint16, text string) {
	b.header(kind, len(text)+1)
	b.Bytes = append(b.Bytes, text...)
	b.Bytes = append(b.Bytes, 0)
	b.pad()
}

// Big32 adds an attribute with a number in network byte order.
func (b *Builder) Big32(kind uint16, value uint32) {
	b.header(kind, 4)
	b.Bytes = binary.BigEndian.AppendUint32(b.Bytes, value)
}

// Native32 adds an attribute with a number in the machine's byte order.
func (b *Builder) Native32(kind uint16, value uint32) {
	b.header(kind, 4)
	b.Bytes = binary.NativeEndian.AppendUint32(b.Bytes, value)
}

// Native16 adds an attribute with a number in the machine's byte order.
func (b *Builder) Native16(kind, value uint16) {
	b.header(kind, 2)
	b.Bytes = binary.NativeEndian.AppendUint16(b.Bytes, value)
	b.pad()
}

// Big16 adds an attribute with a number in network byte order.
func (b *Builder) Big16(kind, value uint16) {
	b.header(kind, 2)
	b.Bytes = binary.BigEndian.AppendUint16(b.Bytes, value)
	b.pad()
}

// Nest begins an attribute that holds attributes; Close takes what it returns.
func (b *Builder) Nest(kind uint16) int {
	at := len(b.Bytes)
	b.header(kind|unix.NLA_F_NESTED, 0)
	return at
}

// Close ends an attribute that Nest began.
func (b *Builder) Close(at int) {
	binary.NativeEndian.PutUint16(b.Bytes[at:], uint16(len(b.Bytes)-at))
}

func (b *Builder) header(kind uint16, length int) {
	b.Bytes = binary.NativeEndian.AppendUint16(b.Bytes, uint16(attributeHeader+length))
	b.Bytes = binary.NativeEndian.AppendUint16(b.Bytes, kind)
}

func (b *Builder) pad() {
	if rest := (len(b.Bytes) - b.message) & 3; rest != 0 {
		b.Bytes = append(b.Bytes, zeros[rest:]...)
	}
}

// Attributes takes the next attribute off data. ok is false at the end, or where
// the rest is no attribute.
func Attributes(data []byte) (kind uint16, value, rest []byte, ok bool) {
	if len(data) < attributeHeader {
		return 0, nil, nil, false
	}
	length := int(binary.NativeEndian.Uint16(data))
	if length < attributeHeader || length > len(data) {
		return 0, nil, nil, false
	}
	next := min((length+3)&^3, len(data))
	kind = binary.NativeEndian.Uint16(data[2:]) &^ (unix.NLA_F_NESTED | unix.NLA_F_NET_BYTEORDER)
	return kind, data[attributeHeader:length], data[next:], true
}

// Find returns the first attribute of a kind, nil if there is none.
func Find(data []byte, kind uint16) []byte {
	for {
		found, value, rest, ok := Attributes(data)
		switch {
		case !ok:
			return nil
		case found == kind:
			return value
		}
		data = rest
	}
}

// Acknowledge has the kernel acknowledge the message that was begun last.
func (b *Builder) Acknowledge() {
	flags := binary.NativeEndian.Uint16(b.Bytes[b.message+6:])
	binary.NativeEndian.PutUint16(b.Bytes[b.message+6:], flags|unix.NLM_F_ACK)
}
