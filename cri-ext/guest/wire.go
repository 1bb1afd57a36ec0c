// Package guest is the talk between cri-ext on the host and the agent in a guest:
// Client is the host's end and a channel.Channel, Server is the agent's. The host
// asks, the agent answers; each message is one frame of package frame.
//
//	payload  = nonce(16) request(4) body
//	host:    hello    = oldest(1) newest(1) tenant sandbox
//	         snapshot = part of a ruleset.Set          delta = part of a ruleset.Delta
//	         dump     =                                repair =
//	agent:   welcome  = version(1) agent generation digest(32) backends
//	         ack      = generation digest(32) microseconds
//	         services = part of what ruleset.EncodeServices makes
//	         repaired = count
//	         failure  = code(1) words
//	part     = total(4) offset(4) bytes
//	backends = count { family engine reason }
//
// Fixed numbers are big endian, the others unsigned varints; texts follow their
// length. The host chooses the nonce of a session at random, and a hello with it
// begins the session: what has another nonce is of some other talk and is not
// listened to. A request's number comes back with its answer. Parts come in order
// without gaps; the last one completes the message.
//
// An agent belongs to the first tenant and sandbox that a hello names, for as long
// as it runs, and refuses all others.
package guest

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"unicode"

	"k8s.io/apimachinery/pkg/types"

	"github.com/bulkhead-dev/bulkhead/cri-ext/channel"
	"github.com/bulkhead-dev/bulkhead/internal/ruleset"
)

// version is that of the protocol. A host and an agent use the newest that both have.
const version = 1

// Kinds of frames.
const (
	kindHello    = 0x01
	kindSnapshot = 0x02
	kindDelta    = 0x03
	kindDump     = 0x04
	kindRepair   = 0x05

	kindWelcome  = 0x81
	kindAck      = 0x82
	kindServices = 0x83
	kindRepaired = 0x84
	kindFailure  = 0x8f
)

// Bounds, in bytes unless said otherwise.
const (
	nonceBytes  = 16
	prefixBytes = nonceBytes + 4
	partBytes   = 8
	// hostPart and agentPart are how much of a message one frame carries.
	hostPart  = 256 << 10
	agentPart = 60 << 10
	// hostFrame and agentFrame are the longest payloads of either side.
	hostFrame  = prefixBytes + partBytes + hostPart
	agentFrame = 64 << 10
	// messageLimit is more than the longest set, delta or dump within the bounds of
	// package ruleset.
	messageLimit = 10 << 20
	maxText      = 256
	maxWords     = 1024
	maxBackends  = 8 // in number
)

// Code says what kind of failure an agent reports.
type Code byte

// Codes of failures.
const (
	// Malformed is what the agent could not read.
	Malformed Code = 1
	// Unsupported is a protocol version that the agent does not have.
	Unsupported Code = 2
	// Foreign is a recipient that is not the agent's, or rules of another tenant.
	Foreign Code = 3
	// NoSession is a request of a session that the agent does not know, as after
	// its restart.
	NoSession Code = 4
	// NeedSnapshot is a delta that does not fit what the agent holds.
	NeedSnapshot Code = 5
	// KernelFailed is a kernel that did not do what was asked.
	KernelFailed Code = 6
)

// RefusedError is a failure that an agent reported. It is the guest's word: good
// for telling its own pod's owner, and for nothing else.
type RefusedError struct {
	Code Code
	// Words are printable and at most 1024 bytes.
	Words string
}

func (e *RefusedError) Error() string { return "the agent in the guest refuses: " + e.Words }

type nonce [nonceBytes]byte

// message is a payload's beginning.
type message struct {
	nonce   nonce
	request uint32
	body    []byte
}

var errMalformed = errors.New("malformed message")

func parse(payload []byte) (message, error) {
	if len(payload) < prefixBytes {
		return message{}, fmt.Errorf("%w: %d bytes", errMalformed, len(payload))
	}
	return message{nonce: nonce(payload), request: binary.BigEndian.Uint32(payload[nonceBytes:]), body: payload[prefixBytes:]}, nil
}

func appendPrefix(buffer []byte, n nonce, request uint32) []byte {
	return binary.BigEndian.AppendUint32(append(buffer, n[:]...), request)
}

func appendText(buffer []byte, text string) []byte {
	return append(binary.AppendUvarint(buffer, uint64(len(text))), text...)
}

// fields takes a body apart. After the first error it returns zeros.
type fields struct {
	data []byte
	err  error
}

func (f *fields) take(n int) []byte {
	if f.err != nil || n > len(f.data) {
		f.err = fmt.Errorf("%w: ends early", errMalformed)
		return make([]byte, n) // n is one of our own bounds
	}
	taken := f.data[:n]
	f.data = f.data[n:]
	return taken
}

func (f *fields) byte() byte { return f.take(1)[0] }

func (f *fields) number() uint64 {
	value, n := binary.Uvarint(f.data)
	if f.err != nil || n <= 0 {
		f.err = fmt.Errorf("%w: no number", errMalformed)
		return 0
	}
	f.data = f.data[n:]
	return value
}

func (f *fields) text(limit int) string {
	length := f.number()
	if length > uint64(limit) {
		f.err = fmt.Errorf("%w: text of %d bytes exceeds %d", errMalformed, length, limit)
		return ""
	}
	return string(f.take(int(length)))
}

func (f *fields) end() error {
	if f.err == nil && len(f.data) > 0 {
		f.err = fmt.Errorf("%w: %d bytes too many", errMalformed, len(f.data))
	}
	return f.err
}

type hello struct {
	oldest, newest byte
	recipient      ruleset.Recipient
}

func (h hello) append(buffer []byte) []byte {
	buffer = append(buffer, h.oldest, h.newest)
	return appendText(appendText(buffer, string(h.recipient.Tenant)), h.recipient.Sandbox)
}

func parseHello(body []byte) (hello, error) {
	f := fields{data: body}
	h := hello{oldest: f.byte(), newest: f.byte()}
	h.recipient = ruleset.Recipient{Tenant: types.UID(f.text(maxText)), Sandbox: f.text(maxText)}
	if f.err == nil && (h.recipient.Tenant == "" || h.recipient.Sandbox == "") {
		return h, fmt.Errorf("%w: hello without tenant or sandbox", errMalformed)
	}
	return h, f.end()
}

type welcome struct {
	version byte
	hello   channel.Hello
}

func (w welcome) append(buffer []byte) []byte {
	buffer = appendText(append(buffer, w.version), cut(w.hello.Version, maxText))
	buffer = binary.AppendUvarint(buffer, w.hello.Generation)
	buffer = append(buffer, w.hello.Digest[:]...)
	backends := w.hello.Backends[:min(len(w.hello.Backends), maxBackends)]
	buffer = binary.AppendUvarint(buffer, uint64(len(backends)))
	for _, backend := range backends {
		buffer = appendText(buffer, cut(backend.Family, maxText))
		buffer = appendText(buffer, cut(backend.Engine, maxText))
		buffer = appendText(buffer, cut(backend.Reason, maxWords))
	}
	return buffer
}

// parseWelcome reads a guest's word: its texts are made printable.
func parseWelcome(body []byte) (welcome, error) {
	f := fields{data: body}
	w := welcome{version: f.byte()}
	w.hello.Version = printable(f.text(maxText))
	w.hello.Generation = f.number()
	w.hello.Digest = ruleset.Digest(f.take(len(ruleset.Digest{})))
	count := f.number()
	if count > maxBackends {
		return w, fmt.Errorf("%w: %d backends", errMalformed, count)
	}
	for range count {
		w.hello.Backends = append(w.hello.Backends, channel.Backend{
			Family: printable(f.text(maxText)), Engine: printable(f.text(maxText)), Reason: printable(f.text(maxWords)),
		})
	}
	return w, f.end()
}

type ack struct {
	generation   uint64
	digest       ruleset.Digest
	microseconds uint64
}

func (a ack) append(buffer []byte) []byte {
	buffer = binary.AppendUvarint(buffer, a.generation)
	return binary.AppendUvarint(append(buffer, a.digest[:]...), a.microseconds)
}

func parseAck(body []byte) (ack, error) {
	f := fields{data: body}
	a := ack{generation: f.number(), digest: ruleset.Digest(f.take(len(ruleset.Digest{}))), microseconds: f.number()}
	return a, f.end()
}

func appendFailure(buffer []byte, code Code, words string) []byte {
	return appendText(append(buffer, byte(code)), cut(words, maxWords))
}

func parseFailure(body []byte) (*RefusedError, error) {
	f := fields{data: body}
	e := &RefusedError{Code: Code(f.byte()), Words: printable(f.text(maxWords))}
	return e, f.end()
}

func parseCount(body []byte) (int, error) {
	f := fields{data: body}
	count := f.number()
	if count > 1<<30 {
		return 0, fmt.Errorf("%w: a count of %d", errMalformed, count)
	}
	return int(count), f.end()
}

// cut shortens a text to a length in bytes.
func cut(text string, limit int) string { return text[:min(len(text), limit)] }

// printable makes a guest's text safe to show in a terminal or an event.
func printable(text string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return '?'
	}, strings.ToValidUTF8(text, "?"))
}

// split calls send with the parts of a message.
func split(data []byte, size int, send func(encode func([]byte) []byte) error) error {
	total := len(data)
	for offset := 0; ; {
		piece := data[offset:min(total, offset+size)]
		err := send(func(buffer []byte) []byte {
			buffer = binary.BigEndian.AppendUint32(buffer, uint32(total))
			return append(binary.BigEndian.AppendUint32(buffer, uint32(offset)), piece...)
		})
		if offset += len(piece); err != nil || offset == total {
			return err
		}
	}
}

// parts puts a message together. Memory is taken as it arrives.
type parts struct {
	data    []byte
	total   uint32
	started bool
}

// add takes the next part and tells whether the message is complete.
func (p *parts) add(body []byte) (complete bool, err error) {
	if len(body) < partBytes {
		return false, fmt.Errorf("%w: part of %d bytes", errMalformed, len(body))
	}
	total, offset, piece := binary.BigEndian.Uint32(body), binary.BigEndian.Uint32(body[4:]), body[partBytes:]
	switch {
	case total > messageLimit:
		return false, fmt.Errorf("%w: %d bytes exceed %d", errMalformed, total, messageLimit)
	case !p.started && offset != 0, p.started && (total != p.total || int(offset) != len(p.data)):
		return false, fmt.Errorf("%w: part at %d of %d does not follow %d of %d", errMalformed, offset, total, len(p.data), p.total)
	case len(p.data)+len(piece) > int(total), len(piece) == 0 && total > 0:
		return false, fmt.Errorf("%w: part of %d bytes at %d of %d", errMalformed, len(piece), offset, total)
	}
	p.started, p.total = true, total
	p.data = append(p.data, piece...)
	return len(p.data) == int(total), nil
}
