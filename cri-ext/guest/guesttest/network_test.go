package guesttest_test

import (
	"fmt"
	"net"
	"os"
	"runtime"
	"testing"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
)

const (
	tap       = "tap0"
	backends  = 4  // addresses from 10.78.0.101
	tcpPorts  = 50 // from 8001, at each of them
	udpPorts  = 10 // from 9001
	firstHost = 101
)

// network is a network namespace with the guest's tap device and the backends of the
// services. It ends with the test.
type network struct {
	t    *testing.T
	file *os.File
}

func newNetwork(t *testing.T) *network {
	t.Helper()
	var handle netns.NsHandle
	err := locked(func() (err error) {
		handle, err = netns.New()
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	n := &network{t: t, file: os.NewFile(uintptr(handle), "bh-test-guest")}
	t.Cleanup(func() { n.file.Close() })
	return n
}

// locked runs a function on a thread that is not used for anything else after it.
func locked(f func() error) error {
	result := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		result <- f()
	}()
	return <-result
}

func (n *network) do(f func() error) {
	n.t.Helper()
	err := locked(func() error {
		if err := netns.Set(netns.NsHandle(n.file.Fd())); err != nil {
			return err
		}
		return f()
	})
	if err != nil {
		n.t.Fatal(err)
	}
}

func backend(i int) string { return fmt.Sprintf("10.78.0.%d", firstHost+i%backends) }

// serve sets the tap device up, and has every backend say its address.
func (n *network) serve() {
	n.t.Helper()
	n.do(func() error {
		link, err := netlink.LinkByName(tap)
		if err != nil {
			return err
		}
		addresses := []string{"10.78.0.1/24"}
		for i := range backends {
			addresses = append(addresses, backend(i)+"/24")
		}
		for _, address := range addresses {
			parsed, err := netlink.ParseAddr(address)
			if err != nil {
				return err
			}
			if err := netlink.AddrAdd(link, parsed); err != nil {
				return err
			}
		}
		if err := netlink.LinkSetUp(link); err != nil {
			return err
		}
		for port := range tcpPorts {
			listener, err := net.Listen("tcp4", fmt.Sprintf(":%d", 8001+port))
			if err != nil {
				return err
			}
			n.t.Cleanup(func() { listener.Close() })
			go answerTCP(listener)
		}
		for i := range backends {
			for port := range udpPorts {
				conn, err := net.ListenPacket("udp4", fmt.Sprintf("%s:%d", backend(i), 9001+port))
				if err != nil {
					return err
				}
				n.t.Cleanup(func() { conn.Close() })
				go answerUDP(conn)
			}
		}
		return nil
	})
}

func answerTCP(listener net.Listener) {
	for {
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		go func() {
			defer conn.Close()
			// The question first: a connection that is closed with bytes unread is reset.
			if _, err := conn.Read(make([]byte, 64)); err == nil {
				fmt.Fprint(conn, conn.LocalAddr())
			}
		}()
	}
}

func answerUDP(conn net.PacketConn) {
	for {
		_, from, err := conn.ReadFrom(make([]byte, 64))
		if err != nil {
			return
		}
		_, _ = conn.WriteTo([]byte(conn.LocalAddr().String()), from)
	}
}
