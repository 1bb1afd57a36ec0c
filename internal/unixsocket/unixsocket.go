// Package unixsocket makes sockets in the file system that nobody but root can
// reach, and tells who called.
package unixsocket

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// maxPath is the longest path of a socket, see unix(7).
const maxPath = 107

// Listen listens on a socket at path, of mode 0600. Its directory is made with mode
// 0700 if it is not there. A socket that a former process left is replaced; one that
// still answers is an error.
func Listen(path string) (*net.UnixListener, error) {
	if !filepath.IsAbs(path) || len(path) > maxPath {
		return nil, fmt.Errorf("socket %q: the path must be absolute and at most %d bytes long", path, maxPath)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, fmt.Errorf("making the directory of socket %s: %w", path, err)
	}
	if err := removeStale(path); err != nil {
		return nil, err
	}
	listener, err := listenPrivately(path)
	if err != nil {
		return nil, fmt.Errorf("listening on socket %s: %w", path, err)
	}
	return listener, nil
}

// listenPrivately binds in a directory of mode 0700, and moves the socket to its
// place once it has its mode: bind makes the file with what the umask leaves of 0777,
// and the umask is the whole process's.
func listenPrivately(path string) (*net.UnixListener, error) {
	private, err := os.MkdirTemp(filepath.Dir(path), ".s")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(private)
	first := filepath.Join(private, "s")
	if len(first) > maxPath {
		return nil, fmt.Errorf("%s is longer than %d bytes", first, maxPath)
	}
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: first, Net: "unix"})
	if err != nil {
		return nil, err
	}
	listener.SetUnlinkOnClose(false)
	if err := os.Chmod(first, 0o600); err != nil {
		listener.Close()
		return nil, err
	}
	if err := os.Rename(first, path); err != nil {
		listener.Close()
		return nil, err
	}
	return listener, nil
}

// removeStale removes a socket that nobody answers.
func removeStale(path string) error {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return fmt.Errorf("looking for socket %s: %w", path, err)
	case info.Mode().Type() != fs.ModeSocket:
		return fmt.Errorf("%s is in the way of a socket, and is none", path)
	}
	conn, err := net.DialTimeout("unix", path, time.Second)
	if err == nil {
		conn.Close()
		return fmt.Errorf("socket %s is in use by a running process", path)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("removing socket %s of a former process: %w", path, err)
	}
	return nil
}

// Dial connects to a socket.
func Dial(ctx context.Context, path string) (*net.UnixConn, error) {
	conn, err := new(net.Dialer).DialContext(ctx, "unix", path)
	if err != nil {
		return nil, fmt.Errorf("connecting to socket %s: %w", path, err)
	}
	return conn.(*net.UnixConn), nil
}

// Peer is the process at the other end of a connection as it was when it
// connected, see SO_PEERCRED in unix(7).
func Peer(conn syscall.Conn) (*unix.Ucred, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil, fmt.Errorf("reading who connected: %w", err)
	}
	var credentials *unix.Ucred
	var optErr error
	err = raw.Control(func(fd uintptr) {
		credentials, optErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	})
	if err := errors.Join(err, optErr); err != nil {
		return nil, fmt.Errorf("reading who connected: %w", err)
	}
	return credentials, nil
}

// CheckPeer fails unless the process at the other end runs as uid.
func CheckPeer(conn syscall.Conn, uid uint32) error {
	peer, err := Peer(conn)
	if err != nil {
		return err
	}
	if peer.Uid != uid {
		return fmt.Errorf("process %d runs as user %d, and only user %d may connect", peer.Pid, peer.Uid, uid)
	}
	return nil
}
