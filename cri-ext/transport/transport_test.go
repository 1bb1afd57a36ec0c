package transport

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestHybridReachesThePort(t *testing.T) {
	m, socket := newMultiplexer(t, map[uint32]func(net.Conn){
		10240: func(conn net.Conn) {
			// In the same packet as OK, or nearly: it must not be lost.
			fmt.Fprint(conn, "guest speaks first\n")
			line, err := bufio.NewReader(conn).ReadString('\n')
			if err == nil {
				fmt.Fprint(conn, "echo ", line)
			}
		},
	})
	socket.PID = int32(os.Getpid())
	var registry Registry
	dialer, err := registry.Hybrid("one", socket, 10240)
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		conn, err := dialer.Dial(ctx)
		if err != nil {
			t.Fatal(err)
		}
		cancel() // bounds the opening only
		fmt.Fprint(conn, "hello\n")
		got, err := io.ReadAll(conn)
		if err != nil || string(got) != "guest speaks first\necho hello\n" {
			t.Errorf("got %q, %v", got, err)
		}
		conn.Close()
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, line := range m.seen {
		if line != "CONNECT 10240\n" {
			t.Errorf("asked with %q", line)
		}
	}
	if dialer.Serial() {
		t.Error("vsock is taken for a serial line")
	}
}

func TestHybridFailures(t *testing.T) {
	_, socket := newMultiplexer(t, nil)
	fails(t, socket, 5, "nobody in the guest listens there")

	// Answers that Firecracker does not give, but a monitor that was taken over may.
	for name, tt := range map[string]struct {
		answer, words string
		stays         bool
	}{
		"another answer":  {"NO 5\n", `the answer is "NO 5"`, false},
		"no port":         {"OK\n", `the answer is "OK"`, false},
		"no number":       {"OK five\n", `the answer is "OK five"`, false},
		"too large":       {"OK 4294967296\n", "and not OK with a port", false},
		"negative":        {"OK -1\n", "and not OK with a port", false},
		"does not end":    {strings.Repeat("O", 100), "does not end", true},
		"half an answer":  {"OK 1", "unexpected", false},
		"silence":         {"", "i/o timeout", true},
		"control symbols": {"\x1b[2J\n", `"\x1b[2J"`, false},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(folder(t), "vsock.sock")
			listener, err := net.Listen("unix", path)
			if err != nil {
				t.Fatal(err)
			}
			defer listener.Close()
			go func() {
				conn, err := listener.Accept()
				if err != nil {
					return
				}
				defer conn.Close()
				_, _ = bufio.NewReader(conn).ReadString('\n')
				_, _ = io.WriteString(conn, tt.answer)
				if tt.stays {
					_, _ = io.Copy(io.Discard, conn)
				}
			}()
			fails(t, Socket{Path: path}, 5, strings.Replace(tt.words, "unexpected", "EOF", 1))
		})
	}
	t.Run("nobody listens", func(t *testing.T) {
		path := filepath.Join(folder(t), "vsock.sock")
		listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
		if err != nil {
			t.Fatal(err)
		}
		listener.SetUnlinkOnClose(false)
		listener.Close()
		fails(t, Socket{Path: path}, 5, "connection refused")
	})
	t.Run("not there", func(t *testing.T) {
		fails(t, Socket{Path: filepath.Join(folder(t), "vsock.sock")}, 5, "no such file")
	})
}

// fails dials and wants an error with the words.
func fails(t *testing.T, socket Socket, port uint32, words string) {
	t.Helper()
	var registry Registry
	dialer, err := registry.Hybrid("one", socket, port)
	if err != nil {
		t.Fatal(err)
	}
	limit, times := time.Minute, words == "i/o timeout"
	if times {
		limit = 200 * time.Millisecond
	}
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	conn, err := dialer.Dial(ctx)
	if err == nil {
		conn.Close()
		t.Fatal("there is a connection")
	}
	late := times && errors.Is(err, context.DeadlineExceeded)
	if !late && !strings.Contains(err.Error(), words) {
		t.Errorf("the error does not say %q: %v", words, err)
	}
}

// TestSocketsThatOthersCouldHavePut tries what a tenant that got a foothold in a
// sandbox's folder could do.
func TestSocketsThatOthersCouldHavePut(t *testing.T) {
	echo := map[uint32]func(net.Conn){5: func(net.Conn) {}}
	t.Run("symbolic link", func(t *testing.T) {
		_, socket := newMultiplexer(t, echo)
		link := filepath.Join(folder(t), "vsock.sock")
		if err := os.Symlink(socket.Path, link); err != nil {
			t.Fatal(err)
		}
		fails(t, Socket{Path: link}, 5, "without following links")
	})
	t.Run("symbolic link on the way", func(t *testing.T) {
		_, socket := newMultiplexer(t, echo)
		link := filepath.Join(folder(t), "sandbox")
		if err := os.Symlink(filepath.Dir(socket.Path), link); err != nil {
			t.Fatal(err)
		}
		fails(t, Socket{Path: filepath.Join(link, "vsock.sock")}, 5, "without following links")
	})
	t.Run("another user's", func(t *testing.T) {
		_, socket := newMultiplexer(t, echo)
		if err := os.Chown(socket.Path, 65534, 0); err != nil {
			t.Fatal(err)
		}
		fails(t, socket, 5, "belongs to user 65534, not 0")
	})
	t.Run("in another user's folder", func(t *testing.T) {
		_, socket := newMultiplexer(t, echo)
		if err := os.Chown(filepath.Dir(socket.Path), 65534, 0); err != nil {
			t.Fatal(err)
		}
		fails(t, socket, 5, "others than user 0 could put another socket there")
	})
	t.Run("in everybody's folder", func(t *testing.T) {
		_, socket := newMultiplexer(t, echo)
		if err := os.Chmod(filepath.Dir(socket.Path), 0o777); err != nil {
			t.Fatal(err)
		}
		fails(t, socket, 5, "others than user 0 could put another socket there")
	})
	t.Run("a file", func(t *testing.T) {
		path := filepath.Join(folder(t), "vsock.sock")
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		fails(t, Socket{Path: path}, 5, "is no socket")
	})
	t.Run("another process", func(t *testing.T) {
		_, socket := newMultiplexer(t, echo)
		socket.PID = 1
		fails(t, socket, 5, "not the sandbox's 1")
	})
	t.Run("jailed monitor that is none", func(t *testing.T) {
		_, socket := newMultiplexer(t, echo)
		socket.Owner = 65534
		if err := os.Chown(socket.Path, 65534, 0); err != nil {
			t.Fatal(err)
		}
		fails(t, socket, 5, "runs as user 0, not 65534")
	})
	for _, path := range []string{"relative.sock", "/run/../run/x.sock", "/run//x.sock", ""} {
		var registry Registry
		if _, err := registry.Hybrid("one", Socket{Path: path}, 5); err == nil {
			t.Errorf("path %q was accepted", path)
		}
		if _, err := registry.Serial("one", Socket{Path: path}); err == nil {
			t.Errorf("path %q was accepted for a serial port", path)
		}
	}
}

// A path may be longer than an address of a unix socket can be.
func TestLongPath(t *testing.T) {
	dir := filepath.Join(folder(t), strings.Repeat("sandbox-", 20))
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	_, short := newMultiplexer(t, map[uint32]func(net.Conn){5: func(net.Conn) {}})
	path := filepath.Join(dir, "vsock.sock")
	if err := os.Rename(short.Path, path); err != nil {
		t.Fatal(err)
	}
	var registry Registry
	dialer, err := registry.Hybrid("one", Socket{Path: path}, 5)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := dialer.Dial(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
}

func TestWaysBelongToOneSandbox(t *testing.T) {
	var registry Registry
	claims := map[string]func(sandbox string) (Dialer, error){
		"vsock":  func(s string) (Dialer, error) { return registry.Vsock(s, 3, 10240) },
		"hybrid": func(s string) (Dialer, error) { return registry.Hybrid(s, Socket{Path: "/run/a"}, 10240) },
		"serial": func(s string) (Dialer, error) { return registry.Serial(s, Socket{Path: "/run/b"}) },
	}
	for name, claim := range claims {
		first, err := claim("one")
		if err != nil {
			t.Fatal(err)
		}
		var claimed *ClaimedError
		if _, err := claim("two"); !errors.As(err, &claimed) || claimed.Owner != "one" || claimed.Sandbox != "two" {
			t.Errorf("%s claimed twice: %v", name, err)
		}
		first.Close()
		second, err := claim("two")
		if err != nil {
			t.Errorf("%s after it was given up: %v", name, err)
			continue
		}
		first.Close() // again: it is not its own any more
		if _, err := claim("three"); !errors.As(err, &claimed) {
			t.Errorf("%s was taken away by who had given it up: %v", name, err)
		}
		second.Close()
		if _, err := claim(""); err == nil {
			t.Errorf("%s was claimed for no sandbox", name)
		}
	}
	// Other ports of a guest are the same guest.
	if _, err := registry.Vsock("one", 7, 1); err != nil {
		t.Fatal(err)
	}
	if _, err := registry.Vsock("two", 7, 2); err == nil {
		t.Error("another port of a guest went to another sandbox")
	}
	for _, cid := range []uint32{unix.VMADDR_CID_HYPERVISOR, unix.VMADDR_CID_LOCAL, unix.VMADDR_CID_HOST, unix.VMADDR_CID_ANY} {
		if _, err := registry.Vsock("one", cid, 10240); err == nil {
			t.Errorf("context ID %d was taken for a guest's", cid)
		}
	}
}
