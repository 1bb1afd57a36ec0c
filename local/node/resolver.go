package node

import (
	"bufio"
	"errors"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
)

// resolverFiles are where a machine's name servers stand. systemd-resolved puts
// the real ones into the second when the first names only itself, on loopback.
var resolverFiles = []string{"/etc/resolv.conf", "/run/systemd/resolve/resolv.conf"}

// HasUpstreamResolver tells whether the machine has a name server that the nodes
// can use.
func HasUpstreamResolver() bool { return upstreamResolver(resolverFiles) != "" }

// Resolvers are the name servers that the nodes use.
func Resolvers() []netip.Addr {
	var servers []netip.Addr
	for line := range strings.Lines(upstreamResolver(resolverFiles)) {
		if addr, err := netip.ParseAddr(strings.TrimSpace(strings.TrimPrefix(line, "nameserver "))); err == nil {
			servers = append(servers, addr)
		}
	}
	return servers
}

// upstreamResolver renders the resolv.conf of a node: the first file that names a
// server which a network namespace can reach. It is empty if none does.
func upstreamResolver(files []string) string {
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			continue
		}
		if content := reachableServers(string(data)); content != "" {
			return content
		}
	}
	return ""
}

// reachableServers keeps the name servers of a resolv.conf that are not on loopback.
// Search domains are left out: names inside the cluster must not depend on the
// machine it runs on.
func reachableServers(resolvConf string) string {
	var kept strings.Builder
	lines := bufio.NewScanner(strings.NewReader(resolvConf))
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) < 2 || fields[0] != "nameserver" {
			continue
		}
		addr, err := netip.ParseAddr(fields[1])
		if err == nil && !addr.IsLoopback() && !addr.IsUnspecified() {
			kept.WriteString("nameserver " + addr.String() + "\n")
		}
	}
	return kept.String()
}

// resolverPath is the file that /etc/resolv.conf leads to, for the node's own to
// be mounted on.
func resolverPath() (string, error) {
	const path = "/etc/resolv.conf"
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return path, nil // it is made
	}
	if err != nil {
		return "", err
	}
	if info.Mode()&fs.ModeSymlink == 0 {
		return path, nil
	}
	target, err := os.Readlink(path)
	if err != nil {
		return "", err
	}
	if !filepath.IsAbs(target) {
		target = filepath.Join(filepath.Dir(path), target)
	}
	return filepath.Clean(target), nil
}
