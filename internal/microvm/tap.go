package microvm

import (
	"fmt"
	"net"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// Tap is a network device here whose other end is the guest's eth0.
type Tap struct {
	// Namespace is an open network namespace that the device is made in; nil is
	// that of this process.
	Namespace *os.File
	// Name is the device's, which goes when the machine ends. The caller gives it
	// its address and sets it up, once Start has returned.
	Name string
	// MAC is the guest's hardware address; one of QEMU's own if empty.
	MAC net.HardwareAddr
}

func (t *Tap) mac() string {
	if len(t.MAC) == 0 {
		return "52:54:00:12:34:56"
	}
	return t.MAC.String()
}

// open makes the device and returns the file that its packets go through. A tun
// device belongs to the namespace of the thread that opened it.
func (t *Tap) open() (tap *os.File, err error) {
	if t.Namespace == nil {
		return t.openHere()
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		// Not unlocked: the thread ends with the goroutine, in whatever namespace it is.
		runtime.LockOSThread()
		if err = unix.Setns(int(t.Namespace.Fd()), unix.CLONE_NEWNET); err != nil {
			err = fmt.Errorf("entering the network namespace of tap device %s: %w", t.Name, err)
			return
		}
		tap, err = t.openHere()
	}()
	<-done
	return tap, err
}

func (t *Tap) openHere() (*os.File, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("opening /dev/net/tun: %w", err)
	}
	request, err := unix.NewIfreq(t.Name)
	if err == nil {
		// Without a header for what a network card does: both ends compute checksums.
		request.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI)
		err = unix.IoctlIfreq(fd, unix.TUNSETIFF, request)
	}
	if err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("making tap device %s: %w", t.Name, err)
	}
	return os.NewFile(uintptr(fd), t.Name), nil
}
