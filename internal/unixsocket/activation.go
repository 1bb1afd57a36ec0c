package unixsocket

import (
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
)

// firstActivated is the first descriptor that systemd hands over, see sd_listen_fds(3).
const firstActivated = 3

// Activated returns the listener that systemd has made for this process, or nil if
// it was not started that way. The variables that say so are removed, so that no
// child takes them for its own.
func Activated() (*net.UnixListener, error) {
	pid, count := os.Getenv("LISTEN_PID"), os.Getenv("LISTEN_FDS")
	for _, name := range []string{"LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PIDFDID"} {
		if err := os.Unsetenv(name); err != nil {
			return nil, fmt.Errorf("removing %s from the environment: %w", name, err)
		}
	}
	if pid != strconv.Itoa(os.Getpid()) || count == "" {
		return nil, nil
	}
	if count != "1" {
		return nil, fmt.Errorf("systemd hands over %s sockets, and one is wanted", count)
	}
	file := os.NewFile(firstActivated, "systemd socket")
	defer file.Close() // the listener has a descriptor of its own
	listener, err := net.FileListener(file)
	if err != nil {
		return nil, fmt.Errorf("taking systemd's socket: %w", err)
	}
	unixListener, ok := listener.(*net.UnixListener)
	if !ok {
		listener.Close()
		return nil, fmt.Errorf("systemd's socket listens on %s, and a stream socket in the file system is wanted", listener.Addr())
	}
	// systemd keeps it, and connections queue in it while we are away.
	unixListener.SetUnlinkOnClose(false)
	return unixListener, nil
}

// Notify tells systemd about the service's state, see sd_notify(3); without systemd
// it does nothing.
func Notify(state string) error {
	path := os.Getenv("NOTIFY_SOCKET")
	if path == "" {
		return nil
	}
	if rest, abstract := strings.CutPrefix(path, "@"); abstract {
		path = "\x00" + rest
	}
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		return fmt.Errorf("telling systemd %s: %w", state, err)
	}
	defer conn.Close()
	if _, err := conn.Write([]byte(state)); err != nil {
		return fmt.Errorf("telling systemd %s: %w", state, err)
	}
	return nil
}
