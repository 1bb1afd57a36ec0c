package artifact

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// lockPoll is how often a waiting Build looks whether it may go on.
const lockPoll = 200 * time.Millisecond

// lock takes the lock file at path and waits for whoever holds it. The kernel
// frees the lock when its holder ends, however it ends.
func lock(ctx context.Context, path string, step func(format string, a ...any)) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR|unix.O_CLOEXEC, 0o644)
	if err != nil {
		return nil, fmt.Errorf("opening the lock of the build: %w", err)
	}
	poll := time.NewTicker(lockPoll)
	defer poll.Stop()
	for waits := 0; ; waits++ {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return func() { f.Close() }, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) {
			f.Close()
			return nil, fmt.Errorf("locking %s: %w", path, err)
		}
		if waits == 0 {
			step("waiting for another build in this tree to end")
		}
		select {
		case <-ctx.Done():
			f.Close()
			return nil, fmt.Errorf("waiting for another build: %w", ctx.Err())
		case <-poll.C:
		}
	}
}
