package host

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/bulkhead-dev/bulkhead/local/layout"
	"github.com/bulkhead-dev/bulkhead/local/process"
)

// Free disk space that up asks for: the first time Kubernetes itself is built.
const (
	firstDisk = 15 << 30
	laterDisk = 4 << 30
)

// Supported tells why the embedded super cluster cannot run here at all.
func Supported() error {
	return supported(runtime.GOOS, runtime.GOARCH, os.Geteuid())
}

func supported(goos, goarch string, uid int) error {
	if goos != "linux" || goarch != "amd64" && goarch != "arm64" {
		return fmt.Errorf("the embedded super cluster runs on linux/amd64 and linux/arm64, and this is %s/%s: use a virtual machine of that kind", goos, goarch)
	}
	if uid != 0 {
		return errors.New("the embedded super cluster makes network namespaces and mounts, which only root may: run it with sudo")
	}
	return nil
}

// Check tells what the machine lacks right now.
func Check(l layout.Layout, ports []Port) error {
	if err := checkDisk(l); err != nil {
		return err
	}
	if err := checkPorts(ports); err != nil {
		return err
	}
	return checkKernel()
}

func checkDisk(l layout.Layout) error {
	need := uint64(laterDisk)
	if _, err := os.Stat(filepath.Join(l.Bin(), "hyperkube")); errors.Is(err, fs.ErrNotExist) {
		need = firstDisk
	}
	var s unix.Statfs_t
	if err := unix.Statfs(l.Root, &s); err != nil {
		return fmt.Errorf("looking at the free disk space of %s: %w", l.Root, err)
	}
	return enoughDisk(l.Root, s.Bavail*uint64(s.Bsize), need)
}

func enoughDisk(path string, free, need uint64) error {
	if free >= need {
		return nil
	}
	return fmt.Errorf("%s has %.1f GiB of disk space left and %.0f GiB are needed: free some, or move the work tree", path, float64(free)/(1<<30), float64(need)/(1<<30))
}

// checkKernel tells which feature of the kernel is missing, after giving a kernel
// with modules the chance to load it.
func checkKernel() error {
	if _, err := process.FindHierarchies(); err != nil {
		return err
	}
	filesystems, err := os.ReadFile("/proc/filesystems")
	if err != nil {
		return err
	}
	if !strings.Contains(string(filesystems), "\toverlay\n") && exec.Command("modprobe", "overlay").Run() != nil {
		return errors.New("the kernel has no overlay file system, which containers' images need: use a kernel with CONFIG_OVERLAY_FS")
	}
	for _, ns := range []string{"net", "mnt", "pid", "ipc", "uts"} {
		if _, err := os.Stat("/proc/self/ns/" + ns); err != nil {
			return fmt.Errorf("the kernel has no %s namespaces, which containers need: use another kernel", ns)
		}
	}
	return nil
}

// Owner returns the root of the work tree whose cluster runs on this machine, or
// "" if none does.
func Owner() (string, error) {
	data, err := os.ReadFile(layout.OwnerFile())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	owner := strings.TrimSpace(string(data))
	if owner == "" {
		return "", nil
	}
	hierarchies, err := process.FindHierarchies()
	if err != nil {
		return "", err
	}
	running, err := hierarchies.Processes(layout.CgroupRoot)
	if err != nil || len(running) == 0 {
		return "", err // what a reboot left
	}
	return owner, nil
}

// CheckOwner tells whose cluster runs on this machine, if it is not root's, and how
// to end it.
func CheckOwner(root string) error {
	owner, err := Owner()
	if err != nil || owner == "" || owner == root {
		return err
	}
	return fmt.Errorf("the embedded super cluster of %s runs on this machine: end it first, with `make -C %s down` or, if that folder is gone, with `make down` here", owner, owner)
}

// Abandoned tells whether a cluster runs on this machine whose work tree is gone.
func Abandoned() (bool, error) {
	owner, err := Owner()
	if err != nil || owner == "" {
		return false, err
	}
	_, err = layout.Find(owner)
	return err != nil, nil
}

// Claim takes the machine for the work tree at root.
func Claim(root string) error {
	if err := os.MkdirAll(layout.RuntimeDir, 0o755); err != nil {
		return err
	}
	return process.WriteFile(layout.OwnerFile(), []byte(root+"\n"), 0o644)
}

// Disown gives the machine back.
func Disown() error {
	if err := os.Remove(layout.OwnerFile()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// kubeletSysctls are what every kubelet sets for itself.
var kubeletSysctls = []string{
	"vm/overcommit_memory", "vm/panic_on_oom", "kernel/panic", "kernel/panic_on_oops",
	"kernel/keys/root_maxkeys", "kernel/keys/root_maxbytes",
}

// minimums are kernel settings whose usual values are too low for two nodes and
// the control planes of many tenants on one kernel.
var minimums = map[string]int{
	"fs/inotify/max_user_instances":     8192,
	"fs/inotify/max_user_watches":       524288,
	"net/ipv4/neigh/default/gc_thresh3": 4096,
}

// Prepare changes the kernel settings that the cluster needs changed, and
// remembers those that its programs will change.
func Prepare(s Sysctls) error {
	if err := s.Remember(kubeletSysctls...); err != nil {
		return err
	}
	for name, minimum := range minimums {
		if err := s.Raise(name, minimum); err != nil {
			return err
		}
	}
	return nil
}
