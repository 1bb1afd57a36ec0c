package process

import (
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// end lets one wait for the end of any process: its pidfd becomes readable then.
type end struct{ fd int }

// openEnd returns os.ErrProcessDone if the process has ended already.
func openEnd(id Identity) (end, error) {
	if id.PID <= 0 {
		return end{}, os.ErrProcessDone
	}
	fd, err := unix.PidfdOpen(id.PID, 0)
	if errors.Is(err, unix.ESRCH) {
		return end{}, os.ErrProcessDone
	}
	if err != nil {
		return end{}, fmt.Errorf("watching process %d: %w", id.PID, err)
	}
	e := end{fd}
	if !id.Alive() { // another one has its id
		e.close()
		return end{}, os.ErrProcessDone
	}
	return e, nil
}

func (e end) close() { _ = unix.Close(e.fd) }

// wait waits until the process has ended, at most for the timeout unless that is
// negative. It returns false if the process runs still.
func (e end) wait(timeout time.Duration) (bool, error) {
	deadline := time.Now().Add(timeout)
	for {
		milliseconds := -1
		if timeout >= 0 {
			milliseconds = int(max(0, time.Until(deadline).Milliseconds()))
		}
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(e.fd), Events: unix.POLLIN}}, milliseconds)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		return n > 0, err
	}
}

// Kill sends SIGKILL to the processes and waits until all have ended.
func Kill(ids []Identity, timeout time.Duration) error {
	deadline := time.Now().Add(timeout)
	var ends []end
	defer func() {
		for _, e := range ends {
			e.close()
		}
	}()
	for _, id := range ids {
		e, err := openEnd(id)
		if errors.Is(err, os.ErrProcessDone) {
			continue
		}
		if err != nil {
			return err
		}
		ends = append(ends, e)
		err = unix.PidfdSendSignal(e.fd, syscall.SIGKILL, nil, 0)
		if err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("killing process %d: %w", id.PID, err)
		}
	}
	for _, e := range ends {
		ended, err := e.wait(max(0, time.Until(deadline)))
		if err != nil {
			return err
		}
		if !ended {
			return fmt.Errorf("some of the processes %v have not ended %v after they were killed", ids, timeout)
		}
	}
	return nil
}
