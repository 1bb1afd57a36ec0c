package transport

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
)

// lineLimit bounds the multiplexer's answer, which is "OK" and a port.
const lineLimit = 32

// hybrid reaches a port of a guest's vsock through the unix socket of its monitor:
// "CONNECT port" is sent, "OK port" comes back, and from then on the connection is
// the guest's (Firecracker, docs/vsock.md, "host-initiated connections").
type hybrid struct {
	socket Socket
	port   uint32
}

// Hybrid claims the guest behind a monitor's socket for the sandbox.
func (r *Registry) Hybrid(sandbox string, socket Socket, port uint32) (Dialer, error) {
	if err := socket.check(); err != nil {
		return nil, err
	}
	release, err := r.claim("socket "+socket.Path, sandbox)
	if err != nil {
		return nil, err
	}
	return &bound{way: &hybrid{socket: socket, port: port}, release: release}, nil
}

func (h *hybrid) String() string {
	return fmt.Sprintf("vsock port %d through %s", h.port, h.socket.Path)
}

func (h *hybrid) Serial() bool { return false }

func (h *hybrid) Dial(ctx context.Context) (Conn, error) {
	conn, err := h.socket.Connect(ctx)
	if err != nil {
		return nil, err
	}
	stop := watch(ctx, conn)
	err = h.greet(conn)
	if ended := stop(); ended != nil {
		err = ended
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", h, err), conn.Close())
	}
	return conn, nil
}

func (h *hybrid) greet(conn Conn) error {
	if _, err := fmt.Fprintf(conn, "CONNECT %d\n", h.port); err != nil {
		return fmt.Errorf("asking for the port: %w", err)
	}
	// Byte by byte: what follows the line is the guest's.
	line := make([]byte, 0, lineLimit)
	for {
		var next [1]byte
		if _, err := io.ReadFull(conn, next[:]); err != nil {
			if errors.Is(err, io.EOF) && len(line) == 0 {
				return errors.New("connection refused: nobody in the guest listens there, or the guest does not run")
			}
			return fmt.Errorf("reading the answer after %q: %w", line, err)
		}
		if next[0] == '\n' {
			break
		}
		if line = append(line, next[0]); len(line) == lineLimit {
			return fmt.Errorf("the answer begins with %q and does not end", line)
		}
	}
	port, is := strings.CutPrefix(string(line), "OK ")
	if _, err := strconv.ParseUint(port, 10, 32); !is || err != nil {
		return fmt.Errorf("the answer is %q and not OK with a port", line)
	}
	return nil
}
