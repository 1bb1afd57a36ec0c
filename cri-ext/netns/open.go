package netns

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// node is the namespace that the process started in. It is asked for before any
// thread can be in another.
var node, errNode = identify("/proc/thread-self/ns/net")

// identity tells namespaces apart.
type identity struct{ device, inode uint64 }

func identify(path string) (identity, error) {
	var stat unix.Stat_t
	if err := unix.Stat(path, &stat); err != nil {
		return identity{}, fmt.Errorf("looking at %s: %w", path, err)
	}
	return identity{stat.Dev, stat.Ino}, nil
}

// open opens a network namespace by its path, which the container runtime has given.
// Nothing is done with what turns out to be no network namespace, or the one of this
// process.
func open(path string) (*os.File, error) {
	if !filepath.IsAbs(path) {
		return nil, fmt.Errorf("the path %q of the network namespace is not absolute", path)
	}
	// Opening a device or a pipe has effects: look first at what it is.
	place, err := unix.Open(path, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("opening network namespace %s: %w", path, err)
	}
	defer unix.Close(place)
	var fs unix.Statfs_t
	if err := unix.Fstatfs(place, &fs); err != nil {
		return nil, fmt.Errorf("looking at network namespace %s: %w", path, err)
	}
	if fs.Type != unix.NSFS_MAGIC {
		return nil, fmt.Errorf("%s is no namespace", path)
	}
	fd, err := unix.Open(fmt.Sprintf("/proc/self/fd/%d", place), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("opening network namespace %s: %w", path, err)
	}
	file := os.NewFile(uintptr(fd), path)
	if err := check(fd); err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", path, err), file.Close())
	}
	return file, nil
}

func check(fd int) error {
	kind, err := unix.IoctlRetInt(fd, unix.NS_GET_NSTYPE)
	if err != nil {
		return fmt.Errorf("asking what namespace it is: %w", err)
	}
	if kind != unix.CLONE_NEWNET {
		return errors.New("it is a namespace, but not of networks")
	}
	its, err := identify(fmt.Sprintf("/proc/self/fd/%d", fd))
	if err := errors.Join(err, errNode); err != nil {
		return err
	}
	if its == node {
		return errors.New("it is the network namespace of the node, which belongs to no sandbox")
	}
	return nil
}
