package microvm_test

import (
	"os"
	"runtime"
	"testing"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
)

// testNamespace is a network namespace that ends with the test.
type testNamespace struct{ file *os.File }

func namespace(t *testing.T) testNamespace {
	t.Helper()
	result := make(chan error, 1)
	var handle netns.NsHandle
	go func() {
		runtime.LockOSThread() // and ends with the goroutine
		var err error
		handle, err = netns.New()
		result <- err
	}()
	if err := <-result; err != nil {
		t.Fatal(err)
	}
	file := os.NewFile(uintptr(handle), "bh-test-microvm")
	t.Cleanup(func() { file.Close() })
	return testNamespace{file}
}

// do runs a function within the namespace.
func (n testNamespace) do(t *testing.T, f func() error) {
	t.Helper()
	result := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		err := netns.Set(netns.NsHandle(n.file.Fd()))
		if err == nil {
			err = f()
		}
		result <- err
	}()
	if err := <-result; err != nil {
		t.Fatal(err)
	}
}

func address(device, network string) error {
	link, err := netlink.LinkByName(device)
	if err != nil {
		return err
	}
	addr, err := netlink.ParseAddr(network)
	if err != nil {
		return err
	}
	if err := netlink.AddrAdd(link, addr); err != nil {
		return err
	}
	return netlink.LinkSetUp(link)
}
