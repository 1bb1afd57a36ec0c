package feed

import (
	"bytes"
	"io"
	"net"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"k8s.io/apimachinery/pkg/types"

	"github.com/bulkhead-dev/bulkhead/internal/frame"
)

// pipe is a connection that reads what it is given and takes whatever is written.
type pipe struct{ *bytes.Reader }

func (pipe) Write(p []byte) (int, error)      { return len(p), nil }
func (pipe) Close() error                     { return nil }
func (pipe) LocalAddr() net.Addr              { return nil }
func (pipe) RemoteAddr() net.Addr             { return nil }
func (pipe) SetDeadline(time.Time) error      { return nil }
func (pipe) SetReadDeadline(time.Time) error  { return nil }
func (pipe) SetWriteDeadline(time.Time) error { return nil }

// speech is some messages as one end would write them.
func speech(f *testing.F, write func(w *frame.Writer) error) []byte {
	var buffer bytes.Buffer
	if err := write(frame.NewWriter(&buffer)); err != nil {
		f.Fatal(err)
	}
	return buffer.Bytes()
}

// What a feeder says, whatever it is, ends in an error or in what Receiver can hold.
func FuzzServer(f *testing.F) {
	f.Add(byte(kindPod), []byte(`{"uid":"u","namespace":"vc-x","name":"n","tenant":"t"}`))
	f.Add(byte(kindPodGone), []byte("u"))
	f.Add(byte(kindPending), []byte(`{"tenant":"t","reason":"r"}`))
	f.Add(byte(kindForget), []byte("t"))
	f.Add(byte(kindMetricsRequest), make([]byte, 8))
	f.Add(byte(kindSet), speech(f, func(w *frame.Writer) error { return nil }))
	f.Fuzz(func(t *testing.T, kind byte, payload []byte) {
		receiver := newRecorder()
		server := NewServer(receiver, nil, 0, logr.Discard())
		var buffer bytes.Buffer
		w := frame.NewWriter(&buffer)
		if err := writeJSON(w, kindClientHello, hello{Version: version}); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			if err := writeBytes(w, kind, payload); err != nil {
				t.Fatal(err)
			}
		}
		conn := pipe{bytes.NewReader(buffer.Bytes())}
		feeder := &session{conn: conn, wake: make(chan struct{}, 1)}
		feeder.resend = map[types.UID]bool{}
		reader := frame.NewReader(conn, maxToServer, false)
		if err := server.greet(conn, reader, frame.NewWriter(io.Discard)); err != nil {
			t.Fatal(err)
		}
		if err := server.listen(feeder, reader); err == nil {
			t.Fatal("a connection that ends is no error")
		}
		for uid, pod := range receiver.pods {
			if uid == "" || pod.check() != nil {
				t.Fatalf("took pod %+v", pod)
			}
		}
	})
}

// What a server says, whatever it is, ends in an error and leaves the client able to
// say all it has to.
func FuzzClient(f *testing.F) {
	digest := "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"
	f.Add(byte(kindResend), []byte(`{"tenant":"a","generation":7,"digest":"`+digest+`"}`), []byte(`{"version":1}`))
	f.Add(byte(kindReport), []byte(`{"pod":{},"reason":"x"}`), []byte(`{"version":1,"held":[{"tenant":"a","generation":18446744073709551615,"digest":"`+digest+`"}]}`))
	f.Add(byte(kindMetrics), make([]byte, 12), []byte(`{"version":1}`))
	f.Add(byte(kindReplaced), []byte{}, []byte(`{"version":1}`))
	f.Fuzz(func(t *testing.T, kind byte, payload, greeting []byte) {
		client := NewClient("", logr.Discard())
		if err := client.PutRules("a", nil, services(3, 80), time.Time{}); err != nil {
			t.Fatal(err)
		}
		var buffer bytes.Buffer
		w := frame.NewWriter(&buffer)
		if err := writeBytes(w, kindServerHello, greeting); err != nil {
			t.Fatal(err)
		}
		if err := writeBytes(w, kind, payload); err != nil {
			t.Fatal(err)
		}
		if err := client.converse(t.Context(), pipe{bytes.NewReader(buffer.Bytes())}); err == nil {
			t.Fatal("a connection that ends is no error")
		}
		writer := frame.NewWriter(io.Discard)
		for tell := client.next(); tell != nil; tell = client.next() {
			if err := tell(writer); err != nil {
				t.Fatal(err)
			}
		}
	})
}
