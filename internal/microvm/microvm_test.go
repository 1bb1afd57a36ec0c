package microvm_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/bulkhead-dev/bulkhead/internal/microvm"
	"github.com/bulkhead-dev/bulkhead/internal/microvm/guestinit"
)

func TestMain(m *testing.M) {
	if guestinit.IsInit() {
		guestinit.Run(guest)
	}
	os.Exit(m.Run())
}

// guest is what this same program does as the machine's init.
func guest() int {
	fmt.Println("guest was told", strings.Join(os.Args[1:], " "))
	modules, err := os.ReadFile("/proc/modules")
	if err != nil {
		fmt.Println(err)
		return 1
	}
	for _, name := range []string{"ip_vs_rr", "ip_vs", "nf_conntrack"} {
		if !strings.Contains(string(modules), name+" ") {
			fmt.Println("module is not loaded:", name)
			return 2
		}
	}
	link, err := netlink.LinkByName("eth0")
	if err == nil {
		err = netlink.AddrAdd(link, &netlink.Addr{IPNet: &net.IPNet{IP: net.IPv4(192, 0, 2, 2), Mask: net.CIDRMask(30, 32)}})
	}
	if err == nil {
		err = netlink.LinkSetUp(link)
	}
	if err != nil {
		fmt.Println("setting eth0 up:", err)
		return 3
	}
	listener, err := net.Listen("tcp", "192.0.2.2:80")
	if err != nil {
		fmt.Println(err)
		return 4
	}
	go func() {
		for {
			connection, err := listener.Accept()
			if err != nil {
				return
			}
			fmt.Fprint(connection, "hello over the network")
			connection.Close()
		}
	}()
	port, err := os.OpenFile("/dev/virtio-ports/test.port", os.O_RDWR, 0)
	if err != nil {
		fmt.Println(err)
		return 5
	}
	fmt.Println("guest is ready")
	// Until somebody here has opened the port, it reads as ended.
	lines := bufio.NewReader(port)
	line, err := lines.ReadString('\n')
	for errors.Is(err, io.EOF) {
		<-time.After(time.Millisecond)
		line, err = lines.ReadString('\n')
	}
	if err != nil {
		fmt.Println("reading the port:", err)
		return 6
	}
	fmt.Fprint(port, "echo ", line)
	if _, err := lines.ReadString('\n'); err != nil {
		fmt.Println("reading the port again:", err)
		return 7
	}
	return 42
}

func TestMachineHasWhatWasAskedFor(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	init, err := microvm.TestProgram(ctx, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	space := namespace(t)
	vm, err := microvm.Start(ctx, microvm.Config{
		Init: init, Args: []string{"some", "words"}, Modules: []string{"ip_vs_rr", "dummy"},
		Ports: []string{"test.port"}, Network: &microvm.Tap{Namespace: space.file, Name: "tap0"},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer vm.Stop()
	space.do(t, func() error { return address("tap0", "192.0.2.1/30") })
	if err := vm.WaitConsole(ctx, "guest is ready"); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(vm.Console(), "guest was told some words\n") {
		t.Errorf("the console is %q", vm.Console())
	}
	var connection net.Conn
	space.do(t, func() (err error) {
		connection, err = (&net.Dialer{Timeout: time.Minute}).DialContext(ctx, "tcp", "192.0.2.2:80")
		return err
	})
	answer, err := io.ReadAll(connection)
	if err != nil || string(answer) != "hello over the network" {
		t.Errorf("over the network: %q, %v", answer, err)
	}
	connection.Close()
	port, err := net.Dial("unix", vm.Port("test.port"))
	if err != nil {
		t.Fatal(err)
	}
	defer port.Close()
	fmt.Fprintln(port, "over the port")
	echo, err := bufio.NewReader(port).ReadString('\n')
	if err != nil || echo != "echo over the port\n" {
		t.Errorf("over the port: %q, %v", echo, err)
	}
	fmt.Fprintln(port, "end")
	if code, err := vm.Wait(ctx); err != nil || code != 42 {
		t.Errorf("exit code %d, %v", code, err)
	}
	vm.Stop()
	if _, err := os.Stat(vm.Port("test.port")); !os.IsNotExist(err) {
		t.Errorf("the machine's files are still there: %v", err)
	}
}

func TestMachineThatCannotBe(t *testing.T) {
	init, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	_, err = microvm.Start(t.Context(), microvm.Config{Init: init, Modules: []string{"no_such_module"}})
	if err == nil || !strings.Contains(err.Error(), "no_such_module") {
		t.Errorf("a module that does not exist: %v", err)
	}
}
