package microvm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"time"

	"golang.org/x/sys/unix"

	"github.com/bulkhead-dev/bulkhead/local/deb"
	"github.com/bulkhead-dev/bulkhead/local/layout"
	"github.com/bulkhead-dev/bulkhead/local/progress"
)

const (
	// metaPackage depends on the release's present kernel. A release replaces its
	// kernels and removes the old ones, so that none can be named for good; which
	// one it is stays the same for a work tree.
	metaPackage = "linux-image-cloud-amd64"
	// installTimeout bounds everything that is fetched and unpacked.
	installTimeout = 15 * time.Minute
	lockPoll       = 200 * time.Millisecond
)

// tools are the packages whose programs run here. xz unpacks the modules of
// releases that compress them.
var tools = []string{"qemu-system-x86", "xz-utils"}

// kernel is an unpacked kernel package.
type kernel struct {
	image   string // vmlinuz
	modules string // the folder that all modules are below
}

// install makes sure that QEMU is installed and a kernel unpacked below bin/microvm,
// and says on stderr what takes long. One process of a tree does it, others wait.
func install(ctx context.Context) (kernel, error) {
	if runtime.GOARCH != "amd64" {
		return kernel{}, fmt.Errorf("microVMs are for amd64, this is %s", runtime.GOARCH)
	}
	ctx, cancel := context.WithTimeout(ctx, installTimeout)
	defer cancel()
	tree, err := layout.Find(".")
	if err != nil {
		return kernel{}, err
	}
	dir := filepath.Join(tree.Root, "bin", "microvm")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return kernel{}, err
	}
	unlock, err := lock(ctx, filepath.Join(dir, "lock"))
	if err != nil {
		return kernel{}, err
	}
	defer unlock()
	log := filepath.Join(dir, "packages.log")
	if _, err := exec.LookPath("qemu-system-x86_64"); err != nil {
		fmt.Fprintf(os.Stderr, "microvm: installing Debian's qemu-system-x86 (log: %s)\n", log)
	}
	if err := deb.Install(ctx, log, tools...); err != nil {
		return kernel{}, explained(err)
	}
	unpacked := filepath.Join(dir, "kernel")
	if found, err := findKernel(unpacked); err == nil {
		return found, nil
	}
	if err := unpackKernel(ctx, dir, unpacked, log); err != nil {
		return kernel{}, explained(err)
	}
	return findKernel(unpacked)
}

// explained tells of an error what its log and hint do: a test's author sees only
// its text.
func explained(err error) error {
	var logged *progress.LogError
	if errors.As(err, &logged) {
		return fmt.Errorf("%w; %s (log: %s)", err, logged.Hint, logged.Log)
	}
	return err
}

var dependsLine = regexp.MustCompile(`(?m)^\s*Depends: (linux-image-\S+-cloud-amd64)$`)

func unpackKernel(ctx context.Context, dir, to, log string) error {
	fmt.Fprintf(os.Stderr, "microvm: fetching Debian's kernel, some 26 MB (log: %s)\n", log)
	scratch, err := os.MkdirTemp(dir, "unpack-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(scratch)
	// The package of no content is fetched first, for that brings the package
	// lists up to date where they are not.
	if err := deb.Unpack(ctx, log, filepath.Join(scratch, "meta"), metaPackage); err != nil {
		return err
	}
	out, err := exec.CommandContext(ctx, "apt-cache", "depends", metaPackage).Output()
	if err != nil {
		return fmt.Errorf("asking apt-cache which kernel %s is: %w", metaPackage, err)
	}
	found := dependsLine.FindSubmatch(out)
	if found == nil {
		return fmt.Errorf("apt-cache names no kernel that %s depends on: %s", metaPackage, out)
	}
	target := filepath.Join(scratch, "kernel")
	if err := deb.Unpack(ctx, log, target, string(found[1])); err != nil {
		return err
	}
	if _, err := findKernel(target); err != nil {
		return err
	}
	if err := os.RemoveAll(to); err != nil {
		return err
	}
	return os.Rename(target, to)
}

func findKernel(dir string) (kernel, error) {
	images, _ := filepath.Glob(filepath.Join(dir, "boot", "vmlinuz-*"))
	if len(images) != 1 {
		return kernel{}, fmt.Errorf("%s holds %d kernels, want 1", dir, len(images))
	}
	// Later releases have /lib below /usr.
	for _, prefix := range []string{"lib", "usr/lib"} {
		modules, _ := filepath.Glob(filepath.Join(dir, prefix, "modules", "*"))
		if len(modules) == 1 {
			return kernel{image: images[0], modules: modules[0]}, nil
		}
	}
	return kernel{}, fmt.Errorf("%s holds no modules", dir)
}

// lock takes the lock file at path and waits for whoever holds it.
func lock(ctx context.Context, path string) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	poll := time.NewTicker(lockPoll)
	defer poll.Stop()
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return func() { f.Close() }, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) {
			return nil, errors.Join(fmt.Errorf("locking %s: %w", path, err), f.Close())
		}
		select {
		case <-ctx.Done():
			return nil, errors.Join(fmt.Errorf("waiting for %s: %w", path, ctx.Err()), f.Close())
		case <-poll.C:
		}
	}
}
