package transport

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
)

// multiplexer speaks as Firecracker does on the socket of a guest's vsock (docs/vsock.md
// and src/vmm/src/devices/virtio/vsock/unix/muxer.rs of v1.13): a line of at most 32
// bytes with "CONNECT", in any case, and a decimal port; "OK" and the port that it chose
// at the host once the guest has accepted; otherwise, and at the line it does not
// understand, it hangs up.
type multiplexer struct {
	listener net.Listener
	// ports are what the guest listens on.
	ports map[uint32]func(conn net.Conn)

	mu   sync.Mutex
	next uint32
	seen []string
}

func newMultiplexer(t *testing.T, ports map[uint32]func(conn net.Conn)) (*multiplexer, Socket) {
	t.Helper()
	path := filepath.Join(folder(t), "vsock.sock")
	listener, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	m := &multiplexer{listener: listener, ports: ports, next: 1 << 30}
	var group sync.WaitGroup
	group.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			group.Go(func() { m.serve(conn) })
		}
	})
	t.Cleanup(func() { listener.Close(); group.Wait() })
	return m, Socket{Path: path}
}

// folder is one that root alone can write to, as the sockets' have to be.
func folder(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "bh-transport-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func (m *multiplexer) serve(conn net.Conn) {
	defer conn.Close()
	line, err := bufio.NewReader(io.LimitReader(conn, 32)).ReadString('\n')
	if err != nil {
		return
	}
	m.mu.Lock()
	m.seen = append(m.seen, line)
	m.next++
	host := m.next
	m.mu.Unlock()
	words := strings.Fields(line)
	if len(words) < 2 || strings.ToLower(words[0]) != "connect" {
		return
	}
	port, err := strconv.ParseUint(words[1], 10, 32)
	if err != nil {
		return
	}
	guest, listens := m.ports[uint32(port)]
	if !listens {
		return // the guest answers with a reset
	}
	if _, err := fmt.Fprintf(conn, "OK %d\n", host); err != nil {
		return
	}
	guest(conn)
}
