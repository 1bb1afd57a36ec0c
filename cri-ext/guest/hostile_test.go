package guest

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/bulkhead-dev/bulkhead/internal/frame"
	"github.com/bulkhead-dev/bulkhead/internal/ruleset"
)

// hostile is a guest that is honest until a request of the kind comes, and then does
// what the test says.
type hostile struct {
	at byte
	do func(conn net.Conn, w *frame.Writer, m message)
}

func (h hostile) accept(conn net.Conn) {
	defer conn.Close()
	writer := frame.NewWriter(conn)
	honest := &peer{server: agent(&memory{}), conn: conn, writer: writer}
	reader := frame.NewReader(conn, hostFrame, false)
	for {
		kind, payload, err := reader.Next()
		if err != nil {
			return
		}
		m, err := parse(payload)
		if err != nil {
			return
		}
		if kind == h.at {
			h.do(conn, writer, m)
			_, _ = io.Copy(io.Discard, conn)
			return
		}
		if err := honest.handle(context.Background(), kind, m); err != nil {
			return
		}
	}
}

func reply(w *frame.Writer, kind byte, m message, body []byte) error {
	return w.Write(kind, func(buffer []byte) []byte { return append(appendPrefix(buffer, m.nonce, m.request), body...) })
}

// TestHostileGuest has a guest do its worst. The call ends in time with words, and
// the same client is of use again once the guest is.
func TestHostileGuest(t *testing.T) {
	own := set(t, ours.Tenant, 3, services(1, 50))
	good := ack{generation: 3, digest: own.Digest()}
	part := func(total, offset uint32, data []byte) []byte {
		return append(binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(nil, total), offset), data...)
	}
	hello := func(c *Client) error { _, err := c.Hello(t.Context()); return err }
	send := func(c *Client) error { _, err := c.Send(t.Context(), grant(t, ours, nil, own)); return err }
	dump := func(c *Client) error { _, err := c.Dump(t.Context()); return err }
	repair := func(c *Client) error { _, err := c.Repair(t.Context()); return err }
	tests := []struct {
		name  string
		at    byte
		call  func(*Client) error
		do    func(conn net.Conn, w *frame.Writer, m message)
		words string
	}{
		{"never answers hello", kindHello, hello, func(net.Conn, *frame.Writer, message) {}, "does not answer within"},
		{"never answers rules", kindSnapshot, send, func(net.Conn, *frame.Writer, message) {}, "does not answer within"},
		{"never answers a dump", kindDump, dump, func(net.Conn, *frame.Writer, message) {}, "does not answer within"},
		{"closes", kindRepair, repair, func(conn net.Conn, _ *frame.Writer, _ message) { conn.Close() }, "EOF"},
		{"is slow", kindHello, hello, func(conn net.Conn, _ *frame.Writer, _ message) {
			for {
				if _, err := conn.Write([]byte{0xB5}); err != nil {
					return
				}
				<-time.After(10 * time.Millisecond)
			}
		}, ""},
		{"stops in a frame", kindHello, hello, func(conn net.Conn, _ *frame.Writer, _ message) {
			_, _ = conn.Write([]byte{0xB5, 'b', 'h', 0x1A, kindWelcome, 0, 0, 0xff, 0, 1, 2, 3, 4, 5})
		}, "does not answer within"},
		{"announces 4 GiB", kindSnapshot, send, func(conn net.Conn, _ *frame.Writer, _ message) {
			_, _ = conn.Write([]byte{0xB5, 'b', 'h', 0x1A, kindAck, 0xff, 0xff, 0xff, 0xff, 1, 2, 3, 4})
		}, "frame of 4294967295 bytes exceeds 65536"},
		{"sends garbage", kindDump, dump, func(conn net.Conn, _ *frame.Writer, _ message) {
			_, _ = conn.Write(bytes.Repeat([]byte("garbage"), 100))
		}, ""},
		{"floods with garbage", kindDump, dump, func(conn net.Conn, _ *frame.Writer, _ message) {
			for {
				if _, err := conn.Write(make([]byte, 1<<16)); err != nil {
					return
				}
			}
		}, ""},
		{"floods with frames", kindSnapshot, send, func(_ net.Conn, w *frame.Writer, m message) {
			m.request-- // of the hello, which was answered
			for reply(w, kindAck, m, make([]byte, 60000)) == nil {
			}
		}, "floods"},
		{"answers in another session", kindSnapshot, send, func(_ net.Conn, w *frame.Writer, m message) {
			m.nonce[0]++
			_ = reply(w, kindAck, m, good.append(nil))
		}, ""},
		{"answers what was not asked", kindSnapshot, send, func(_ net.Conn, w *frame.Writer, m message) {
			m.request++
			_ = reply(w, kindAck, m, good.append(nil))
		}, ""},
		{"answers with another kind", kindSnapshot, send, func(_ net.Conn, w *frame.Writer, m message) {
			_ = reply(w, kindRepaired, m, []byte{1})
		}, "kind 0x84 instead of 0x82"},
		{"lies about the generation", kindSnapshot, send, func(_ net.Conn, w *frame.Writer, m message) {
			_ = reply(w, kindAck, m, ack{generation: 4, digest: own.Digest()}.append(nil))
		}, "acknowledges generation 4"},
		{"lies about the digest", kindSnapshot, send, func(_ net.Conn, w *frame.Writer, m message) {
			_ = reply(w, kindAck, m, ack{generation: 3}.append(nil))
		}, "digest 000000000000, but was sent"},
		{"says more than an acknowledgement", kindSnapshot, send, func(_ net.Conn, w *frame.Writer, m message) {
			_ = reply(w, kindAck, m, append(good.append(nil), 0))
		}, "1 bytes too many"},
		{"speaks an unknown version", kindHello, hello, func(_ net.Conn, w *frame.Writer, m message) {
			_ = reply(w, kindWelcome, m, welcome{version: 9}.append(nil))
		}, "version 9"},
		{"has a thousand backends", kindHello, hello, func(_ net.Conn, w *frame.Writer, m message) {
			body := welcome{version: version}.append(nil)
			_ = reply(w, kindWelcome, m, append(body[:len(body)-1], 0xe8, 0x07))
		}, "1000 backends"},
		{"talks too much when it refuses", kindSnapshot, send, func(_ net.Conn, w *frame.Writer, m message) {
			_ = reply(w, kindFailure, m, appendText([]byte{byte(KernelFailed)}, strings.Repeat("x", maxWords+1)))
		}, "text of 1025 bytes"},
		{"paints the terminal", kindSnapshot, send, func(_ net.Conn, w *frame.Writer, m message) {
			_ = reply(w, kindFailure, m, appendFailure(nil, KernelFailed, "\x1b]0;root\x07 \xff fine"))
		}, "refuses: ?]0;root? ? fine"},
		{"announces an endless dump", kindDump, dump, func(_ net.Conn, w *frame.Writer, m message) {
			_ = reply(w, kindServices, m, part(1<<31, 0, []byte{1}))
		}, "2147483648 bytes exceed"},
		{"leaves a gap in a dump", kindDump, dump, func(_ net.Conn, w *frame.Writer, m message) {
			_ = reply(w, kindServices, m, part(100, 0, make([]byte, 10)))
			_ = reply(w, kindServices, m, part(100, 20, make([]byte, 10)))
		}, "does not follow"},
		{"sends nothing in a dump's parts", kindDump, dump, func(_ net.Conn, w *frame.Writer, m message) {
			for reply(w, kindServices, m, part(100, 0, nil)) == nil {
			}
		}, "part of 0 bytes"},
		{"dumps nonsense", kindDump, dump, func(_ net.Conn, w *frame.Writer, m message) {
			_ = reply(w, kindServices, m, part(3, 0, []byte{0xff, 0xff, 0x03}))
		}, "rule set"},
		{"dumps a service of the loopback", kindDump, dump, func(_ net.Conn, w *frame.Writer, m message) {
			data := []byte{1, 4, 127, 0, 0, 1, 6, 0, 80, 0, 0}
			_ = reply(w, kindServices, m, part(uint32(len(data)), 0, data))
		}, "no address of a service"},
		{"repaired more than there is", kindRepair, repair, func(_ net.Conn, w *frame.Writer, m message) {
			_ = reply(w, kindRepaired, m, binary.AppendUvarint(nil, 1<<60))
		}, "a count of"},
		{"has only ever known another session", kindRepair, repair, func(_ net.Conn, w *frame.Writer, m message) {
			_ = reply(w, kindFailure, m, appendFailure(nil, NoSession, "who are you?"))
		}, "who are you?"},
	}
	limits := func(of time.Duration) Limits {
		return Limits{Hello: of, Frame: of, Answer: of, Again: 20 * time.Millisecond}
	}
	for _, tt := range tests {
		for _, serial := range []bool{false, true} {
			t.Run(tt.name+"/"+kinds(serial), func(t *testing.T) {
				t.Parallel()
				way := &pair{serial: serial, accept: hostile{at: tt.at, do: tt.do}.accept}
				// Only where nothing but time ends the call is it short.
				limit := time.Minute
				if serial || tt.words == "" || tt.words == "does not answer within" {
					limit = 300 * time.Millisecond
				}
				client := NewClient(ours, way, limits(limit))
				err := tt.call(client)
				if err == nil {
					t.Fatal("the guest was believed")
				}
				if !strings.Contains(err.Error(), "sandbox-1 over a pair of sockets") {
					t.Errorf("the error does not name the sandbox: %v", err)
				}
				// A serial port may have anything on it; there, it is the time that ends.
				late := serial && errors.Is(err, os.ErrDeadlineExceeded)
				if !late && !strings.Contains(err.Error(), tt.words) {
					t.Errorf("the error does not say %q: %v", tt.words, err)
				}
				way.accept = serve(t.Context(), agent(&memory{}), serial).accept
				client.drop()
				client.limits = limits(time.Minute)
				if _, err := client.Send(t.Context(), grant(t, ours, nil, own)); err != nil {
					t.Errorf("once the guest is honest: %v", err)
				}
			})
		}
	}
}

// A guest that does not read stops the writer for its time only.
func TestGuestThatDoesNotRead(t *testing.T) {
	way := &pair{accept: func(conn net.Conn) {
		hostile{at: kindSnapshot, do: func(conn net.Conn, _ *frame.Writer, _ message) { <-t.Context().Done() }}.accept(conn)
	}}
	client := NewClient(ours, way, Limits{Frame: 100 * time.Millisecond})
	_, err := client.Send(t.Context(), grant(t, ours, nil, set(t, ours.Tenant, 1, services(1, 60000))))
	if !errors.Is(err, os.ErrDeadlineExceeded) || !strings.Contains(err.Error(), "does not read") {
		t.Errorf("error is %v", err)
	}
}

// A caller that gives up is not kept, whatever the limits are.
func TestCallerGivesUp(t *testing.T) {
	for name, begin := range map[string]func() (context.Context, context.CancelFunc){
		"deadline": func() (context.Context, context.CancelFunc) {
			return context.WithTimeout(t.Context(), 50*time.Millisecond)
		},
		"cancelled": func() (context.Context, context.CancelFunc) {
			ctx, cancel := context.WithCancel(t.Context())
			time.AfterFunc(50*time.Millisecond, cancel)
			return ctx, cancel
		},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := begin()
			defer cancel()
			way := &pair{serial: true, accept: hostile{at: kindHello, do: func(net.Conn, *frame.Writer, message) {}}.accept}
			if _, err := NewClient(ours, way, Limits{}).Hello(ctx); !errors.Is(err, ctx.Err()) {
				t.Errorf("error is %v, want %v", err, ctx.Err())
			}
		})
	}
}

// FuzzGuest plays whatever to the host: it must end with an error or an answer that
// is within bounds, and never believe an acknowledgement that is not of its rules.
func FuzzGuest(f *testing.F) {
	own := set(f, ours.Tenant, 3, services(1, 2))
	var seed bytes.Buffer
	w := frame.NewWriter(&seed)
	m := message{request: 1}
	_ = reply(w, kindWelcome, m, welcome{version: version}.append(nil))
	m.request = 2
	_ = reply(w, kindAck, m, ack{generation: 3, digest: own.Digest()}.append(nil))
	m.request = 3
	data := ruleset.EncodeServices(nil, own.Services())
	_ = split(data, 20, func(encode func([]byte) []byte) error { return reply(w, kindServices, m, encode(nil)) })
	m.request = 4
	_ = reply(w, kindRepaired, m, []byte{2})
	f.Add(seed.Bytes(), true)
	f.Add(seed.Bytes(), false)
	f.Fuzz(func(t *testing.T, stream []byte, serial bool) {
		limits := Limits{}.withDefaults()
		s, err := newSession(tape{bytes.NewReader(stream)}, serial, limits)
		if err != nil {
			t.Fatal(err)
		}
		s.nonce = nonce{} // as in what is played
		ctx := t.Context()
		if _, err := s.hello(ctx, ours); err != nil {
			return
		}
		if got, err := s.send(ctx, kindSnapshot, own.Encode(nil), own); err == nil && (got.Generation != 3 || got.Digest != own.Digest()) {
			t.Fatalf("believed %+v", got)
		}
		if got, err := s.dump(ctx); err == nil && len(got) > ruleset.MaxServices {
			t.Fatalf("believed %d services", len(got))
		}
		_, _ = s.repair(ctx)
	})
}

// FuzzHost plays whatever to the agent: it must go on or hang up, answer within the
// bounds that the host has, and never hold another tenant's rules.
func FuzzHost(f *testing.F) {
	own := set(f, ours.Tenant, 3, services(1, 2))
	next := set(f, ours.Tenant, 4, services(1, 3))
	delta, err := ruleset.Diff(own, next)
	if err != nil {
		f.Fatal(err)
	}
	foreign := set(f, "tenant-b", 5, services(2, 2))
	var seed bytes.Buffer
	w := frame.NewWriter(&seed)
	m := message{request: 1}
	_ = reply(w, kindHello, m, hello{oldest: 1, newest: 1, recipient: ours}.append(nil))
	for kind, data := range map[byte][]byte{kindSnapshot: own.Encode(nil), kindDelta: delta.Encode(nil)} {
		m.request++
		_ = split(data, 30, func(encode func([]byte) []byte) error { return reply(w, kind, m, encode(nil)) })
	}
	m.request++
	_ = reply(w, kindDump, m, nil)
	_ = reply(w, kindRepair, m, nil)
	_ = split(foreign.Encode(nil), 1000, func(encode func([]byte) []byte) error { return reply(w, kindSnapshot, m, encode(nil)) })
	f.Add(seed.Bytes(), true)
	f.Add(seed.Bytes(), false)
	f.Fuzz(func(t *testing.T, stream []byte, serial bool) {
		engine := &memory{}
		server := agent(engine)
		server.bound = ours
		var answers bytes.Buffer
		_ = server.Serve(t.Context(), play{bytes.NewReader(stream), &answers}, serial)
		if engine.set != nil && engine.set.Tenant() != ours.Tenant {
			t.Fatalf("holds rules of %s", engine.set.Tenant())
		}
		reader := frame.NewReader(&answers, agentFrame, false)
		for {
			kind, payload, err := reader.Next()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil || len(payload) < prefixBytes || kind < kindWelcome {
				t.Fatalf("answered a frame of kind %#x with %d bytes, %v", kind, len(payload), err)
			}
		}
	})
}

// tape is a connection that says what was recorded, and play one that also records.
type tape struct{ *bytes.Reader }

func (tape) Write(data []byte) (int, error) { return len(data), nil }
func (tape) Close() error                   { return nil }
func (tape) SetDeadline(time.Time) error    { return nil }

type play struct {
	*bytes.Reader
	answers *bytes.Buffer
}

func (p play) Write(data []byte) (int, error) { return p.answers.Write(data) }
func (play) Close() error                     { return nil }
func (play) SetDeadline(time.Time) error      { return nil }
