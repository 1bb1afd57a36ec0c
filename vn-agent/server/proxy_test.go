package server

import (
	"bufio"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/bulkhead-dev/bulkhead/vn-agent/pods"
)

// upgradedConn is a kubelet's side of an upgraded connection that takes no input
// any more, and speaks only once it was tried.
type upgradedConn struct {
	tried  chan struct{}
	once   sync.Once
	output io.Reader
	closed chan struct{}
}

func (c *upgradedConn) Write([]byte) (int, error) {
	c.once.Do(func() { close(c.tried) })
	return 0, errors.New("connection reset by peer")
}

func (c *upgradedConn) Read(to []byte) (int, error) {
	select {
	case <-c.tried:
		return c.output.Read(to)
	case <-c.closed:
		return 0, net.ErrClosed
	}
}

func (c *upgradedConn) Close() error {
	select {
	case <-c.closed:
	default:
		close(c.closed)
	}
	return nil
}

type answer func(*http.Request) (*http.Response, error)

func (a answer) RoundTrip(r *http.Request) (*http.Response, error) { return a(r) }

// serveForward serves forward alone, in front of what stands for the kubelet.
func serveForward(t *testing.T, kubelet answer) net.Conn {
	t.Helper()
	s := &Server{Kubelet: kubelet, errorLog: log.New(io.Discard, "", 0), metrics: newMetrics()}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.forward(&recorder{ResponseWriter: w}, r, &url.URL{Scheme: "https", Host: "kubelet", Path: "/exec/n/p/c"}, pods.Pod{})
	}))
	t.Cleanup(server.Close)
	conn, err := net.Dial("tcp", server.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	return conn
}

// upgrade asks for a session and returns where to read what the kubelet says.
func upgrade(t *testing.T, conn net.Conn) *bufio.Reader {
	t.Helper()
	send(t, conn, "POST /exec/n/p/c HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\r\n")
	reader := bufio.NewReader(conn)
	for status := ""; ; {
		line, err := reader.ReadString('\n')
		if err != nil {
			t.Fatal(err)
		}
		if status == "" {
			status = line
		}
		if line == "\r\n" {
			if !strings.HasPrefix(status, "HTTP/1.1 101 ") {
				t.Fatal(status)
			}
			return reader
		}
	}
}

func send(t *testing.T, conn net.Conn, text string) {
	t.Helper()
	if _, err := io.WriteString(conn, text); err != nil {
		t.Fatal(err)
	}
}

func switching(body io.ReadWriteCloser) answer {
	return func(r *http.Request) (*http.Response, error) {
		return &http.Response{
			StatusCode: http.StatusSwitchingProtocols, ProtoMajor: 1, ProtoMinor: 1, Request: r,
			Header: http.Header{"Connection": {"Upgrade"}, "Upgrade": {"SPDY/3.1"}}, Body: body,
		}, nil
	}
}

// A command that ends while the user types: its output and exit code come after the
// first keystroke that nobody takes.
func TestTheLastWordsOfASessionArrive(t *testing.T) {
	kubelet := &upgradedConn{tried: make(chan struct{}), output: strings.NewReader("last words"), closed: make(chan struct{})}
	conn := serveForward(t, switching(kubelet))
	reader := upgrade(t, conn)
	send(t, conn, "typed too late")
	if got, err := io.ReadAll(reader); err != nil || string(got) != "last words" {
		t.Errorf("%q, %v", got, err)
	}
	_ = conn.Close()
	<-kubelet.closed
}

// A kubelet that never ends a session must not hold its place once the client has gone.
func TestASessionEndsWithItsClient(t *testing.T) {
	kubelet := &upgradedConn{tried: make(chan struct{}), closed: make(chan struct{})} // silent for ever
	conn := serveForward(t, switching(kubelet))
	upgrade(t, conn)
	_ = conn.Close()
	select {
	case <-kubelet.closed:
	case <-time.After(time.Minute):
		t.Error("the kubelet's side is still open")
	}
}
