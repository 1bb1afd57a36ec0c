package main

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/bulkhead-dev/bulkhead/local/layout"
)

// lockTree makes sure that one up or down at a time works on the tree. The lock is
// on the folder itself, for down leaves no file; it ends with the process.
func lockTree(l layout.Layout) (*os.File, error) {
	f, err := os.Open(l.Root)
	if err != nil {
		return nil, err
	}
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		err = fmt.Errorf("another `local up` or `local down` is at work in %s: wait for its end", l.Root)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}
