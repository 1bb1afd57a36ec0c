package guest

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/bulkhead-dev/bulkhead/cri-ext/channel"
	"github.com/bulkhead-dev/bulkhead/cri-ext/transport"
	"github.com/bulkhead-dev/bulkhead/internal/frame"
	"github.com/bulkhead-dev/bulkhead/internal/ruleset"
)

// slack is how much a guest may send besides the answer to a request, in bytes: what
// is left in a serial port, and answers to a hello that was sent again.
const slack = 1 << 20

// session is a connection on which an agent has said hello.
type session struct {
	conn    transport.Conn
	serial  bool
	nonce   nonce
	request uint32
	budget  *budget
	reader  *frame.Reader
	writer  *frame.Writer
	limits  Limits

	// generation is what the guest holds, by its own word.
	generation uint64
}

// budget bounds what is read for one request, whatever the guest sends.
type budget struct {
	from io.Reader
	left int
	size int
}

func (b *budget) Read(buffer []byte) (int, error) {
	if b.left == 0 {
		return 0, fmt.Errorf("the guest floods: it sent %d bytes and no answer", b.size)
	}
	n, err := b.from.Read(buffer[:min(len(buffer), b.left)])
	b.left -= n
	return n, err
}

func newSession(conn transport.Conn, serial bool, limits Limits) (*session, error) {
	s := &session{conn: conn, serial: serial, limits: limits, budget: &budget{from: conn}}
	if _, err := rand.Read(s.nonce[:]); err != nil {
		return nil, err
	}
	s.reader = frame.NewReader(s.budget, agentFrame, serial)
	s.writer = frame.NewWriter(conn)
	return s, nil
}

// begin starts a request whose answer has at most size bytes.
func (s *session) begin(size int) {
	s.request++
	s.budget.left = size + slack
	s.budget.size = s.budget.left
}

// until sets the deadline of what is done next.
func (s *session) until(ctx context.Context, limit time.Duration) error {
	deadline := time.Now().Add(limit)
	if end, has := ctx.Deadline(); has && end.Before(deadline) {
		deadline = end
	}
	if err := s.conn.SetDeadline(deadline); err != nil {
		return err
	}
	// If ctx ended before, what ended the waits was undone just now.
	return context.Cause(ctx)
}

func (s *session) write(ctx context.Context, kind byte, body func([]byte) []byte) error {
	if err := s.until(ctx, s.limits.Frame); err != nil {
		return err
	}
	err := s.writer.Write(kind, func(buffer []byte) []byte {
		buffer = appendPrefix(buffer, s.nonce, s.request)
		if body != nil {
			buffer = body(buffer)
		}
		return buffer
	})
	if err != nil {
		return fmt.Errorf("writing: %w", s.slow(ctx, err, "does not read", s.limits.Frame))
	}
	return nil
}

// answer returns the body of the next frame that answers the request, which must be
// of the kind; it is valid until the next call. A failure is a *RefusedError.
func (s *session) answer(ctx context.Context, kind byte, limit time.Duration) ([]byte, error) {
	if err := s.until(ctx, limit); err != nil {
		return nil, err
	}
	others := 0
	for {
		got, payload, err := s.reader.Next()
		if err != nil {
			words := "does not answer"
			if others > 0 {
				words = fmt.Sprintf("does not answer, but sent %d frames that are of no request of this session", others)
			}
			return nil, fmt.Errorf("reading the answer: %w", s.slow(ctx, err, words, limit))
		}
		m, err := parse(payload)
		switch {
		case err == nil && m.nonce == s.nonce && (m.request == s.request || kind == kindWelcome && m.request < s.request):
		case s.serial || err == nil && m.nonce == s.nonce && m.request < s.request:
			others++
			continue
		case err != nil:
			return nil, err
		default:
			return nil, fmt.Errorf("the guest answers a request that was not made (session or number is wrong)")
		}
		switch got {
		case kind:
			return m.body, nil
		case kindFailure:
			refused, err := parseFailure(m.body)
			if err != nil {
				return nil, err
			}
			return nil, refused
		}
		return nil, fmt.Errorf("%w: answer of kind %#x instead of %#x", errMalformed, got, kind)
	}
}

// slow says of a deadline whose it was.
func (s *session) slow(ctx context.Context, err error, words string, limit time.Duration) error {
	if !errors.Is(err, os.ErrDeadlineExceeded) {
		return err
	}
	// The connection's deadline may be seen a moment before the context's own.
	if end, has := ctx.Deadline(); has && !time.Now().Before(end) {
		<-ctx.Done()
	}
	if cause := context.Cause(ctx); cause != nil {
		return fmt.Errorf("the guest %s: %w", words, cause)
	}
	return fmt.Errorf("the guest %s within %v: %w", words, limit, err)
}

// hello begins the session. Over a serial port it is sent again until it is
// answered: the agent may first have to find the end of what another has left.
func (s *session) hello(ctx context.Context, recipient ruleset.Recipient) (channel.Hello, error) {
	s.begin(agentFrame)
	for deadline := time.Now().Add(s.limits.Hello); ; {
		h := hello{oldest: version, newest: version, recipient: recipient}
		if err := s.write(ctx, kindHello, h.append); err != nil {
			return channel.Hello{}, err
		}
		wait := time.Until(deadline)
		if s.serial {
			wait = min(wait, s.limits.Again)
		}
		body, err := s.answer(ctx, kindWelcome, wait)
		if err != nil {
			if s.serial && errors.Is(err, os.ErrDeadlineExceeded) && ctx.Err() == nil {
				if time.Now().Before(deadline) {
					s.request++
					continue
				}
				err = fmt.Errorf("the guest did not answer in %v, and was last asked again: %w", s.limits.Hello, err)
			}
			return channel.Hello{}, err
		}
		welcome, err := parseWelcome(body)
		if err != nil {
			return channel.Hello{}, err
		}
		if welcome.version != version {
			return channel.Hello{}, fmt.Errorf("the agent speaks version %d of the protocol, which was not offered", welcome.version)
		}
		s.generation = welcome.hello.Generation
		return welcome.hello, nil
	}
}

// send sends a message in parts and waits until the guest's kernel has taken it.
func (s *session) send(ctx context.Context, kind byte, data []byte, set *ruleset.Set) (channel.Ack, error) {
	s.begin(agentFrame)
	err := split(data, hostPart, func(encode func([]byte) []byte) error { return s.write(ctx, kind, encode) })
	if err != nil {
		return channel.Ack{}, err
	}
	body, err := s.answer(ctx, kindAck, s.limits.Answer)
	if err != nil {
		return channel.Ack{}, err
	}
	got, err := parseAck(body)
	if err != nil {
		return channel.Ack{}, err
	}
	if got.generation != set.Generation() || got.digest != set.Digest() {
		return channel.Ack{}, fmt.Errorf("the guest acknowledges generation %d with digest %s, but was sent %d with %s",
			got.generation, got.digest, set.Generation(), set.Digest())
	}
	s.generation = got.generation
	return channel.Ack{
		Generation: got.generation, Digest: got.digest, Delta: kind == kindDelta,
		// A guest's own measure, cut at a value that nobody can believe.
		Programming: time.Duration(min(got.microseconds, uint64(time.Hour/time.Microsecond))) * time.Microsecond,
	}, nil
}

func (s *session) dump(ctx context.Context) ([]ruleset.Service, error) {
	s.begin(2 * messageLimit)
	if err := s.write(ctx, kindDump, nil); err != nil {
		return nil, err
	}
	var whole parts
	for limit := s.limits.Answer; ; limit = s.limits.Frame {
		body, err := s.answer(ctx, kindServices, limit)
		if err != nil {
			return nil, err
		}
		complete, err := whole.add(body)
		if err != nil {
			return nil, err
		}
		if complete {
			return ruleset.DecodeServices(whole.data)
		}
	}
}

func (s *session) repair(ctx context.Context) (int, error) {
	s.begin(agentFrame)
	if err := s.write(ctx, kindRepair, nil); err != nil {
		return 0, err
	}
	body, err := s.answer(ctx, kindRepaired, s.limits.Answer)
	if err != nil {
		return 0, err
	}
	return parseCount(body)
}
