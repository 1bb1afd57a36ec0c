package guest

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/bulkhead-dev/bulkhead/cri-ext/channel"
	"github.com/bulkhead-dev/bulkhead/cri-ext/transport"
	"github.com/bulkhead-dev/bulkhead/internal/frame"
	"github.com/bulkhead-dev/bulkhead/internal/ruleset"
)

// Engine is what puts rules into the guest's kernel; *kernel.Kernel is one.
type Engine interface {
	Backends() []channel.Backend
	Held() (generation uint64, digest ruleset.Digest)
	Replace(ctx context.Context, set *ruleset.Set) error
	Apply(ctx context.Context, after *ruleset.Set, delta *ruleset.Delta) error
	Dump(ctx context.Context) ([]ruleset.Service, error)
	Repair(ctx context.Context) (repaired int, err error)
}

const (
	// RepairEvery is how often the agent looks for drift.
	RepairEvery = time.Minute
	// engineTimeout bounds one call of the engine.
	engineTimeout = 2 * time.Minute
	// frameTimeout bounds the rest of a frame that has begun, and the writing of one.
	frameTimeout = 10 * time.Second
	// serialTimeout is the former on a serial port, where the frame may be one that
	// nobody will end: shorter than a host says hello.
	serialTimeout = 2 * time.Second
)

// Server is the agent's end. It serves one sandbox of one tenant: the first that the
// host names.
type Server struct {
	version string
	log     *slog.Logger

	// mu is held while the engine works, so that it does one thing at a time.
	mu     sync.Mutex
	open   func(ctx context.Context, recipient ruleset.Recipient) (Engine, error)
	engine Engine // nil until the host has said hello
	// bound is whom this agent belongs to; empty until the host has said it.
	bound ruleset.Recipient
	// set is what the engine was given last; nil if that is not known.
	set *ruleset.Set
	// repaired counts what the agent repaired by itself and nobody was told of.
	repaired int
}

// NewServer returns the agent's end. open is called when the host says hello: only
// then the sandbox has its network, and the agent knows whose it is. version is what
// the host shows.
func NewServer(open func(ctx context.Context, recipient ruleset.Recipient) (Engine, error), version string, log *slog.Logger) *Server {
	return &Server{open: open, version: version, log: log}
}

// PatrolDrift repairs drift at each interval until ctx ends.
func (s *Server) PatrolDrift(ctx context.Context, every time.Duration) {
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		s.mu.Lock()
		if s.set != nil {
			repaired, err := s.repair(ctx)
			s.repaired += repaired
			switch {
			case err != nil:
				s.log.Error("rules could not be compared with the kernel", "error", err)
			case repaired > 0:
				s.log.Warn("rules in the kernel were not as sent and have been repaired", "services", repaired)
			}
		}
		s.mu.Unlock()
	}
}

func (s *Server) repair(ctx context.Context) (int, error) {
	ctx, cancel := context.WithTimeout(ctx, engineTimeout)
	defer cancel()
	return s.engine.Repair(ctx)
}

// Serve answers the host on a connection until that ends, which is not an error, or
// the host does what no host of ours does. Over a serial port a new session may
// begin at any time.
func (s *Server) Serve(ctx context.Context, conn transport.Conn, serial bool) error {
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	peer := &peer{server: s, conn: conn, writer: frame.NewWriter(conn)}
	for {
		pace := &pace{conn: conn, limit: frameTimeout}
		if serial {
			pace.limit = serialTimeout
		}
		reader := frame.NewReader(pace, hostFrame, serial)
		err := peer.serve(ctx, pace, reader)
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
			return nil
		case serial && errors.Is(err, os.ErrDeadlineExceeded):
			// Whoever began that frame is gone; somebody else may be there now.
			s.log.Info("a frame did not end; its rest is not waited for")
			continue
		}
		return err
	}
}

// pace reads without a deadline between frames, and with one within.
type pace struct {
	conn  transport.Conn
	limit time.Duration
	begun bool
}

func (p *pace) Read(buffer []byte) (int, error) {
	n, err := p.conn.Read(buffer)
	if n > 0 && !p.begun {
		p.begun = true
		if failed := p.conn.SetDeadline(time.Now().Add(p.limit)); failed != nil {
			return n, failed
		}
	}
	return n, err
}

func (p *pace) rest() error {
	p.begun = false
	return p.conn.SetDeadline(time.Time{})
}

// peer is a host on one connection.
type peer struct {
	server  *Server
	conn    transport.Conn
	writer  *frame.Writer
	nonce   nonce
	greeted bool
	// kind and request are of the message that is being put together.
	kind    byte
	request uint32
	parts   parts
}

func (p *peer) serve(ctx context.Context, pace *pace, reader *frame.Reader) error {
	for {
		if err := pace.rest(); err != nil {
			return err
		}
		if err := context.Cause(ctx); err != nil {
			return err
		}
		kind, payload, err := reader.Next()
		if err != nil {
			return err
		}
		m, err := parse(payload)
		if err != nil {
			continue // nobody to answer to
		}
		if err := p.handle(ctx, kind, m); err != nil {
			return err
		}
	}
}

// handle answers one frame. Errors are of the connection.
func (p *peer) handle(ctx context.Context, kind byte, m message) error {
	if kind == kindHello {
		return p.hello(ctx, m)
	}
	if !p.greeted || m.nonce != p.nonce {
		return p.fail(m, NoSession, "no hello began this session")
	}
	s := p.server
	s.mu.Lock()
	defer s.mu.Unlock()
	switch kind {
	case kindSnapshot, kindDelta:
		if kind != p.kind || m.request != p.request {
			p.kind, p.request, p.parts = kind, m.request, parts{}
		}
		complete, err := p.parts.add(m.body)
		if err == nil && !complete {
			return nil
		}
		data := p.parts.data
		p.kind, p.parts = 0, parts{}
		if err != nil {
			return p.fail(m, Malformed, err.Error())
		}
		return p.take(ctx, m, kind, data)
	case kindDump:
		ctx, cancel := context.WithTimeout(ctx, engineTimeout)
		defer cancel()
		services, err := s.engine.Dump(ctx)
		if err != nil {
			return p.fail(m, KernelFailed, err.Error())
		}
		data := ruleset.EncodeServices(nil, services)
		if len(data) > messageLimit {
			return p.fail(m, KernelFailed, fmt.Sprintf("the kernel holds %d services, more than a dump has room for", len(services)))
		}
		return split(data, agentPart, func(encode func([]byte) []byte) error { return p.answer(m, kindServices, encode) })
	case kindRepair:
		repaired, err := s.repair(ctx)
		s.repaired += repaired
		if err != nil {
			return p.fail(m, KernelFailed, err.Error())
		}
		total := s.repaired
		err = p.answer(m, kindRepaired, func(buffer []byte) []byte { return binary.AppendUvarint(buffer, uint64(total)) })
		if err == nil {
			s.repaired = 0
		}
		return err
	}
	return p.fail(m, Malformed, fmt.Sprintf("frames of kind %#x are not known", kind))
}

func (p *peer) hello(ctx context.Context, m message) error {
	h, err := parseHello(m.body)
	if err != nil {
		return p.fail(m, Malformed, err.Error())
	}
	if h.oldest > version || h.newest < version {
		return p.fail(m, Unsupported, fmt.Sprintf("the agent speaks version %d of the protocol, the host %d to %d", version, h.oldest, h.newest))
	}
	s := p.server
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.bound == (ruleset.Recipient{}) {
		s.bound = h.recipient
		s.log.Info("bound", "tenant", s.bound.Tenant, "sandbox", s.bound.Sandbox)
	}
	if h.recipient != s.bound {
		s.log.Error("a host spoke to another sandbox than this", "tenant", h.recipient.Tenant, "sandbox", h.recipient.Sandbox)
		return p.fail(m, Foreign, fmt.Sprintf("this is sandbox %s of tenant %s, not %s of %s",
			s.bound.Sandbox, s.bound.Tenant, h.recipient.Sandbox, h.recipient.Tenant))
	}
	if s.engine == nil {
		ctx, cancel := context.WithTimeout(ctx, engineTimeout)
		defer cancel()
		engine, err := s.open(ctx, s.bound)
		if err != nil {
			s.log.Error("the kernel cannot be used", "error", err)
			return p.fail(m, KernelFailed, err.Error())
		}
		s.engine = engine
	}
	p.nonce, p.greeted, p.kind, p.parts = m.nonce, true, 0, parts{}
	w := welcome{version: version, hello: channel.Hello{Backends: s.engine.Backends(), Version: s.version}}
	w.hello.Generation, w.hello.Digest = s.engine.Held()
	return p.answer(m, kindWelcome, w.append)
}

// take gives a set or a delta to the engine. s.mu is held.
func (p *peer) take(ctx context.Context, m message, kind byte, data []byte) error {
	s := p.server
	ctx, cancel := context.WithTimeout(ctx, engineTimeout)
	defer cancel()
	var set *ruleset.Set
	var delta *ruleset.Delta
	var err error
	if kind == kindDelta {
		if delta, err = ruleset.DecodeDelta(data); err != nil {
			return p.fail(m, Malformed, err.Error())
		}
		if delta.Tenant != s.bound.Tenant {
			return p.foreign(m, &ruleset.MismatchError{Recipient: s.bound, Tenant: delta.Tenant})
		}
		if s.set == nil {
			return p.fail(m, NeedSnapshot, "the agent does not know the set that the delta starts from")
		}
		if set, err = s.set.Apply(delta); err != nil {
			return p.fail(m, NeedSnapshot, err.Error())
		}
	} else if set, err = ruleset.DecodeSet(data); err != nil {
		return p.fail(m, Malformed, err.Error())
	}
	if _, err := s.bound.Accept(set, delta); err != nil {
		return p.foreign(m, err)
	}
	begin := time.Now()
	if delta != nil {
		err = s.engine.Apply(ctx, set, delta)
	} else {
		err = s.engine.Replace(ctx, set)
	}
	if err != nil {
		s.set = nil // whatever the kernel has now, it is not what was sent
		s.log.Error("the kernel did not take the rules", "generation", set.Generation(), "error", err)
		return p.fail(m, KernelFailed, err.Error())
	}
	s.set = set
	done := ack{generation: set.Generation(), digest: set.Digest(), microseconds: uint64(time.Since(begin).Microseconds())}
	return p.answer(m, kindAck, done.append)
}

func (p *peer) foreign(m message, err error) error {
	p.server.log.Error("rules were refused", "error", err)
	return p.fail(m, Foreign, err.Error())
}

func (p *peer) fail(m message, code Code, words string) error {
	return p.answer(m, kindFailure, func(buffer []byte) []byte { return appendFailure(buffer, code, words) })
}

func (p *peer) answer(m message, kind byte, body func([]byte) []byte) error {
	if err := p.conn.SetDeadline(time.Now().Add(frameTimeout)); err != nil {
		return err
	}
	return p.writer.Write(kind, func(buffer []byte) []byte { return body(appendPrefix(buffer, m.nonce, m.request)) })
}
