package artifact

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"go/version"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/bulkhead-dev/bulkhead/local/progress"
)

// minGo is the oldest Go that builds everything in the table; containerd is the
// one that asks for it.
const minGo = "go1.26.6"

// What must be free on each disk that a build writes to. The first build of
// hyperkube fills the Go build cache with most of it.
const (
	spaceFirst = 12 << 30
	spaceLarge = 4 << 30
	spaceOther = 2 << 30
)

// toolchain is the Go tool that builds the programs.
type toolchain struct {
	path     string // of the go program
	identity string // what decides how it compiles
	// caches are where it keeps modules and compiled packages.
	caches []string
	// free returns the bytes that are free for us on the disk of a folder.
	free func(dir string) (uint64, error)
}

// findToolchain finds the Go tool and asks it about itself. Its errors say what
// to do.
func findToolchain(ctx context.Context, root string) (toolchain, error) {
	if runtime.GOOS != "linux" || (runtime.GOARCH != "amd64" && runtime.GOARCH != "arm64") {
		return toolchain{}, &progress.LogError{
			Err:  fmt.Errorf("%s/%s is not supported", runtime.GOOS, runtime.GOARCH),
			Hint: "The embedded super cluster runs on Linux on amd64 or arm64; use such a machine, or install the chart on any Kubernetes cluster.",
		}
	}
	path, err := exec.LookPath("go")
	if err != nil {
		return toolchain{}, &progress.LogError{
			Err:  fmt.Errorf("the Go tool is not in PATH (%s)", os.Getenv("PATH")),
			Hint: fmt.Sprintf("Install Go %s or newer from https://go.dev/dl; if it is there and sudo hides it, use: sudo env PATH=\"$PATH\" make up", strings.TrimPrefix(minGo, "go")),
		}
	}
	t := toolchain{path: path, free: freeBytes}
	var out, stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, path, "env", "-json", "GOVERSION", "GOTOOLCHAIN", "GOMODCACHE", "GOCACHE", "GOARCH", "GOAMD64", "GOARM64", "GOEXPERIMENT")
	cmd.Dir = root
	cmd.Env = goEnv()
	cmd.Stdout, cmd.Stderr = &out, &stderr
	if err := cmd.Run(); err != nil {
		return toolchain{}, &progress.LogError{
			Err:  fmt.Errorf("asking %s for its settings: %w: %s", path, err, strings.TrimSpace(stderr.String())),
			Hint: fmt.Sprintf("Install Go %s or newer from https://go.dev/dl.", strings.TrimPrefix(minGo, "go")),
		}
	}
	var env struct {
		GOVERSION, GOTOOLCHAIN, GOMODCACHE, GOCACHE, GOARCH, GOAMD64, GOARM64, GOEXPERIMENT string
	}
	if err := json.Unmarshal(out.Bytes(), &env); err != nil {
		return toolchain{}, fmt.Errorf("reading the settings of %s: %w", path, err)
	}
	if err := checkVersion(env.GOVERSION, env.GOTOOLCHAIN); err != nil {
		return toolchain{}, err
	}
	t.caches = []string{env.GOMODCACHE, env.GOCACHE}
	t.identity = strings.Join([]string{env.GOVERSION, env.GOARCH, env.GOAMD64, env.GOARM64, env.GOEXPERIMENT}, " ")
	return t, nil
}

// checkVersion refuses a Go that is too old, unless it fetches a newer one by
// itself when a module asks for it.
func checkVersion(have, toolchainSetting string) error {
	// A version such as "go1.26.8 X:nodwarf5" names experiments too.
	have, _, _ = strings.Cut(have, " ")
	fetches := toolchainSetting == "auto" || strings.HasSuffix(toolchainSetting, "+auto")
	if !version.IsValid(have) || version.Compare(have, minGo) >= 0 || fetches {
		return nil
	}
	return &progress.LogError{
		Err:  fmt.Errorf("%s is too old: %s is needed", have, minGo),
		Hint: fmt.Sprintf("Install Go %s or newer from https://go.dev/dl, or set GOTOOLCHAIN=auto and the Go tool fetches it.", strings.TrimPrefix(minGo, "go")),
	}
}

// goEnv is the environment of every go command: the machine's own, for its
// proxies and caches, without what would change the programs.
func goEnv(extra ...string) []string {
	return append(os.Environ(), append([]string{
		"GOFLAGS=", "GOWORK=off", "GO111MODULE=on", "GOOS=linux", "GOARCH=" + runtime.GOARCH, "CGO_ENABLED=0",
	}, extra...)...)
}

// checkSpace looks whether the disks have room for what is about to be built.
func (t toolchain) checkSpace(root string, stale []program) error {
	need := uint64(spaceOther)
	for _, p := range stale {
		if !p.large {
			continue
		}
		need = spaceLarge
		if _, err := os.Stat(filepath.Join(root, "bin", p.dir, p.name)); errors.Is(err, os.ErrNotExist) {
			need = spaceFirst
			break
		}
	}
	for _, dir := range append([]string{root}, t.caches...) {
		free, err := t.free(dir)
		if err != nil {
			return fmt.Errorf("looking how much space is free for %s: %w", dir, err)
		}
		if free < need {
			return &progress.LogError{
				Err:  fmt.Errorf("%.1f GiB are free on the disk of %s, and building takes %d GiB", float64(free)/(1<<30), dir, need>>30),
				Hint: "Free some space there, or let GOCACHE and GOMODCACHE point to a larger disk.",
			}
		}
	}
	return nil
}

// freeBytes returns what is free on the disk on which dir is or would be made.
func freeBytes(dir string) (uint64, error) {
	for {
		var fs unix.Statfs_t
		err := unix.Statfs(dir, &fs)
		if err == nil {
			return fs.Bavail * uint64(fs.Bsize), nil
		}
		if parent := filepath.Dir(dir); errors.Is(err, unix.ENOENT) && parent != dir {
			dir = parent
			continue
		}
		return 0, err
	}
}
