package traffic

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/bulkhead-dev/bulkhead/cri-ext/kernel/wire"
)

// newNamespace makes a network namespace that lives as long as its descriptor.
func newNamespace() (int, error) {
	type result struct {
		fd  int
		err error
	}
	made := make(chan result)
	go func() {
		runtime.LockOSThread() // for good: the thread ends in its namespace
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			made <- result{-1, fmt.Errorf("making a network namespace: %w", os.NewSyscallError("unshare", err))}
			return
		}
		fd, err := wire.Own()
		made <- result{fd, err}
	}()
	r := <-made
	return r.fd, r.err
}

// namespace is one with a handle to configure it.
type namespace struct {
	fd     int
	handle *netlink.Handle
}

func makeNamespace() (*namespace, error) {
	fd, err := newNamespace()
	if err != nil {
		return nil, err
	}
	handle, err := netlink.NewHandleAt(netns.NsHandle(fd), unix.NETLINK_ROUTE)
	if err != nil {
		unix.Close(fd)
		return nil, err
	}
	n := &namespace{fd: fd, handle: handle}
	return n, n.up("lo")
}

func (n *namespace) close() {
	n.handle.Close()
	unix.Close(n.fd)
}

func (n *namespace) up(name string) error {
	link, err := n.handle.LinkByName(name)
	if err != nil {
		return fmt.Errorf("finding %s: %w", name, err)
	}
	return n.handle.LinkSetUp(link)
}

func (n *namespace) address(name string, prefixes ...netip.Prefix) error {
	link, err := n.handle.LinkByName(name)
	if err != nil {
		return fmt.Errorf("finding %s: %w", name, err)
	}
	for _, prefix := range prefixes {
		addr := &netlink.Addr{IPNet: ipNet(prefix)}
		if prefix.Addr().Is6() {
			addr.Flags = unix.IFA_F_NODAD // at once, without asking whether somebody else has it
		}
		if err := n.handle.AddrAdd(link, addr); err != nil {
			return fmt.Errorf("adding %s to %s: %w", prefix, name, err)
		}
	}
	return nil
}

func (n *namespace) route(to netip.Prefix, via netip.Addr) error {
	if err := n.handle.RouteAdd(&netlink.Route{Dst: ipNet(to), Gw: via.AsSlice()}); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("adding a route to %s by %s: %w", to, via, err)
	}
	return nil
}

// sysctl writes a setting of the namespace.
func (n *namespace) sysctl(path, value string) error {
	return n.inside(func() error { return os.WriteFile("/proc/sys/"+path, []byte(value), 0o644) })
}

func (n *namespace) inside(f func() error) error { return wire.Inside(n.fd, f) }

// connect lays a wire between two namespaces. The name is that of both ends.
func connect(a, b *namespace, inA, inB string) error {
	pair := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: inA}, PeerName: inB, PeerNamespace: netlink.NsFd(b.fd)}
	if err := a.handle.LinkAdd(pair); err != nil {
		return fmt.Errorf("adding %s: %w", inA, err)
	}
	return errors.Join(a.up(inA), b.up(inB))
}

// neighbours has two ends of a wire know each other for good: the test is not about
// how they would find out, and a first packet may get lost while a wire comes up.
func neighbours(a, b *namespace, inA, inB string, addrA, addrB netip.Addr) error {
	linkA, err := a.handle.LinkByName(inA)
	if err != nil {
		return fmt.Errorf("finding %s: %w", inA, err)
	}
	linkB, err := b.handle.LinkByName(inB)
	if err != nil {
		return fmt.Errorf("finding %s: %w", inB, err)
	}
	know := func(n *namespace, link, other netlink.Link, addr netip.Addr) error {
		return n.handle.NeighSet(&netlink.Neigh{LinkIndex: link.Attrs().Index, State: netlink.NUD_PERMANENT,
			IP: addr.AsSlice(), HardwareAddr: other.Attrs().HardwareAddr})
	}
	return errors.Join(know(a, linkA, linkB, addrB), know(b, linkB, linkA, addrA))
}

func ipNet(prefix netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: prefix.Addr().AsSlice(), Mask: net.CIDRMask(prefix.Bits(), prefix.Addr().BitLen())}
}

func single(addr netip.Addr) netip.Prefix { return netip.PrefixFrom(addr, addr.BitLen()) }
