package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/bulkhead-dev/bulkhead/local/host"
	"github.com/bulkhead-dev/bulkhead/local/layout"
	"github.com/bulkhead-dev/bulkhead/local/network"
	"github.com/bulkhead-dev/bulkhead/local/node"
	"github.com/bulkhead-dev/bulkhead/local/process"
	"github.com/bulkhead-dev/bulkhead/local/superplane"
)

const (
	killTimeout   = 20 * time.Second
	cgroupTimeout = 10 * time.Second
)

// teardown takes the embedded super cluster apart. Each step works on whatever is
// there, and is no error if nothing is.
type teardown struct {
	layout  layout.Layout
	manager process.Manager
	nodes   []string
}

func newTeardown(l layout.Layout) *teardown {
	settings, ok, err := layout.LoadSettings(l.SettingsFile())
	if err != nil || !ok {
		// The names of the nodes do not depend on what may be broken or gone there.
		settings = layout.DefaultSettings()
	}
	t := &teardown{layout: l, manager: manager(l)}
	for _, n := range settings.NodeList() {
		t.nodes = append(t.nodes, n.Name)
	}
	return t
}

// stop stops services side by side.
func (t *teardown) stop(ctx context.Context, names ...string) error {
	group, ctx := errgroup.WithContext(ctx)
	for _, name := range names {
		group.Go(func() error { return t.manager.Stop(ctx, name) })
	}
	return group.Wait()
}

func (t *teardown) stopNodePrograms(ctx context.Context, _ func(string, ...any)) error {
	var names []string
	for _, n := range t.nodes {
		for _, name := range node.ServiceNames(n) {
			if name != node.ContainerdName(n) {
				names = append(names, name)
			}
		}
	}
	return t.stop(ctx, names...)
}

// killContainers ends the pods' processes. Nothing starts them again: the kubelets
// are gone.
func (t *teardown) killContainers(_ context.Context, step func(string, ...any)) error {
	for _, n := range t.nodes {
		if err := killCgroup(filepath.Join(layout.CgroupRoot, n), step); err != nil {
			return err
		}
	}
	return nil
}

// killCgroup ends all processes in the cgroup, also those that are started
// meanwhile.
func killCgroup(path string, step func(string, ...any)) error {
	hierarchies, err := process.FindHierarchies()
	if err != nil {
		return err
	}
	deadline := time.Now().Add(killTimeout)
	for {
		ids, err := hierarchies.Processes(path)
		if err != nil {
			return err
		}
		if len(ids) == 0 {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("processes appear again and again in cgroup %s, the last: %v", path, ids)
		}
		step("killing %d processes", len(ids))
		if err := process.Kill(ids, killTimeout); err != nil {
			return err
		}
	}
}

func (t *teardown) stopContainerd(ctx context.Context, step func(string, ...any)) error {
	var names []string
	for _, n := range t.nodes {
		names = append(names, node.ContainerdName(n))
	}
	if err := t.stop(ctx, names...); err != nil {
		return err
	}
	return killCgroup(filepath.Join(layout.CgroupRoot, "shims"), step)
}

func (t *teardown) stopControlPlane(ctx context.Context, step func(string, ...any)) error {
	// Backwards, or each would spend its last seconds on complaints.
	names := superplane.Services()
	for i := len(names) - 1; i >= 0; i-- {
		step("%s", names[i])
		if err := t.manager.Stop(ctx, names[i]); err != nil {
			return err
		}
	}
	// What another version of this program started.
	rest, err := t.manager.Names()
	if err != nil {
		return err
	}
	return t.stop(ctx, rest...)
}

// killRest ends what no service knows of but runs in our cgroups.
func (t *teardown) killRest(_ context.Context, step func(string, ...any)) error {
	return killCgroup(layout.CgroupRoot, step)
}

func (t *teardown) removeMounts(context.Context, func(string, ...any)) error {
	return node.RemoveMounts(t.nodes)
}

func (t *teardown) removeNetwork(ctx context.Context, _ func(string, ...any)) error {
	return network.Down(ctx, t.nodes)
}

func (t *teardown) removeCgroups(ctx context.Context, _ func(string, ...any)) error {
	ctx, cancel := context.WithTimeout(ctx, cgroupTimeout)
	defer cancel()
	hierarchies, err := process.FindHierarchies()
	if err != nil {
		return err
	}
	return hierarchies.Remove(ctx, layout.CgroupRoot)
}

func (t *teardown) restoreSysctls(context.Context, func(string, ...any)) error {
	return sysctls().Restore()
}

func (t *teardown) removeFiles(context.Context, func(string, ...any)) error {
	if err := host.Disown(); err != nil {
		return err
	}
	for _, dir := range []string{t.layout.State(), layout.RuntimeDir} {
		if mounts, err := mountsBelow(dir); err != nil || len(mounts) > 0 {
			// Deleting through a mount would delete what is mounted there.
			return errors.Join(fmt.Errorf("%s is not removed: %v are mounted in it", dir, mounts), err)
		}
		if err := os.RemoveAll(dir); err != nil {
			return err
		}
	}
	return nil
}

// verify looks for everything that up makes, and names what is left.
func (t *teardown) verify(ctx context.Context, _ func(string, ...any)) error {
	left := network.Left(ctx, t.nodes)
	hierarchies, err := process.FindHierarchies()
	if err != nil {
		return err
	}
	ids, err := hierarchies.Processes(layout.CgroupRoot)
	if err != nil {
		return err
	}
	for _, id := range ids {
		left = append(left, fmt.Sprintf("process %d", id.PID))
	}
	if hierarchies.Exists(layout.CgroupRoot) {
		left = append(left, "cgroup "+layout.CgroupRoot)
	}
	for _, dir := range []string{t.layout.State(), layout.RuntimeDir} {
		if _, err := os.Lstat(dir); err == nil {
			left = append(left, dir)
		} else if !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		mounts, err := mountsBelow(dir)
		if err != nil {
			return err
		}
		left = append(left, mounts...)
	}
	if len(left) > 0 {
		return fmt.Errorf("these are left: %s", strings.Join(left, ", "))
	}
	return nil
}

// mountsBelow lists the mount points at and below dir.
func mountsBelow(dir string) ([]string, error) {
	data, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	return mountPoints(string(data), dir), nil
}

// mountPoints reads them from the text of proc_pid_mountinfo(5), where spaces and
// the like in paths are written as backslash and three octal digits.
func mountPoints(mountinfo, dir string) []string {
	unescape := strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)
	var found []string
	for line := range strings.Lines(mountinfo) {
		if fields := strings.Fields(line); len(fields) > 4 {
			if at := unescape.Replace(fields[4]); at == dir || strings.HasPrefix(at, dir+"/") {
				found = append(found, at)
			}
		}
	}
	return found
}
