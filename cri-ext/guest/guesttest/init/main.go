// Command init is the init of guesttest's guest: it sets the network up, runs
// cri-ext-agent as a process of its own, and does on the control port what a test asks.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/bulkhead-dev/bulkhead/cri-ext/guest/guesttest"
	"github.com/bulkhead-dev/bulkhead/cri-ext/kernel"
	"github.com/bulkhead-dev/bulkhead/cri-ext/transport"
	"github.com/bulkhead-dev/bulkhead/internal/microvm/guestinit"
)

func main() {
	guestinit.Run(func() int {
		fmt.Println(run(context.Background()))
		return 1
	})
}

// run serves the control port. It returns when it cannot go on.
func run(ctx context.Context) error {
	if err := network(); err != nil {
		return fmt.Errorf("setting the network up: %w", err)
	}
	port, err := transport.OpenPort("/dev/virtio-ports/" + guesttest.ControlPort)
	if err != nil {
		return err
	}
	m := machine{engine: engineOf(os.Args[1:])}
	if err := m.startAgent(); err != nil {
		return err
	}
	fmt.Println("guest is ready")
	for {
		if err := transport.WaitHost(ctx, port); err != nil {
			return err
		}
		for lines := bufio.NewReader(port); ; {
			line, err := lines.ReadBytes('\n')
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				return err
			}
			var request guesttest.Request
			if err := json.Unmarshal(line, &request); err != nil {
				return err
			}
			answer, err := json.Marshal(m.do(ctx, request))
			if err != nil {
				return err
			}
			if _, err := port.Write(append(answer, '\n')); err != nil {
				return err
			}
		}
	}
}

// network gives eth0 its address, and makes one where the machine has none.
func network() error {
	loopback, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	if err := netlink.LinkSetUp(loopback); err != nil {
		return err
	}
	link, err := netlink.LinkByName("eth0")
	var missing netlink.LinkNotFoundError
	if errors.As(err, &missing) {
		if err := netlink.LinkAdd(&netlink.Dummy{LinkAttrs: netlink.LinkAttrs{Name: "eth0"}}); err != nil {
			return err
		}
		link, err = netlink.LinkByName("eth0")
	}
	if err != nil {
		return err
	}
	address, err := netlink.ParseAddr(guesttest.Address)
	if err != nil {
		return err
	}
	if err := netlink.AddrAdd(link, address); err != nil {
		return err
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return err
	}
	return netlink.RouteAdd(&netlink.Route{LinkIndex: link.Attrs().Index, Gw: net.ParseIP(guesttest.Gateway)})
}

// machine is what the init has to do with.
type machine struct {
	engine string
	agent  *exec.Cmd
}

func engineOf(args []string) string {
	for _, arg := range args {
		if engine, is := strings.CutPrefix(arg, "--engine="); is {
			return engine
		}
	}
	return ""
}

func (m *machine) startAgent() error {
	m.agent = exec.Command("/cri-ext-agent", os.Args[1:]...)
	m.agent.Stdout, m.agent.Stderr = os.Stdout, os.Stderr
	return m.agent.Start()
}

func (m *machine) do(ctx context.Context, request guesttest.Request) guesttest.Reply {
	var reply guesttest.Reply
	var err error
	switch request.Do {
	case "dial":
		for _, address := range request.Addresses {
			for range request.Times {
				reply.Answers = append(reply.Answers, dial(request.Network, address))
			}
		}
	case "drift":
		err = m.drift(ctx)
	case "restart":
		_ = m.agent.Process.Kill()
		_ = m.agent.Wait() // it was killed
		err = m.startAgent()
	case "memory":
		reply.Memory, err = resident(m.agent.Process.Pid)
	default:
		err = fmt.Errorf("%q is not known", request.Do)
	}
	if err != nil {
		reply.Error = err.Error()
	}
	return reply
}

func dial(network, address string) string {
	conn, err := net.DialTimeout(network, address, guesttest.DialTimeout)
	if err == nil {
		defer conn.Close()
		err = conn.SetDeadline(time.Now().Add(guesttest.DialTimeout))
	}
	if err == nil {
		_, err = io.WriteString(conn, "who are you?\n")
	}
	buffer := make([]byte, 256)
	n := 0
	if err == nil {
		n, err = conn.Read(buffer)
	}
	if err != nil {
		return guesttest.Refused + err.Error()
	}
	return string(buffer[:n])
}

// drift removes the rules as another program in the guest could.
func (m *machine) drift(ctx context.Context) error {
	other, err := kernel.Open(ctx, -1, kernel.Options{Engines: []string{m.engine}})
	if err != nil {
		return err
	}
	return errors.Join(other.Remove(ctx), other.Close())
}

// resident is the resident memory of a process in KiB.
func resident(pid int) (int, error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(status)) {
		if value, is := strings.CutPrefix(line, "VmRSS:"); is {
			return strconv.Atoi(strings.TrimSuffix(strings.TrimSpace(value), " kB"))
		}
	}
	return 0, errors.New("its status has no VmRSS")
}
