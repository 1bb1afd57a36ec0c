package proxy

import (
	"fmt"

	"google.golang.org/grpc/mem"
)

// message is one message of a call as it is on the wire. It holds a reference on its
// buffers until it is sent on.
type message struct{ data mem.BufferSlice }

// bytes are a copy of the message.
func (m *message) bytes() []byte { return m.data.Materialize() }

// free gives up a message that is not sent on.
func (m *message) free() {
	m.data.Free()
	m.data = nil
}

// raw is a codec that leaves messages as they are.
type raw struct{}

// Marshal hands the message's buffers over.
func (raw) Marshal(v any) (mem.BufferSlice, error) {
	m, ok := v.(*message)
	if !ok {
		return nil, fmt.Errorf("a raw message is wanted, not a %T", v)
	}
	data := m.data
	m.data = nil
	return data, nil
}

// Unmarshal keeps the buffers.
func (raw) Unmarshal(data mem.BufferSlice, v any) error {
	m, ok := v.(*message)
	if !ok {
		return fmt.Errorf("a raw message is wanted, not a %T", v)
	}
	m.data.Free()
	data.Ref()
	m.data = data
	return nil
}

// Name is that of what the messages are encoded with, since it goes into the
// content type.
func (raw) Name() string { return "proto" }
