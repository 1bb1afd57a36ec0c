package transport

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// hostPoll is how often waiting for the host looks whether it shall go on.
const hostPoll = time.Second

// OpenPort opens the guest's end of a virtio-serial port, which one process at a
// time can have open. Reads return io.EOF while nobody at the host has the other
// end open; WaitHost waits for that.
func OpenPort(path string) (*os.File, error) {
	// os.OpenFile has the runtime's poller watch it, which deadlines need.
	port, err := os.OpenFile(path, os.O_RDWR|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("opening the virtio-serial port: %w", err)
	}
	if err := port.SetDeadline(time.Time{}); err != nil {
		return nil, errors.Join(fmt.Errorf("%s cannot be waited for: is it a virtio-serial port? %w", path, err), port.Close())
	}
	return port, nil
}

// WaitHost returns once somebody at the host has the port open, or ctx ends.
func WaitHost(ctx context.Context, port *os.File) error {
	watcher, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return fmt.Errorf("watching %s: %w", port.Name(), err)
	}
	defer unix.Close(watcher)
	raw, err := port.SyscallConn()
	if err != nil {
		return err
	}
	// Edges: a port that nobody has open is "hung up" all the time.
	event := unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLOUT | unix.EPOLLET}
	failure := raw.Control(func(fd uintptr) { err = unix.EpollCtl(watcher, unix.EPOLL_CTL_ADD, int(fd), &event) })
	if err := errors.Join(failure, err); err != nil {
		return fmt.Errorf("watching %s: %w", port.Name(), err)
	}
	for ctx.Err() == nil {
		var events [1]unix.EpollEvent
		n, err := unix.EpollWait(watcher, events[:], int(hostPoll.Milliseconds()))
		if err != nil && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("watching %s: %w", port.Name(), err)
		}
		if n == 1 && events[0].Events&unix.EPOLLHUP == 0 {
			return nil
		}
	}
	return context.Cause(ctx)
}
