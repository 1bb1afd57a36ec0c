package node

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/bulkhead-dev/bulkhead/local/layout"
	"github.com/bulkhead-dev/bulkhead/local/namespace"
)

// A node has a mount namespace of its own: /run, /var and /tmp in it are the
// node's, everything else is the machine's. So each node has the standard paths
// (/var/lib/kubelet, /run/containerd, /var/log/pods, ...), which some programs
// cannot be told to change, nothing outside of .local is ever written, and all
// mounts of all pods are gone once the namespace is.

// bind is a folder or file of the machine that is seen at another place in a node.
type bind struct {
	source, target string
}

// binds lists what a node sees where. Order matters: no target may hide a later one.
func (n Node) binds() []bind {
	dir := n.layout.NodeDir(n.Name)
	return []bind{
		{filepath.Join(dir, "var"), "/var"},
		{filepath.Join(dir, "tmp"), "/tmp"},
		{n.layout.Bin(), layout.NodeBin},
		{n.cni, layout.NodeCNI},
		{n.config(), layout.NodeConfig},
	}
}

// makeSources makes the folders that binds show.
func (n Node) makeSources() error {
	dir := n.layout.NodeDir(n.Name)
	for _, d := range []struct {
		path string
		mode os.FileMode
	}{
		{"var/lib", 0o755}, {"var/log", 0o755}, {"var/cache", 0o755}, {"var/local-path-provisioner", 0o755},
		{"var/tmp", 0o777 | os.ModeSticky}, {"tmp", 0o777 | os.ModeSticky}, {"config", 0o700},
	} {
		path := filepath.Join(dir, d.path)
		if err := os.MkdirAll(path, 0o755); err != nil {
			return err
		}
		if err := os.Chmod(path, d.mode); err != nil {
			return err
		}
	}
	for link, target := range map[string]string{"var/run": "/run", "var/lock": "/run/lock"} {
		if err := os.Symlink(target, filepath.Join(dir, link)); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	return nil
}

// ensureMounts makes the node's mount namespace, or brings the one that is there
// up to date.
func (n Node) ensureMounts() error {
	path := layout.Mountns(n.Name)
	if err := privateRuntimeDir(); err != nil {
		return err
	}
	exists, err := namespace.Exists(path)
	if err != nil {
		return err
	}
	resolver, err := resolverPath()
	if err != nil {
		return err
	}
	// The sources are taken here, as mounts without a place yet: inside they may be
	// hidden by what is mounted, when the work tree is below /var, /tmp or /run.
	binds := append(n.binds(), bind{filepath.Join(n.config(), "resolv.conf"), resolver})
	sources := make([]int, len(binds))
	for i, b := range binds {
		fd, err := unix.OpenTree(unix.AT_FDCWD, b.source, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
		if err != nil {
			return fmt.Errorf("taking %s as a mount: %w", b.source, err)
		}
		defer func() { _ = unix.Close(fd) }()
		sources[i] = fd
	}
	mountAll := func() error {
		for i, b := range binds {
			if err := ensureBind(sources[i], b.target); err != nil {
				return fmt.Errorf("mounting %s on %s: %w", b.source, b.target, err)
			}
		}
		return nil
	}
	if exists {
		return namespace.Do(namespace.Mount, path, mountAll)
	}
	return namespace.Create(namespace.Mount, path, func() error {
		// First cut off from the machine, or the machine would see our mounts; then
		// shared among the node's pods, as those with mount propagation expect.
		if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
			return fmt.Errorf("making the mounts private: %w", err)
		}
		if err := unix.Mount("tmpfs", "/run", "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=0755"); err != nil {
			return fmt.Errorf("mounting /run: %w", err)
		}
		if err := os.MkdirAll("/run/lock", 0o755); err != nil {
			return err
		}
		if err := mountAll(); err != nil {
			return err
		}
		if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SHARED, ""); err != nil {
			return fmt.Errorf("making the mounts shared: %w", err)
		}
		return nil
	})
}

// ensureBind puts the mount source on target, unless what it shows is there already.
func ensureBind(source int, target string) error {
	var want, have unix.Stat_t
	if err := unix.Fstat(source, &want); err != nil {
		return err
	}
	err := unix.Stat(target, &have)
	switch {
	case err == nil && have.Dev == want.Dev && have.Ino == want.Ino:
		return nil
	case errors.Is(err, fs.ErrNotExist):
		if err := makeTarget(target, want.Mode&unix.S_IFMT == unix.S_IFDIR); err != nil {
			return err
		}
	case err != nil:
		return err
	}
	if err := unix.MoveMount(source, "", unix.AT_FDCWD, target, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return err
	}
	// As a copy of a mount of the machine it shares what is mounted in it with the
	// machine; from now on with the node's pods only.
	if err := unix.Mount("", target, "", unix.MS_PRIVATE, ""); err != nil {
		return err
	}
	return unix.Mount("", target, "", unix.MS_SHARED, "")
}

func makeTarget(target string, isDir bool) error {
	if isDir {
		return os.MkdirAll(target, 0o755)
	}
	if err := os.MkdirAll(filepath.Dir(target), 0o755); err != nil {
		return err
	}
	return os.WriteFile(target, nil, 0o644)
}

// privateRuntimeDir makes the folder of the bound mount namespaces a mount of its
// own without propagation: the kernel binds a mount namespace nowhere else.
func privateRuntimeDir() error {
	dir := filepath.Dir(layout.Mountns("x"))
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	var parent, own unix.Stat_t
	if err := errors.Join(unix.Stat(filepath.Dir(dir), &parent), unix.Stat(dir, &own)); err != nil {
		return err
	}
	if parent.Dev != own.Dev {
		return nil
	}
	if err := unix.Mount("tmpfs", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "mode=0700,size=64k"); err != nil {
		return fmt.Errorf("mounting %s: %w", dir, err)
	}
	return unix.Mount("", dir, "", unix.MS_PRIVATE, "")
}

// RemoveMounts ends the mount namespaces of the nodes, whose processes must have
// ended, and with them every mount in them.
func RemoveMounts(nodes []string) error {
	var errs []error
	for _, node := range nodes {
		errs = append(errs, namespace.Remove(layout.Mountns(node)))
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	dir := filepath.Dir(layout.Mountns("x"))
	for {
		err := unix.Unmount(dir, unix.MNT_DETACH)
		if errors.Is(err, unix.EINVAL) || errors.Is(err, fs.ErrNotExist) {
			return nil // no mount (any more)
		}
		if err != nil {
			return fmt.Errorf("unmounting %s: %w", dir, err)
		}
	}
}
