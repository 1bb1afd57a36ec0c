package host

import (
	"bufio"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// Port is an address that a service is going to listen on.
type Port struct {
	Address netip.AddrPort
	For     string // the service
}

// listener is a listening TCP socket.
type listener struct {
	address netip.AddrPort
	inode   string
}

// checkPorts names the first port that somebody else listens on.
func checkPorts(ports []Port) error {
	var taken []listener
	for _, file := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
		f, err := os.Open(file)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		found, err := parseListeners(f)
		if err = errors.Join(err, f.Close()); err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
		taken = append(taken, found...)
	}
	for _, p := range ports {
		if l, ok := conflict(p.Address, taken); ok {
			return fmt.Errorf("%s needs port %d, and %s listens on %s: stop it, then run this again", p.For, p.Address.Port(), holder("/proc", l.inode), l.address)
		}
	}
	return nil
}

// conflict finds a listener that makes it impossible to listen on address.
func conflict(address netip.AddrPort, taken []listener) (listener, bool) {
	i := slices.IndexFunc(taken, func(l listener) bool {
		return l.address.Port() == address.Port() && (l.address.Addr().IsUnspecified() || l.address.Addr() == address.Addr())
	})
	if i < 0 {
		return listener{}, false
	}
	return taken[i], true
}

// parseListeners reads the listening sockets of /proc/net/tcp or tcp6, whose format
// is in the kernel's Documentation/networking/proc_net_tcp.rst. Addresses are
// words in the machine's byte order, little endian on what we run on.
func parseListeners(r io.Reader) ([]listener, error) {
	const stateListen = "0A"
	var found []listener
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) < 10 || fields[3] != stateListen {
			continue
		}
		host, port, ok := strings.Cut(fields[1], ":")
		raw, err := hex.DecodeString(host)
		if !ok || err != nil || len(raw) != 4 && len(raw) != 16 {
			return nil, fmt.Errorf("address %q of a socket", fields[1])
		}
		number, err := strconv.ParseUint(port, 16, 16)
		if err != nil {
			return nil, fmt.Errorf("port %q of a socket", fields[1])
		}
		for word := range slices.Chunk(raw, 4) {
			slices.Reverse(word)
		}
		addr, _ := netip.AddrFromSlice(raw)
		found = append(found, listener{netip.AddrPortFrom(addr.Unmap(), uint16(number)), fields[9]})
	}
	return found, lines.Err()
}

// holder names the process that has the socket open.
func holder(proc, inode string) string {
	links, _ := filepath.Glob(filepath.Join(proc, "[0-9]*", "fd", "*"))
	for _, link := range links {
		if target, err := os.Readlink(link); err == nil && target == "socket:["+inode+"]" {
			dir := filepath.Dir(filepath.Dir(link))
			name, _ := os.ReadFile(filepath.Join(dir, "comm"))
			return fmt.Sprintf("process %s (%s)", filepath.Base(dir), strings.TrimSpace(string(name)))
		}
	}
	return "another process"
}
