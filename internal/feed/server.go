package feed

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/go-logr/logr"
	"k8s.io/apimachinery/pkg/types"

	"github.com/bulkhead-dev/bulkhead/internal/frame"
	"github.com/bulkhead-dev/bulkhead/internal/ruleset"
	"github.com/bulkhead-dev/bulkhead/internal/unixsocket"
)

// Receiver takes what a feeder says. Its methods are called one at a time, but Held
// and Rules at any.
type Receiver interface {
	// Connected begins a feeder's account, which starts from nothing: what it does not
	// repeat before PodsComplete is no longer so.
	Connected()
	// Disconnected says that the feeder is away.
	Disconnected()
	PutPod(Pod) error
	RemovePod(types.UID)
	PodsComplete()
	// Held are the rules of all tenants.
	Held() []Held
	// Rules are a tenant's rules, nil if there are none.
	Rules(tenant types.UID) *ruleset.Set
	// PutRules replaces a tenant's rules with newer ones. delta leads to them from
	// those before, or is nil.
	PutRules(set *ruleset.Set, delta *ruleset.Delta, trigger time.Time) error
	SetPending(tenant types.UID, reason string) error
	Forget(tenant types.UID)
}

// Server is cri-ext's end. It has one feeder at a time, the newest.
type Server struct {
	receiver Receiver
	metrics  func() ([]byte, error)
	uid      uint32
	log      logr.Logger

	// sessions is held by the session that may talk to the receiver.
	sessions sync.Mutex

	mu      sync.Mutex
	current *session
	reports []Report
	dropped uint64
}

// reportsQueued is the number of reports that wait for a feeder; the oldest go first.
const reportsQueued = 1024

// acceptPause is between tries to accept a connection.
const acceptPause = 200 * time.Millisecond

// NewServer makes a server. metrics gives the metrics that a feeder asks for; uid is
// the user that a feeder has to run as.
func NewServer(receiver Receiver, metrics func() ([]byte, error), uid uint32, log logr.Logger) *Server {
	return &Server{receiver: receiver, metrics: metrics, uid: uid, log: log}
}

// Report tells the feeder something about a pod, now or when there is one.
func (s *Server) Report(report Report) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.reports) == reportsQueued {
		s.reports = s.reports[1:]
		s.dropped++
	}
	s.reports = append(s.reports, report)
	if s.current != nil {
		s.current.poke()
	}
}

// Dropped is the number of reports that no feeder came to hear.
func (s *Server) Dropped() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.dropped
}

// Serve serves feeders until ctx ends.
func (s *Server) Serve(ctx context.Context, listener *net.UnixListener) error {
	var running sync.WaitGroup
	defer running.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(ctx, func() { listener.Close() })()
	for {
		conn, err := listener.AcceptUnix()
		switch {
		case err != nil && ctx.Err() != nil:
			return nil
		case errors.Is(err, net.ErrClosed):
			return fmt.Errorf("accepting a feeder: %w", err)
		case err != nil: // too many files are open, or the like
			s.log.Error(err, "Accepting a feeder")
			select {
			case <-ctx.Done():
			case <-time.After(acceptPause):
			}
			continue
		}
		if err := unixsocket.CheckPeer(conn, s.uid); err != nil {
			s.log.Error(err, "Refused a feeder")
			conn.Close()
			continue
		}
		running.Go(func() {
			if err := s.converse(ctx, conn); err != nil && ctx.Err() == nil {
				s.log.Info("A feeder is gone", "reason", err.Error())
			}
		})
	}
}

// session is one feeder.
type session struct {
	conn     net.Conn
	wake     chan struct{}
	replaced chan struct{}

	mu sync.Mutex
	// Answers that the writer has to give, few as the reader waits for room.
	resend  map[types.UID]bool
	metrics []uint64
}

func (s *session) poke() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

func (s *session) isReplaced() bool {
	select {
	case <-s.replaced:
		return true
	default:
		return false
	}
}

// take makes the session the server's only one, and returns when the one before has
// ended.
func (s *Server) take(newest *session) {
	s.mu.Lock()
	old := s.current
	s.current = newest
	s.mu.Unlock()
	if old != nil {
		close(old.replaced)
	}
	s.sessions.Lock()
}

func (s *Server) release(old *session) {
	s.mu.Lock()
	if s.current == old {
		s.current = nil
	}
	s.mu.Unlock()
	s.sessions.Unlock()
}

// converse speaks the protocol on a connection, and closes it.
func (s *Server) converse(ctx context.Context, conn net.Conn) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	defer conn.Close()
	feeder := &session{conn: conn, wake: make(chan struct{}, 1), replaced: make(chan struct{}), resend: map[types.UID]bool{}}
	s.take(feeder)
	defer s.release(feeder)
	// Reading ends as soon as a newer feeder is there.
	go func() {
		select {
		case <-feeder.replaced:
			_ = conn.SetReadDeadline(time.Now()) // it fails on what is closed already
		case <-ctx.Done():
		}
	}()
	reader, writer := frame.NewReader(conn, maxToServer, false), frame.NewWriter(conn)
	if err := s.greet(conn, reader, writer); err != nil {
		return fmt.Errorf("greeting the feeder: %w", err)
	}
	if feeder.isReplaced() {
		return errReplaced
	}
	s.receiver.Connected()
	defer s.receiver.Disconnected()
	s.log.Info("A feeder is connected")
	answering, stop := context.WithCancel(ctx)
	var writing sync.WaitGroup
	writing.Go(func() {
		if err := s.answer(answering, feeder, writer); err != nil {
			cancel(err)
		}
	})
	err := s.listen(feeder, reader)
	stop()
	writing.Wait()
	if feeder.isReplaced() {
		// It need not know, but then it will come back later than the newer one's end.
		return errors.Join(errReplaced, conn.SetWriteDeadline(time.Now().Add(time.Second)), writer.Write(kindReplaced, nil))
	}
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	return err
}

func (s *Server) listen(feeder *session, reader *frame.Reader) error {
	for {
		kind, payload, err := reader.Next()
		if err != nil {
			return fmt.Errorf("reading from the feeder: %w", err)
		}
		if err := s.hear(feeder, kind, payload); err != nil {
			return fmt.Errorf("message of kind %d from the feeder: %w", kind, err)
		}
	}
}

func (s *Server) greet(conn net.Conn, reader *frame.Reader, writer *frame.Writer) error {
	if err := conn.SetDeadline(time.Now().Add(greetTimeout)); err != nil {
		return err
	}
	greeting := hello{Version: version}
	for _, h := range s.receiver.Held() {
		greeting.Held = append(greeting.Held, fromHeld(h))
	}
	if err := writeJSON(writer, kindServerHello, greeting); err != nil {
		return err
	}
	kind, payload, err := reader.Next()
	if err != nil {
		return err
	}
	var answer hello
	if kind != kindClientHello {
		return fmt.Errorf("message of kind %d, not a greeting", kind)
	}
	if err := readJSON(payload, maxSmall, &answer); err != nil {
		return err
	}
	if answer.Version != version {
		return fmt.Errorf("it speaks version %d of the protocol, and this is %d: install versions that fit", answer.Version, version)
	}
	return conn.SetDeadline(time.Time{})
}

// hear takes one message of the feeder. An error ends the connection.
func (s *Server) hear(feeder *session, kind byte, payload []byte) error {
	switch kind {
	case kindPod:
		var pod Pod
		if err := readJSON(payload, maxSmall, &pod); err != nil {
			return fmt.Errorf("a pod: %w", err)
		}
		if err := pod.check(); err != nil {
			return err
		}
		return s.receiver.PutPod(pod)
	case kindPodGone:
		uid, err := readUID(payload)
		if err != nil {
			return fmt.Errorf("a pod that is gone: %w", err)
		}
		s.receiver.RemovePod(uid)
	case kindPodsComplete:
		s.receiver.PodsComplete()
	case kindSet, kindDelta:
		return s.hearRules(feeder, kind, payload)
	case kindPending:
		var p pending
		if err := readJSON(payload, maxSmall, &p); err != nil {
			return fmt.Errorf("a reason: %w", err)
		}
		if _, err := readUID([]byte(p.Tenant)); err != nil {
			return fmt.Errorf("a reason's tenant: %w", err)
		}
		return s.receiver.SetPending(p.Tenant, p.Reason)
	case kindForget:
		tenant, err := readUID(payload)
		if err != nil {
			return fmt.Errorf("a tenant to forget: %w", err)
		}
		s.receiver.Forget(tenant)
	case kindMetricsRequest:
		number, _, err := cutNumber(payload)
		if err != nil {
			return err
		}
		return feeder.ask(number)
	}
	// Kinds that a newer feeder may have are passed over.
	return nil
}

// hearRules takes a set or a delta. What does not lead on from what is held is asked
// for again.
func (s *Server) hearRules(feeder *session, kind byte, payload []byte) error {
	trigger, encoded, err := cutTime(payload)
	if err != nil {
		return err
	}
	if kind == kindSet {
		set, err := ruleset.DecodeSet(encoded)
		if err != nil {
			return err
		}
		held := s.receiver.Rules(set.Tenant())
		switch {
		case held == nil || set.Generation() > held.Generation():
			return s.receiver.PutRules(set, nil, trigger)
		case set.Generation() == held.Generation() && set.Digest() == held.Digest():
			return nil
		}
		feeder.again(set.Tenant())
		return nil
	}
	delta, err := ruleset.DecodeDelta(encoded)
	if err != nil {
		return err
	}
	held := s.receiver.Rules(delta.Tenant)
	if held == nil {
		feeder.again(delta.Tenant)
		return nil
	}
	set, err := held.Apply(delta)
	if err != nil {
		s.log.Info("A delta does not fit, the whole set is asked for", "tenant", delta.Tenant, "reason", err.Error())
		feeder.again(delta.Tenant)
		return nil
	}
	return s.receiver.PutRules(set, delta, trigger)
}

func (s *session) again(tenant types.UID) {
	s.mu.Lock()
	s.resend[tenant] = true
	s.mu.Unlock()
	s.poke()
}

func (s *session) ask(number uint64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.metrics) >= requestsKept {
		return errors.New("too many requests for metrics at once")
	}
	s.metrics = append(s.metrics, number)
	s.poke()
	return nil
}

// answer writes to the feeder until ctx ends.
func (s *Server) answer(ctx context.Context, feeder *session, writer *frame.Writer) error {
	for {
		tell := s.nextAnswer(feeder)
		if tell == nil {
			select {
			case <-feeder.wake:
				continue
			case <-ctx.Done():
				return nil
			}
		}
		if err := feeder.conn.SetWriteDeadline(time.Now().Add(writeTimeout)); err != nil {
			return err
		}
		if err := tell(writer); err != nil {
			return fmt.Errorf("writing to the feeder: %w", err)
		}
	}
}

func (s *Server) nextAnswer(feeder *session) func(*frame.Writer) error {
	feeder.mu.Lock()
	defer feeder.mu.Unlock()
	for tenant := range feeder.resend {
		delete(feeder.resend, tenant)
		h := Held{Tenant: tenant}
		if set := s.receiver.Rules(tenant); set != nil {
			h.Generation, h.Digest = set.Generation(), set.Digest()
		}
		return func(w *frame.Writer) error { return writeJSON(w, kindResend, fromHeld(h)) }
	}
	if len(feeder.metrics) > 0 {
		number := feeder.metrics[0]
		feeder.metrics = feeder.metrics[1:]
		return func(w *frame.Writer) error {
			text, err := s.metrics()
			if err != nil {
				return fmt.Errorf("collecting metrics: %w", err)
			}
			return w.Write(kindMetrics, func(b []byte) []byte { return append(binary.BigEndian.AppendUint64(b, number), text...) })
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.reports) > 0 {
		report := s.reports[0]
		s.reports = s.reports[1:]
		return func(w *frame.Writer) error { return writeJSON(w, kindReport, report) }
	}
	return nil
}
