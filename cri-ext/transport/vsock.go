package transport

import (
	"context"
	"errors"
	"fmt"

	"github.com/mdlayher/socket"
	"golang.org/x/sys/unix"
)

// vsock reaches a guest by AF_VSOCK (vsock(7)), which needs vhost_vsock here.
type vsock struct{ cid, port uint32 }

// Vsock claims the guest of a context ID for the sandbox. The ID comes from the
// sandbox's monitor, which may use that of a guest that is gone again.
func (r *Registry) Vsock(sandbox string, cid, port uint32) (Dialer, error) {
	if cid <= unix.VMADDR_CID_HOST || cid == unix.VMADDR_CID_ANY {
		return nil, fmt.Errorf("vsock context ID %d is no guest's", cid)
	}
	release, err := r.claim(fmt.Sprintf("vsock context ID %d", cid), sandbox)
	if err != nil {
		return nil, err
	}
	return &bound{way: &vsock{cid: cid, port: port}, release: release}, nil
}

func (v *vsock) String() string { return fmt.Sprintf("vsock %d:%d", v.cid, v.port) }

func (v *vsock) Serial() bool { return false }

func (v *vsock) Dial(ctx context.Context) (Conn, error) {
	conn, err := openVsock()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", v, err)
	}
	if _, err := conn.Connect(ctx, &unix.SockaddrVM{CID: v.cid, Port: v.port}); err != nil {
		return nil, errors.Join(fmt.Errorf("connecting to %s: %w", v, err), conn.Close())
	}
	return conn, nil
}

func openVsock() (*socket.Conn, error) {
	conn, err := socket.Socket(unix.AF_VSOCK, unix.SOCK_STREAM, 0, "vsock", nil)
	if errors.Is(err, unix.EAFNOSUPPORT) {
		return nil, fmt.Errorf("this kernel has no AF_VSOCK (module vsock): %w", err)
	}
	return conn, err
}

// VsockListener is the guest's end of AF_VSOCK. Whoever is not the host is turned
// away: with vsock_loopback, a container in the guest reaches the port too.
type VsockListener struct {
	socket *socket.Conn
	// peer is the context ID that connections come from.
	peer uint32
}

// ListenVsock listens in a guest for the host.
func ListenVsock(port uint32) (*VsockListener, error) { return listenVsock(port, unix.VMADDR_CID_HOST) }

func listenVsock(port, peer uint32) (*VsockListener, error) {
	conn, err := openVsock()
	if err != nil {
		return nil, err
	}
	err = conn.Bind(&unix.SockaddrVM{CID: unix.VMADDR_CID_ANY, Port: port})
	if err == nil {
		err = conn.Listen(4)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("listening on vsock port %d: %w", port, err), conn.Close())
	}
	return &VsockListener{socket: conn, peer: peer}, nil
}

// StrangerError says that somebody else than the host came.
type StrangerError struct{ CID uint32 }

func (e *StrangerError) Error() string {
	return fmt.Sprintf("a connection from vsock context ID %d, which is not the host, was closed", e.CID)
}

// Accept returns the next connection from the host. A *StrangerError is no reason to
// stop.
func (l *VsockListener) Accept(ctx context.Context) (Conn, error) {
	conn, from, err := l.socket.Accept(ctx, 0)
	if err != nil {
		return nil, fmt.Errorf("accepting on vsock: %w", err)
	}
	if address, is := from.(*unix.SockaddrVM); !is || address.CID != l.peer {
		stranger := &StrangerError{CID: unix.VMADDR_CID_ANY}
		if is {
			stranger.CID = address.CID
		}
		return nil, errors.Join(stranger, conn.Close())
	}
	return conn, nil
}

// Close ends listening.
func (l *VsockListener) Close() error { return l.socket.Close() }
