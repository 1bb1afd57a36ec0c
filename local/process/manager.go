package process

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/bulkhead-dev/bulkhead/local/progress"
)

const (
	superviseTimeout = 10 * time.Second
	pollEvery        = 20 * time.Millisecond
)

// Manager starts and stops supervised services. Their files are in Dir.
type Manager struct {
	// Dir holds a specification and a state file per service.
	Dir string
	// Program is a program for which `Program supervise --dir DIR NAME` calls Supervise.
	Program string
}

// Ensure makes sure that the service runs as described, under a living
// supervisor. It restarts the service if its description or the content of its
// inputs differs from what runs, and leaves it alone otherwise. It does not wait
// for the service to be ready.
func (m Manager) Ensure(ctx context.Context, s Service) error {
	if err := s.Validate(); err != nil {
		return err
	}
	fingerprint, err := s.fingerprint()
	if err != nil {
		return err
	}
	state := readState(m.Dir, s.Name)
	if state.Supervisor.Alive() {
		if state.Fingerprint == fingerprint {
			return nil
		}
		if err := m.Stop(ctx, s.Name); err != nil {
			return err
		}
	}
	if err := os.MkdirAll(m.Dir, 0o700); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(s.Log), 0o755); err != nil {
		return err
	}
	if err := writeJSON(specFile(m.Dir, s.Name), spec{Service: s, Fingerprint: fingerprint}); err != nil {
		return err
	}
	if err := m.supervise(ctx, s); err != nil {
		return &progress.LogError{Err: fmt.Errorf("starting service %s: %w", s.Name, err), Log: s.Log}
	}
	return nil
}

// supervise starts the supervisor and waits until it has taken charge.
func (m Manager) supervise(ctx context.Context, s Service) error {
	out, err := openLog(s.Log)
	if err != nil {
		return err
	}
	defer out.Close()
	cmd := exec.Command(m.Program, "supervise", "--dir", m.Dir, s.Name)
	cmd.Dir = "/"
	cmd.Env = []string{"PATH=" + os.Getenv("PATH")}
	cmd.Stdout, cmd.Stderr = out, out
	// A session of its own: it outlives us, our terminal and our Ctrl-C.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	ctx, cancel := context.WithTimeout(ctx, superviseTimeout)
	defer cancel()
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for {
		select {
		case err := <-ended:
			return fmt.Errorf("its supervisor ended: %w", err)
		case <-ctx.Done():
			return fmt.Errorf("its supervisor did not report: %w", ctx.Err())
		case <-tick.C:
			if readState(m.Dir, s.Name).Supervisor.PID == cmd.Process.Pid {
				return nil
			}
		}
	}
}

// Stop ends the service and its supervisor and forgets them. It is no error if
// there is none of the name.
func (m Manager) Stop(ctx context.Context, name string) error {
	state := readState(m.Dir, name)
	sp := m.readSpec(name)
	timeout := sp.Service.StopTimeout
	if timeout == 0 {
		timeout = DefaultStopTimeout
	}
	// The supervisor ends the program; without one that falls to us.
	first := state.Supervisor
	if !first.Alive() {
		first = state.Child
	}
	if err := first.Signal(syscall.SIGTERM); err == nil {
		// One second more than the supervisor gives the program.
		if err := waitEnd(ctx, first, timeout+time.Second); err != nil {
			return fmt.Errorf("stopping service %s: %w", name, err)
		}
	}
	left := []Identity{state.Supervisor, state.Child, readState(m.Dir, name).Child}
	if sp.Service.Cgroup != "" {
		hierarchies, err := FindHierarchies()
		if err != nil {
			return err
		}
		inside, err := hierarchies.Processes(sp.Service.Cgroup)
		if err != nil {
			return err
		}
		left = append(left, inside...)
	}
	if err := Kill(left, killTimeout); err != nil {
		return fmt.Errorf("stopping service %s: %w", name, err)
	}
	for _, path := range []string{stateFile(m.Dir, name), specFile(m.Dir, name), filepath.Join(m.Dir, "."+name+".lock")} {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// waitEnd waits until the process has ended or the timeout has passed; only a
// cancelled context is an error.
func waitEnd(ctx context.Context, id Identity, timeout time.Duration) error {
	deadline := time.Now().Add(timeout)
	for id.Alive() && time.Now().Before(deadline) {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(pollEvery):
		}
	}
	return nil
}

func (m Manager) readSpec(name string) spec {
	data, err := os.ReadFile(specFile(m.Dir, name))
	if err != nil {
		return spec{}
	}
	sp, err := parseSpec(data)
	if err != nil {
		return spec{}
	}
	return sp
}

// Names lists the services that have a specification, sorted.
func (m Manager) Names() ([]string, error) {
	entries, err := os.ReadDir(m.Dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		if name, ok := strings.CutSuffix(e.Name(), ".service.json"); ok && serviceName.MatchString(name) {
			names = append(names, name)
		}
	}
	return names, nil
}

// State returns what is known of a service: its last state, and its log.
func (m Manager) State(name string) (state State, log string) {
	return readState(m.Dir, name), m.readSpec(name).Service.Log
}

// Await calls ready until it returns nil, and returns its last error, tied to the
// service's log, once the timeout has passed or the service has ended so often
// that it will hardly get better.
func (m Manager) Await(ctx context.Context, name string, timeout time.Duration, ready func(context.Context) error) error {
	const hopeless = 5
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	before, log := m.State(name)
	for {
		err := ready(ctx)
		if err == nil {
			return nil
		}
		if now, _ := m.State(name); now.Restarts >= before.Restarts+hopeless {
			return &progress.LogError{Err: fmt.Errorf("%s ended %d times (last: %s)", name, hopeless, now.LastExit), Log: log}
		}
		select {
		case <-ctx.Done():
			if errors.Is(context.Cause(ctx), context.Canceled) {
				return ctx.Err()
			}
			return &progress.LogError{Err: fmt.Errorf("%s is not ready after %v: %w", name, timeout, err), Log: log}
		case <-time.After(100 * time.Millisecond):
		}
	}
}
