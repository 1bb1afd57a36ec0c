package process

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Hierarchy is one mounted cgroup hierarchy.
type Hierarchy struct {
	Mount       string
	Unified     bool     // cgroup v2
	Controllers []string // of a v1 hierarchy
}

// Hierarchies are all cgroup hierarchies of the machine: one on cgroup v2, one
// per controller on v1.
type Hierarchies []Hierarchy

// FindHierarchies reads the mounted hierarchies of this process's mount namespace.
func FindHierarchies() (Hierarchies, error) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	h, err := parseHierarchies(f)
	if err == nil && len(h) == 0 {
		err = errors.New("no cgroup hierarchy is mounted: mount cgroup2 on /sys/fs/cgroup")
	}
	return h, err
}

// parseHierarchies reads mountinfo as proc_pid_mountinfo(5) describes it.
func parseHierarchies(r io.Reader) (Hierarchies, error) {
	var found Hierarchies
	seen := map[string]bool{}
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		before, after, ok := strings.Cut(lines.Text(), " - ")
		mount, fstype := strings.Fields(before), strings.Fields(after)
		if !ok || len(mount) < 5 || len(fstype) < 3 {
			continue
		}
		h := Hierarchy{Mount: mount[4]}
		switch fstype[0] {
		case "cgroup2":
			h.Unified = true
		case "cgroup":
			for _, option := range strings.Split(fstype[2], ",") {
				if option != "rw" && option != "ro" && option != "xattr" {
					h.Controllers = append(h.Controllers, option)
				}
			}
		default:
			continue
		}
		// The same hierarchy may be mounted in several places; one is enough.
		key := strings.Join(h.Controllers, ",")
		if !seen[key] {
			seen[key] = true
			found = append(found, h)
		}
	}
	return found, lines.Err()
}

// used are the hierarchies that processes are put into: the one of cgroup v2, or
// those of v1 that have controllers. Machines with v1 have others besides, which
// only sort processes; containerd does not move its shims in them, so that there
// they would count as part of whoever started them.
func (hs Hierarchies) used() Hierarchies {
	var v1 Hierarchies
	for _, h := range hs {
		if slices.ContainsFunc(h.Controllers, func(c string) bool { return !strings.HasPrefix(c, "name=") }) {
			v1 = append(v1, h)
		}
	}
	if len(v1) > 0 {
		return v1
	}
	return hs
}

// Make makes the cgroup path and all above it in each hierarchy, for the kubelet
// wants its own in all of them, ready for processes and for cgroups below it.
func (hs Hierarchies) Make(path string) error {
	for _, h := range hs {
		if err := h.make(path); err != nil {
			return fmt.Errorf("making cgroup %s: %w", path, err)
		}
	}
	return nil
}

func (h Hierarchy) make(path string) error {
	at := h.Mount
	for _, part := range strings.Split(filepath.Clean(path), "/") {
		parent := at
		at = filepath.Join(at, part)
		if h.Unified {
			if err := delegate(parent); err != nil {
				return err
			}
		}
		if err := os.Mkdir(at, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
		if slices.Contains(h.Controllers, "cpuset") {
			// A new v1 cpuset is empty, and refuses processes until it is not.
			for _, name := range []string{"cpuset.cpus", "cpuset.mems"} {
				if err := inherit(parent, at, name); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// delegate enables all controllers for the children of a v2 cgroup.
func delegate(dir string) error {
	available, err := os.ReadFile(filepath.Join(dir, "cgroup.controllers"))
	if err != nil {
		return err
	}
	for _, controller := range strings.Fields(string(available)) {
		// One at a time: some cannot be enabled everywhere, and the kubelet says
		// itself which it misses.
		_ = os.WriteFile(filepath.Join(dir, "cgroup.subtree_control"), []byte("+"+controller), 0)
	}
	return nil
}

func inherit(parent, child, name string) error {
	have, err := os.ReadFile(filepath.Join(child, name))
	if err != nil || strings.TrimSpace(string(have)) != "" {
		return err
	}
	value, err := os.ReadFile(filepath.Join(parent, name))
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(child, name), value, 0)
}

// Join moves process pid into the cgroup path, which Make has made.
func (hs Hierarchies) Join(path string, pid int) error {
	for _, h := range hs.used() {
		file := filepath.Join(h.Mount, path, "cgroup.procs")
		if err := os.WriteFile(file, []byte(strconv.Itoa(pid)), 0); err != nil {
			return fmt.Errorf("moving process %d into cgroup %s: %w", pid, path, err)
		}
	}
	return nil
}

// Processes lists the processes in the cgroup path and below it, in any hierarchy.
func (hs Hierarchies) Processes(path string) ([]Identity, error) {
	found := map[int]bool{}
	for _, h := range hs {
		err := filepath.WalkDir(filepath.Join(h.Mount, path), func(dir string, d fs.DirEntry, err error) error {
			if errors.Is(err, fs.ErrNotExist) {
				return nil // cgroups come and go
			}
			if err != nil || !d.IsDir() {
				return err
			}
			data, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
			if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, syscall.ENODEV) {
				return err
			}
			for _, field := range strings.Fields(string(data)) {
				if pid, err := strconv.Atoi(field); err == nil && pid > 0 {
					found[pid] = true
				}
			}
			return nil
		})
		if err != nil {
			return nil, fmt.Errorf("listing the processes of cgroup %s: %w", path, err)
		}
	}
	var ids []Identity
	for pid := range found {
		id, err := Identify(pid)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		ids = append(ids, id)
	}
	slices.SortFunc(ids, func(a, b Identity) int { return a.PID - b.PID })
	return ids, nil
}

// Exists tells whether any hierarchy has the cgroup path.
func (hs Hierarchies) Exists(path string) bool {
	return slices.ContainsFunc(hs, func(h Hierarchy) bool {
		_, err := os.Stat(filepath.Join(h.Mount, path))
		return err == nil
	})
}

// Remove removes the cgroup path and all below it. No process may be in them. A
// cgroup stays busy for a moment after its last process ended, so Remove tries
// again until ctx ends.
func (hs Hierarchies) Remove(ctx context.Context, path string) error {
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for {
		err := hs.removeOnce(path)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return errors.Join(err, ctx.Err())
		case <-tick.C:
		}
	}
}

func (hs Hierarchies) removeOnce(path string) error {
	var errs []error
	for _, h := range hs {
		var dirs []string
		err := filepath.WalkDir(filepath.Join(h.Mount, path), func(dir string, d fs.DirEntry, err error) error {
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			if err == nil && d.IsDir() {
				dirs = append(dirs, dir)
			}
			return err
		})
		errs = append(errs, err)
		for _, dir := range slices.Backward(dirs) { // children come after their parents
			// os.Remove would try unlink first, which cgroupfs answers with EPERM.
			if err := syscall.Rmdir(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
				errs = append(errs, fmt.Errorf("removing cgroup %s: %w", dir, err))
			}
		}
	}
	return errors.Join(errs...)
}
