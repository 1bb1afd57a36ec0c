// Package wire speaks netlink (RFC 3549) with the kernel of one network namespace:
// many messages in one system call, and the kernel's answers. The rule engines use
// it where thousands of objects have to be in a kernel within milliseconds, which
// takes a request and an answer for each with the libraries.
package wire

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// answerTime is how long the kernel has for an answer. It answers in the course of
// the request; a time-out means that an answer was lost.
const answerTime = 10 * time.Second

// receiveBuffer is the space for answers in bytes: one for each message that failed.
const receiveBuffer = 8 << 20

// sendBuffer is the least space for a request in bytes.
const sendBuffer = 1 << 20

// ErrInterrupted says that what was being read changed meanwhile: read again.
var ErrInterrupted = errors.New("the kernel's state changed while it was read")

// Error is the kernel's answer to a message that it refused.
type Error struct {
	// Sequence is the message's number.
	Sequence uint32
	// Kind is the message's type.
	Kind  uint16
	Errno unix.Errno
}

func (e *Error) Error() string { return e.Errno.Error() }

// Unwrap returns the error number.
func (e *Error) Unwrap() error { return e.Errno }

// Socket is a netlink socket in one namespace. It is not for use by several
// goroutines at once.
type Socket struct {
	fd    int
	space int
}

// pages are buffers for answers: the kernel hands out at most 32 KiB at once.
var pages = sync.Pool{New: func() any { return new([64 << 10]byte) }}

// Dial opens a socket of a netlink protocol in the namespace behind the descriptor.
func Dial(namespace, protocol int) (*Socket, error) {
	s := &Socket{}
	err := Inside(namespace, func() (err error) {
		s.fd, err = unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, protocol)
		return os.NewSyscallError("socket", err)
	})
	if err != nil {
		return nil, fmt.Errorf("opening netlink socket %d: %w", protocol, err)
	}
	timeout := unix.NsecToTimeval(answerTime.Nanoseconds())
	err = errors.Join(
		os.NewSyscallError("bind", unix.Bind(s.fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})),
		os.NewSyscallError("setsockopt", unix.SetsockoptTimeval(s.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &timeout)),
		os.NewSyscallError("setsockopt", s.buffer(unix.SO_RCVBUFFORCE, unix.SO_RCVBUF, receiveBuffer)),
		// Answers need not repeat what they are about.
		os.NewSyscallError("setsockopt", unix.SetsockoptInt(s.fd, unix.SOL_NETLINK, unix.NETLINK_CAP_ACK, 1)),
	)
	if err != nil {
		s.Close()
		return nil, fmt.Errorf("preparing netlink socket %d: %w", protocol, err)
	}
	return s, nil
}

// buffer asks for space beyond the system's limit, and takes what it gets without
// the right to that.
func (s *Socket) buffer(force, plain, size int) error {
	if unix.SetsockoptInt(s.fd, unix.SOL_SOCKET, force, size) == nil {
		return nil
	}
	return unix.SetsockoptInt(s.fd, unix.SOL_SOCKET, plain, size)
}

// Close gives the socket up.
func (s *Socket) Close() error { return unix.Close(s.fd) }

// Send hands messages to the kernel in one system call, in whose course they are
// carried out, and returns the first refusal that is not one of those tolerated.
// last is the number of the last message that asks for an acknowledgement.
func (s *Socket) Send(ctx context.Context, messages []byte, last uint32, tolerated ...unix.Errno) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if need := max(len(messages)+4096, sendBuffer); need > s.space {
		if err := s.buffer(unix.SO_SNDBUFFORCE, unix.SO_SNDBUF, need); err != nil {
			return os.NewSyscallError("setsockopt", err)
		}
		s.space = need
	}
	s.drain()
	if err := s.send(messages); err != nil {
		return fmt.Errorf("sending %d bytes: %w", len(messages), err)
	}
	var refused error
	acknowledged := false
	page := pages.Get().(*[64 << 10]byte)
	defer pages.Put(page)
	flags := 0
	for {
		n, err := receive(s.fd, page[:], flags)
		switch {
		case errors.Is(err, unix.EAGAIN) && (acknowledged || refused != nil):
			return refused
		case err != nil:
			return fmt.Errorf("waiting for the kernel's answer: %w", errors.Join(os.NewSyscallError("recvfrom", err), refused))
		}
		err = each(page[:n], func(kind, _ uint16, seq uint32, data []byte) error {
			if kind != unix.NLMSG_ERROR || len(data) < 4+messageHeader {
				return nil
			}
			errno := unix.Errno(-int32(binary.NativeEndian.Uint32(data)))
			// The first is the cause of the others.
			if errno != 0 && refused == nil && !slices.Contains(tolerated, errno) {
				refused = &Error{Sequence: seq, Kind: binary.NativeEndian.Uint16(data[8:]), Errno: errno}
			}
			acknowledged = acknowledged || seq == last
			return nil
		})
		if err != nil {
			return err
		}
		if acknowledged || refused != nil {
			flags = unix.MSG_DONTWAIT // all answers are there already
		}
	}
}

func (s *Socket) send(messages []byte) error {
	for {
		err := unix.Sendto(s.fd, messages, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
		if !errors.Is(err, unix.EINTR) {
			return os.NewSyscallError("sendto", err)
		}
	}
}

func receive(fd int, buffer []byte, flags int) (int, error) {
	for {
		n, _, err := unix.Recvfrom(fd, buffer, flags)
		if !errors.Is(err, unix.EINTR) {
			return n, err
		}
	}
}

// drain drops answers that an earlier request left.
func (s *Socket) drain() {
	page := pages.Get().(*[64 << 10]byte)
	defer pages.Put(page)
	for {
		if _, err := receive(s.fd, page[:], unix.MSG_DONTWAIT); err != nil {
			return
		}
	}
}

// Read sends one request and hands each message of the answer to take: the type,
// and what follows the header, valid until take returns. The request says by its flags whether it wants
// a list (a dump) or one message and an acknowledgement.
func (s *Socket) Read(ctx context.Context, request []byte, take func(kind uint16, data []byte) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	s.drain()
	if err := s.send(request); err != nil {
		return err
	}
	page := pages.Get().(*[64 << 10]byte)
	defer pages.Put(page)
	done, interrupted := false, false
	for !done {
		n, err := receive(s.fd, page[:], 0)
		if err != nil {
			return fmt.Errorf("waiting for the kernel's answer: %w", os.NewSyscallError("recvfrom", err))
		}
		err = each(page[:n], func(kind, flags uint16, seq uint32, data []byte) error {
			interrupted = interrupted || flags&unix.NLM_F_DUMP_INTR != 0
			switch kind {
			case unix.NLMSG_DONE, unix.NLMSG_ERROR:
				done = true
				if len(data) >= 4 {
					if errno := unix.Errno(-int32(binary.NativeEndian.Uint32(data))); errno == unix.EINTR {
						interrupted = true
					} else if errno != 0 {
						return &Error{Sequence: seq, Kind: kind, Errno: errno}
					}
				}
				return nil
			}
			return take(kind, data)
		})
		if err != nil {
			return err
		}
	}
	if interrupted {
		return ErrInterrupted
	}
	return nil
}

// each cuts what was received into messages.
func each(data []byte, take func(kind, flags uint16, seq uint32, data []byte) error) error {
	for len(data) >= messageHeader {
		length := int(binary.NativeEndian.Uint32(data))
		if length < messageHeader || length > len(data) {
			return fmt.Errorf("netlink message of %d bytes in %d", length, len(data))
		}
		err := take(binary.NativeEndian.Uint16(data[4:]), binary.NativeEndian.Uint16(data[6:]),
			binary.NativeEndian.Uint32(data[8:]), data[messageHeader:length])
		if err != nil {
			return err
		}
		data = data[min((length+3)&^3, len(data)):]
	}
	return nil
}
