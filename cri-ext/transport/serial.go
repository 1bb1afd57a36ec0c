package transport

import (
	"context"
	"fmt"
)

// serial reaches a virtio-serial port through the unix socket that QEMU has at the
// port's other end. It takes one peer at a time; another one waits.
type serial struct{ socket Socket }

// Serial claims the guest's port behind QEMU's socket for the sandbox.
func (r *Registry) Serial(sandbox string, socket Socket) (Dialer, error) {
	if err := socket.check(); err != nil {
		return nil, err
	}
	release, err := r.claim("socket "+socket.Path, sandbox)
	if err != nil {
		return nil, err
	}
	return &bound{way: &serial{socket}, release: release}, nil
}

func (s *serial) String() string { return fmt.Sprintf("virtio-serial through %s", s.socket.Path) }

func (s *serial) Serial() bool { return true }

func (s *serial) Dial(ctx context.Context) (Conn, error) {
	conn, err := s.socket.Connect(ctx)
	if err != nil {
		return nil, err
	}
	return conn, nil
}
