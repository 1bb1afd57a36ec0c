package wire

import (
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// Own returns a descriptor of the network namespace of the calling thread. Where
// the caller is not locked to its thread, that is the namespace of the process.
func Own() (int, error) {
	fd, err := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("opening the own network namespace: %w", os.NewSyscallError("open", err))
	}
	return fd, nil
}

// Inside runs f on a thread that is in the network namespace behind the
// descriptor. What f opens or starts belongs to that namespace.
func Inside(namespace int, f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		own, err := Own()
		if err != nil {
			runtime.UnlockOSThread()
			done <- err
			return
		}
		defer unix.Close(own)
		if err := unix.Setns(namespace, unix.CLONE_NEWNET); err != nil {
			runtime.UnlockOSThread()
			done <- fmt.Errorf("entering the network namespace: %w", os.NewSyscallError("setns", err))
			return
		}
		err = f()
		// A thread that does not find its way back stays locked, and ends with
		// this goroutine: nothing else ever runs in the wrong namespace.
		if unix.Setns(own, unix.CLONE_NEWNET) == nil {
			runtime.UnlockOSThread()
		}
		done <- err
	}()
	return <-done
}
