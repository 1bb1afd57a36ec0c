// Package namespace keeps Linux namespaces alive without a process in them, by
// binding them to a file, and runs code inside of them.
package namespace

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"

	"golang.org/x/sys/unix"
)

// Kind is a kind of namespace.
type Kind struct {
	flag int
	proc string // name below /proc/PID/ns
}

// The kinds that nodes have of their own.
var (
	Net   = Kind{unix.CLONE_NEWNET, "net"}
	Mount = Kind{unix.CLONE_NEWNS, "mnt"}
)

// Exists tells whether path is a bound namespace. A plain file, as a reboot
// leaves it where /run is no tmpfs, is none.
func Exists(path string) (bool, error) {
	var s unix.Statfs_t
	err := unix.Statfs(path, &s)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("looking at namespace %s: %w", path, err)
	}
	return s.Type == unix.NSFS_MAGIC, nil
}

// Create makes a new namespace, runs inside in it and, if that succeeds, binds
// the namespace to path. Nothing is left of it otherwise.
func Create(kind Kind, path string, inside func() error) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		return err
	}
	ready, bound, done := make(chan string), make(chan error), make(chan error)
	go func() {
		// The thread is never unlocked: the runtime ends it with the goroutine,
		// and nothing else runs in the namespace by mistake.
		runtime.LockOSThread()
		err := unix.Unshare(kind.flag)
		if err == nil {
			err = inside()
		}
		if err != nil {
			close(ready)
			done <- err
			return
		}
		ready <- fmt.Sprintf("/proc/self/task/%d/ns/%s", unix.Gettid(), kind.proc)
		done <- <-bound
	}()
	var err error
	if source, ok := <-ready; ok {
		// From outside: a mount namespace cannot be bound within itself.
		bound <- unix.Mount(source, path, "", unix.MS_BIND, "")
	}
	if err = <-done; err != nil {
		return errors.Join(fmt.Errorf("making namespace %s: %w", path, err), os.Remove(path))
	}
	return nil
}

// Do runs f inside the namespace at path, on a thread of its own.
func Do(kind Kind, path string, f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked, see Create
		done <- func() error {
			ns, err := os.Open(path)
			if err != nil {
				return err
			}
			defer ns.Close()
			if kind == Mount {
				// Threads share root and working directory; setns wants them apart.
				if err := unix.Unshare(unix.CLONE_FS); err != nil {
					return err
				}
			}
			if err := unix.Setns(int(ns.Fd()), kind.flag); err != nil {
				return fmt.Errorf("entering namespace %s: %w", path, err)
			}
			return f()
		}()
	}()
	return <-done
}

// Remove unbinds the namespace at path, which ends it once no process is in it.
// It is no error if there is none.
func Remove(path string) error {
	for {
		exists, err := Exists(path)
		if err != nil {
			return err
		}
		if !exists {
			break
		}
		if err := unix.Unmount(path, unix.MNT_DETACH); err != nil {
			return fmt.Errorf("unbinding namespace %s: %w", path, err)
		}
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
