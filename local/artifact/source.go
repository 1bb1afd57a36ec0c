package artifact

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/bulkhead-dev/bulkhead/local/deb"
	"github.com/bulkhead-dev/bulkhead/local/progress"
)

// make builds a stale program and puts it in place.
func (b *builder) make(ctx context.Context, p program) error {
	log, err := b.openLog(p.name)
	if err != nil {
		return err
	}
	defer log.close()
	out := filepath.Join(b.scratch(), p.name)
	if err := p.from.build(ctx, b, log, p.name, out); err != nil {
		return err
	}
	return b.install(p, out)
}

// installPackages installs what the stale programs need of Debian.
func (b *builder) installPackages(ctx context.Context, stale []program) error {
	var packages []string
	seen := map[string]bool{}
	for _, p := range stale {
		for _, name := range p.packages {
			if !seen[name] {
				seen[name] = true
				packages = append(packages, name)
			}
		}
	}
	if len(packages) == 0 {
		return nil
	}
	b.step("installing what is missing of %s", strings.Join(packages, ", "))
	return deb.Install(ctx, filepath.Join(b.logDir, "apt.log"), packages...)
}

func (u upstream) version() string { return u.module.version }

func (u upstream) inputs(string) ([]string, error) {
	return []string{u.module.path, u.module.version, u.module.sum, u.pkg, u.ldflags, u.tags, strconv.FormatBool(u.cgo), strconv.FormatBool(u.pie)}, nil
}

// build builds the program in the module's own folder of the module cache, so
// that upstream's go.sum and replacements apply, and nothing of ours does.
func (u upstream) build(ctx context.Context, b *builder, log *buildLog, name, out string) error {
	dir, err := b.fetch(ctx, log, u.module)
	if err != nil {
		return err
	}
	args := []string{b.tools.path, "build", "-C", dir, "-mod=readonly", "-trimpath", "-buildvcs=false", "-p", "2", "-v",
		"-tags", u.tags, "-ldflags", strings.ReplaceAll(u.ldflags, "{version}", u.module.version)}
	if u.pie {
		args = append(args, "-buildmode=pie")
	}
	env := goEnv("GOTMPDIR=" + b.scratch())
	if u.cgo {
		env = append(env, "CGO_ENABLED=1")
	}
	return b.runEnv(ctx, log, name, env, append(args, "-o", out, "./"+u.pkg)...)
}

// fetch brings a module into the module cache, compares its checksum with ours
// and returns its folder.
func (b *builder) fetch(ctx context.Context, log *buildLog, m module) (dir string, err error) {
	ctx, cancel := context.WithTimeout(ctx, buildTimeout)
	defer cancel()
	target := m.path + "@" + m.version
	fmt.Fprintf(log.file, "$ go mod download %s\n", target)
	var out bytes.Buffer
	cmd := exec.CommandContext(ctx, b.tools.path, "mod", "download", "-json", target)
	cmd.Dir = "/"
	cmd.Env = goEnv()
	cmd.Stdout, cmd.Stderr = &out, log
	runErr := cmd.Run()
	var got struct{ Dir, Sum, Error string }
	if err := json.Unmarshal(out.Bytes(), &got); err != nil && runErr == nil {
		return "", fmt.Errorf("reading what go mod download says of %s: %w", target, err)
	}
	if runErr != nil {
		fmt.Fprintln(log.file, got.Error)
		if ctx.Err() != nil {
			runErr = ctx.Err()
		}
		return "", b.failed(log, fmt.Errorf("fetching module %s: %w", target, runErr))
	}
	if got.Sum != m.sum {
		return "", &progress.LogError{
			Err:  fmt.Errorf("module %s has checksum %s, but %s is pinned", target, got.Sum, m.sum),
			Log:  log.path,
			Hint: "What was fetched is not what this version of Bulkhead was made with: do not use it, and look at GOPROXY and the module cache.",
		}
	}
	return got.Dir, nil
}

// nested is a main package that is a Go module of its own in our work tree,
// with its linker flags in a file named ldflags.
type nested struct {
	dir    string // below the top of the work tree
	module module // what it is made of, which its own go.mod and go.sum pin
	// tool is a main package that is not in the folder but in the go.mod, as a tool;
	// "" is the folder's own.
	tool string
}

func (n nested) version() string { return n.module.version }

func (n nested) inputs(root string) ([]string, error) {
	return digestFiles(filepath.Join(root, n.dir), "go.mod", "go.sum", "ldflags", "*.go")
}

func (n nested) build(ctx context.Context, b *builder, log *buildLog, name, out string) error {
	dir := filepath.Join(b.root, n.dir)
	ldflags, err := os.ReadFile(filepath.Join(dir, "ldflags"))
	if err != nil {
		return fmt.Errorf("reading the linker flags of %s: %w", name, err)
	}
	pkg := "."
	if n.tool != "" {
		pkg = n.tool
	}
	return b.run(ctx, log, name, b.tools.path, "build", "-C", dir, "-mod=readonly", "-trimpath", "-buildvcs=false", "-p", "2", "-v",
		"-ldflags", strings.Join(strings.Fields(string(ldflags)), " "), "-o", out, pkg)
}

// pauseC is the program that holds a pod's namespaces, a C file in the
// Kubernetes module.
type pauseC struct {
	module       module
	imageVersion string // of the pause image, which has versions of its own
}

func (p pauseC) version() string { return p.imageVersion }

func (p pauseC) inputs(string) ([]string, error) {
	return []string{p.module.path, p.module.version, p.module.sum, p.imageVersion}, nil
}

func (p pauseC) build(ctx context.Context, b *builder, log *buildLog, name, out string) error {
	dir, err := b.fetch(ctx, log, p.module)
	if err != nil {
		return err
	}
	return b.run(ctx, log, name, "gcc", "-Os", "-Wall", "-static", "-s", "-DVERSION="+p.imageVersion,
		"-o", out, filepath.Join(dir, "build/pause/linux/pause.c"))
}

// debian is a file of a Debian package. The package is unpacked, not installed:
// busybox-static would put another busybox off the machine. apt verifies it by
// the archive's signature; its version is the release's.
type debian struct {
	pkg, file string
}

func (d debian) version() string { return "of Debian package " + d.pkg }

func (d debian) inputs(string) ([]string, error) { return []string{d.pkg, d.file}, nil }

func (d debian) build(ctx context.Context, b *builder, log *buildLog, name, out string) error {
	dir := filepath.Join(b.scratch(), "unpacked-"+d.pkg)
	if err := deb.Unpack(ctx, log.path, dir, d.pkg); err != nil {
		return err
	}
	// A release may have moved /bin below /usr.
	for _, prefix := range []string{"", "usr"} {
		err := os.Rename(filepath.Join(dir, prefix, d.file), out)
		if err == nil {
			return nil
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("taking %s out of package %s: %w", d.file, d.pkg, err)
		}
	}
	return fmt.Errorf("package %s holds no %s", d.pkg, d.file)
}

// buildOwn builds our own programs. The Go tool itself knows what is stale, and
// one call for all of them is much quicker than one for each.
func (b *builder) buildOwn(ctx context.Context, names []string) error {
	if len(names) == 0 {
		return nil
	}
	var dirs []string
	for _, name := range names {
		dir := own[slices.IndexFunc(own, func(dir string) bool { return path.Base(dir) == name })]
		info, err := os.Stat(filepath.Join(b.root, dir))
		if err != nil || !info.IsDir() {
			return fmt.Errorf("%s cannot be built: there is no folder %s", name, filepath.Join(b.root, dir))
		}
		dirs = append(dirs, "./"+dir)
	}
	log, err := b.openLog("own")
	if err != nil {
		return err
	}
	defer log.close()
	what := strings.Join(names, ", ")
	b.step("building %s", what)
	args := []string{b.tools.path, "build", "-C", b.root, "-mod=readonly", "-trimpath", "-buildvcs=false", "-p", "2", "-v",
		"-ldflags", "-s -w", "-o", b.bin + "/"}
	return b.run(ctx, log, what, append(args, dirs...)...)
}
