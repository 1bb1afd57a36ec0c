package artifact

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"github.com/bulkhead-dev/bulkhead/local/progress"
)

const (
	// buildTimeout bounds one command of a build: Kubernetes compiled cold on
	// one slow processor, with room to spare.
	buildTimeout = 90 * time.Minute
	// heartbeat is how often a long build says that it is alive.
	heartbeat = 20 * time.Second
)

// buildLog is the log of one program's build.
type buildLog struct {
	path string
	file *os.File
	// compiled counts the packages that the Go tool has named so far.
	compiled atomic.Int64
}

// openLog starts the log of a program's build afresh.
func (b *builder) openLog(name string) (*buildLog, error) {
	path := filepath.Join(b.logDir, "build-"+name+".log")
	// apt and dpkg append to the same file.
	f, err := os.OpenFile(path, os.O_CREATE|os.O_TRUNC|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, fmt.Errorf("opening the log of the build of %s: %w", name, err)
	}
	return &buildLog{path: path, file: f}, nil
}

func (l *buildLog) close() { l.file.Close() }

// Write appends to the log. The Go tool names each package that it compiles on
// a line of its own; its other messages start with "go: " or "# ".
func (l *buildLog) Write(p []byte) (int, error) {
	for line := range bytes.Lines(p) {
		if bytes.HasSuffix(line, []byte("\n")) && !bytes.HasPrefix(line, []byte("go: ")) && !bytes.HasPrefix(line, []byte("# ")) {
			l.compiled.Add(1)
		}
	}
	return l.file.Write(p)
}

// run runs a command of the build of what, with its output in the log.
func (b *builder) run(ctx context.Context, log *buildLog, what string, cmd ...string) error {
	return b.runEnv(ctx, log, what, goEnv("GOTMPDIR="+b.scratch()), cmd...)
}

func (b *builder) runEnv(ctx context.Context, log *buildLog, what string, env []string, args ...string) error {
	ctx, cancel := context.WithTimeout(ctx, buildTimeout)
	defer cancel()
	fmt.Fprintf(log.file, "$ %s\n", strings.Join(args, " "))
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	// Outside of any module, so that none has a say in what is fetched.
	cmd.Dir = "/"
	cmd.Env = env
	cmd.Stdout, cmd.Stderr = log, log
	// The Go tool removes its temporary files after an interrupt.
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 10 * time.Second

	defer b.beat(log, what)()
	began := time.Now()
	err := cmd.Run()
	if state := cmd.ProcessState; state != nil {
		fmt.Fprintf(log.file, "$ ended after %.1fs, with %.1fs of processor time\n", time.Since(began).Seconds(), (state.UserTime() + state.SystemTime()).Seconds())
	}
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		err = ctx.Err()
	}
	return b.failed(log, fmt.Errorf("building %s: %w", what, err))
}

// beat reports from time to time how far the build of what has come, until the
// function that it returns is called.
func (b *builder) beat(log *buildLog, what string) (stop func()) {
	done, finished := make(chan struct{}), make(chan struct{})
	began := time.Now()
	go func() {
		defer close(finished)
		tick := time.NewTicker(heartbeat)
		defer tick.Stop()
		for {
			select {
			case <-done:
				return
			case <-tick.C:
				b.step("building %s: %d packages compiled in %s", what, log.compiled.Load(), time.Since(began).Round(time.Second))
			}
		}
	}()
	return func() {
		close(done)
		<-finished
	}
}

// failed ties err to the log, and to advice where the log shows a known cause.
func (b *builder) failed(log *buildLog, err error) error {
	text, readErr := os.ReadFile(log.path)
	if readErr != nil {
		text = nil
	}
	return &progress.LogError{Err: err, Log: log.path, Hint: advice(string(text))}
}

// advice says what to do about a build that failed with the given log.
func advice(log string) string {
	for _, known := range []struct {
		signs []string
		hint  string
	}{
		{[]string{"no space left on device"}, "Free some disk space, then try again."},
		{
			[]string{"dial tcp", "i/o timeout", "no such host", "proxyconnect", "TLS handshake timeout", "connection reset by peer"},
			"The Go module proxy cannot be reached: see to the network or to GOPROXY, then try again; what is already fetched is kept.",
		},
		{[]string{"checksum mismatch", "SECURITY ERROR"}, "A module is not what its checksum says: something between here and its origin, or the module cache, has changed it. Try go clean -modcache, and do not use it if that does not help."},
		{[]string{"signal: killed"}, "The build was killed, most likely for want of memory: 4 GiB must be free."},
	} {
		for _, sign := range known.signs {
			if strings.Contains(log, sign) {
				return known.hint
			}
		}
	}
	return ""
}
