// Package artifact builds the programs that the embedded super cluster runs,
// from Go modules pinned by version and checksum.
//
// What is built, and from what, is the table in table.go. Beside each program
// lies a stamp of everything that went into it (stamp.go), so that a second
// Build with nothing changed does almost nothing.
package artifact

import (
	"context"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"time"
)

// Programs says where the built programs are. All paths are absolute.
type Programs struct {
	Bin     string // folder with hyperkube, kubectl, containerd, containerd-shim-runc-v2, ctr, runc, helm, coredns, local-path-provisioner, metrics-server, agnhost, sample-apiserver and our own programs
	CNI     string // folder with the CNI plugins bridge, host-local, loopback, portmap, ptp
	Pause   string // the static pause program
	Busybox string // the static busybox program
}

// Own returns the names of this repository's own programs.
func Own() []string {
	names := make([]string, 0, len(own))
	for _, dir := range own {
		names = append(names, path.Base(dir))
	}
	return names
}

// Tools returns the names of the developers' tools, which Build leaves out.
func Tools() []string {
	var names []string
	for _, p := range table {
		if p.tool {
			names = append(names, p.name)
		}
	}
	return names
}

// Version returns the upstream version of a program, such as "v1.36.3"; it is
// empty for a program that is not in the table.
func Version(name string) string {
	for _, p := range table {
		if p.name == name {
			return p.version()
		}
	}
	return ""
}

// Build makes every program that the embedded super cluster needs and that is
// missing or stale below root, the top of the work tree, and returns where they
// are. Logs go to logDir, one file per program. An error is a
// *progress.LogError where a log or a hint explains it. Builds of the same tree
// wait for one another.
func Build(ctx context.Context, root, logDir string, step func(format string, a ...any)) (Programs, error) {
	names := Own()
	for _, p := range table {
		if !p.tool {
			names = append(names, p.name)
		}
	}
	return BuildOnly(ctx, root, logDir, step, names...)
}

// BuildOnly is Build for the named programs, among which may also be the
// developers' tools; a name that is not in the table is an error.
func BuildOnly(ctx context.Context, root, logDir string, step func(format string, a ...any), names ...string) (Programs, error) {
	root, err := filepath.Abs(root)
	if err != nil {
		return Programs{}, fmt.Errorf("finding the work tree: %w", err)
	}
	logDir, err = filepath.Abs(logDir)
	if err != nil {
		return Programs{}, fmt.Errorf("finding the folder of logs: %w", err)
	}
	wanted, wantedOwn, err := choose(names)
	if err != nil {
		return Programs{}, err
	}
	b := &builder{root: root, bin: filepath.Join(root, "bin"), logDir: logDir, step: step}
	programs := Programs{
		Bin:     b.bin,
		CNI:     filepath.Join(b.bin, cniDir),
		Pause:   filepath.Join(b.bin, pauseName),
		Busybox: filepath.Join(b.bin, busyboxName),
	}
	for _, dir := range []string{programs.CNI, b.stamps(), logDir} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return Programs{}, fmt.Errorf("making a folder for programs: %w", err)
		}
	}
	unlock, err := lock(ctx, filepath.Join(b.bin, ".lock"), step)
	if err != nil {
		return Programs{}, err
	}
	defer unlock()
	if err := b.emptyScratch(); err != nil {
		return Programs{}, err
	}
	if b.tools, err = findToolchain(ctx, root); err != nil {
		return Programs{}, err
	}
	if err := b.build(ctx, wanted, wantedOwn); err != nil {
		return Programs{}, err
	}
	return programs, nil
}

// choose splits names into rows of the table and own programs, in the order in
// which they are built.
func choose(names []string) (wanted []program, wantedOwn []string, err error) {
	for _, name := range names {
		if !slices.Contains(Own(), name) && !slices.ContainsFunc(table, func(p program) bool { return p.name == name }) {
			return nil, nil, fmt.Errorf("no program is called %q", name)
		}
	}
	for _, p := range table {
		if slices.Contains(names, p.name) {
			wanted = append(wanted, p)
		}
	}
	for _, name := range Own() {
		if slices.Contains(names, name) {
			wantedOwn = append(wantedOwn, name)
		}
	}
	return wanted, wantedOwn, nil
}

// builder is one run of Build.
type builder struct {
	root   string // top of the work tree
	bin    string // where programs go
	logDir string
	step   func(format string, a ...any)
	tools  toolchain
}

func (b *builder) stamps() string  { return filepath.Join(b.bin, ".stamp") }
func (b *builder) scratch() string { return filepath.Join(b.bin, ".tmp") }

// emptyScratch removes what a killed Build left behind. The scratch folder is
// on the same file system as the programs, so that they can be moved into place
// in one go.
func (b *builder) emptyScratch() error {
	if err := os.RemoveAll(b.scratch()); err != nil {
		return fmt.Errorf("emptying the scratch folder: %w", err)
	}
	if err := os.MkdirAll(b.scratch(), 0o755); err != nil {
		return fmt.Errorf("making the scratch folder: %w", err)
	}
	return nil
}

// build makes what is stale, one program at a time: the Go tool itself keeps
// both processors busy, and two links at once take too much memory.
func (b *builder) build(ctx context.Context, wanted []program, wantedOwn []string) error {
	var stale []program
	for _, p := range wanted {
		fresh, err := b.isFresh(p)
		if err != nil {
			return err
		}
		if !fresh {
			stale = append(stale, p)
		}
	}
	if len(stale) > 0 {
		if err := b.tools.checkSpace(b.root, stale); err != nil {
			return err
		}
		if err := b.installPackages(ctx, stale); err != nil {
			return err
		}
	}
	for i, p := range stale {
		b.step("building %s %s (%d of %d)", p.name, p.version(), i+1, len(stale))
		began := time.Now()
		if err := b.make(ctx, p); err != nil {
			return err
		}
		b.step("built %s in %s", p.name, time.Since(began).Round(100*time.Millisecond))
	}
	for _, p := range wanted {
		if err := b.link(p); err != nil {
			return err
		}
	}
	if err := b.buildOwn(ctx, wantedOwn); err != nil {
		return err
	}
	if slices.Contains(wantedOwn, completion.name) {
		return b.link(completion)
	}
	return nil
}

// link gives a program its further names.
func (b *builder) link(p program) error {
	for _, name := range p.links {
		path := filepath.Join(b.bin, p.dir, name)
		if target, err := os.Readlink(path); err == nil && target == p.name {
			continue
		}
		fresh := filepath.Join(b.scratch(), name)
		if err := os.Symlink(p.name, fresh); err != nil {
			return fmt.Errorf("making link %s: %w", name, err)
		}
		if err := os.Rename(fresh, path); err != nil {
			return fmt.Errorf("moving link %s into place: %w", name, err)
		}
	}
	return nil
}
