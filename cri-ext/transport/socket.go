package transport

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Socket is a unix socket that a virtual machine monitor listens on.
type Socket struct {
	// Path is absolute. No part of it may be a symbolic link.
	Path string
	// Owner is the user that the socket and the folder it is in belong to, and that
	// the listening process runs as: root unless the monitor is jailed.
	Owner uint32
	// PID is the monitor's process, which must be the one that listens; 0 if it is
	// not known.
	PID int32
}

func (s Socket) check() error {
	if !filepath.IsAbs(s.Path) || filepath.Clean(s.Path) != s.Path {
		return fmt.Errorf("socket path %q is not absolute and plain", s.Path)
	}
	return nil
}

// Connect connects to the socket, once path, owner and who listens are as they should
// be. What it has looked at is what it connects to, whatever the path has become
// meanwhile.
func (s Socket) Connect(ctx context.Context) (*net.UnixConn, error) {
	if err := s.check(); err != nil {
		return nil, err
	}
	node, err := s.open()
	if err != nil {
		return nil, err
	}
	defer node.Close()
	// The kernel follows this to the open node, whatever its path is now. It is
	// also short, where the path of a sandbox may be longer than an address can be.
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", fmt.Sprintf("/proc/self/fd/%d", node.Fd()))
	if err != nil {
		return nil, fmt.Errorf("connecting to %s: %w", s.Path, plainCause(err))
	}
	connection := conn.(*net.UnixConn)
	if err := s.checkPeer(connection); err != nil {
		return nil, errors.Join(err, connection.Close())
	}
	return connection, nil
}

// plainCause takes off what net says of the path under /proc.
func plainCause(err error) error {
	var operation *net.OpError
	if errors.As(err, &operation) {
		return operation.Err
	}
	return err
}

// open returns the socket's node, by which it can be looked at and connected to.
func (s Socket) open() (*os.File, error) {
	how := &unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_NO_SYMLINKS}
	dir, name := filepath.Split(s.Path)
	folder, err := unix.Openat2(unix.AT_FDCWD, dir, &unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC | unix.O_DIRECTORY, Resolve: how.Resolve})
	if err != nil {
		return nil, fmt.Errorf("opening the folder of socket %s without following links: %w", s.Path, err)
	}
	defer unix.Close(folder)
	var of unix.Stat_t
	if err := unix.Fstat(folder, &of); err != nil {
		return nil, fmt.Errorf("looking at the folder of socket %s: %w", s.Path, err)
	}
	if of.Uid != 0 && of.Uid != s.Owner || of.Mode&0o022 != 0 {
		return nil, fmt.Errorf("folder of socket %s belongs to user %d with mode %#o: others than user %d could put another socket there",
			s.Path, of.Uid, of.Mode&0o7777, s.Owner)
	}
	node, err := unix.Openat2(folder, name, how)
	if err != nil {
		return nil, fmt.Errorf("opening socket %s without following links: %w", s.Path, err)
	}
	file := os.NewFile(uintptr(node), s.Path)
	if err = unix.Fstat(node, &of); err != nil {
		err = fmt.Errorf("looking at socket %s: %w", s.Path, err)
	} else if of.Mode&unix.S_IFMT != unix.S_IFSOCK {
		err = fmt.Errorf("%s is no socket", s.Path)
	} else if of.Uid != s.Owner {
		err = fmt.Errorf("socket %s belongs to user %d, not %d", s.Path, of.Uid, s.Owner)
	}
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return file, nil
}

// checkPeer looks at who listens. The kernel noted it when listening began.
func (s Socket) checkPeer(connection *net.UnixConn) error {
	raw, err := connection.SyscallConn()
	if err != nil {
		return err
	}
	var peer *unix.Ucred
	failure := raw.Control(func(fd uintptr) { peer, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) })
	if err := errors.Join(failure, err); err != nil {
		return fmt.Errorf("asking who listens on %s: %w", s.Path, err)
	}
	if peer.Uid != s.Owner {
		return fmt.Errorf("who listens on %s runs as user %d, not %d", s.Path, peer.Uid, s.Owner)
	}
	if s.PID != 0 && peer.Pid != s.PID {
		return fmt.Errorf("process %d listens on %s, not the sandbox's %d", peer.Pid, s.Path, s.PID)
	}
	return nil
}
