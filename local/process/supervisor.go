package process

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// How a supervisor restarts its program: at once, then after ever longer pauses,
// and at once again when the program had run well for a while.
const (
	firstPause  = 200 * time.Millisecond
	longestWait = 10 * time.Second
	ranWell     = 30 * time.Second
	rotateEvery = 5 * time.Second
	killTimeout = 10 * time.Second
)

// Supervise runs the service name of the folder dir, whose specification Ensure
// has written there, until ctx ends. It restarts the program whenever it ends,
// and takes over a program that a killed supervisor left running. When ctx ends
// it ends the program too.
func Supervise(ctx context.Context, dir, name string) error {
	data, err := os.ReadFile(specFile(dir, name))
	if err != nil {
		return err
	}
	sp, err := parseSpec(data)
	if err != nil {
		return fmt.Errorf("%s: %w", specFile(dir, name), err)
	}
	out, err := openLog(sp.Service.Log)
	if err != nil {
		return err
	}
	defer out.Close()
	s := &supervisor{
		spec: sp, dir: dir, out: out,
		log: slog.New(slog.NewTextHandler(out, nil)).With("supervisor", name),
	}
	lock, err := lockFile(filepath.Join(dir, "."+name+".lock"))
	if err != nil {
		return fmt.Errorf("service %s has a supervisor already: %w", name, err)
	}
	defer lock.Close()
	if s.state.Supervisor, err = Identify(os.Getpid()); err != nil {
		return err
	}
	if err := raiseFileLimit(); err != nil {
		return fmt.Errorf("raising the limit of open files: %w", err)
	}
	if sp.Service.Cgroup != "" {
		if s.cgroups, err = FindHierarchies(); err != nil {
			return err
		}
		if err := s.cgroups.Make(sp.Service.Cgroup); err != nil {
			return err
		}
		// The program inherits the cgroup, with no moment outside of it.
		if err := s.cgroups.Join(sp.Service.Cgroup, os.Getpid()); err != nil {
			return err
		}
	}
	return s.run(ctx)
}

// lockFile takes an exclusive lock that ends with the process.
func lockFile(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// raiseFileLimit lets the program, and every container below it, open as many
// files as services usually may, and not as few as a login shell.
func raiseFileLimit() error {
	const usual = 1 << 20 // what init systems give to container runtimes
	err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: usual, Max: usual})
	if !errors.Is(err, unix.EPERM) {
		return err
	}
	var have unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &have); err != nil {
		return err
	}
	have.Cur = have.Max
	return unix.Setrlimit(unix.RLIMIT_NOFILE, &have)
}

type supervisor struct {
	spec    spec
	dir     string
	out     *os.File
	log     *slog.Logger
	cgroups Hierarchies // empty if the service names no cgroup
	state   State
}

func (s *supervisor) run(ctx context.Context) error {
	ended, err := s.takeOver()
	if err != nil {
		return err
	}
	pause := firstPause
	for {
		if ended == nil {
			if ended, err = s.start(); err != nil {
				s.log.Error("cannot start", "error", err)
				s.state.LastExit = err.Error()
			}
		}
		if ended != nil {
			stopped := s.watch(ctx, ended)
			ended = nil
			if stopped {
				return nil
			}
		}
		if time.Since(s.state.Started) > ranWell {
			pause = firstPause
		}
		s.state.Child = Identity{}
		s.state.Restarts++
		if err := s.save(); err != nil {
			s.log.Error("cannot save the state", "error", err)
		}
		s.log.Info("restarting", "after", pause, "exit", s.state.LastExit, "restarts", s.state.Restarts)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(pause):
		}
		pause = nextPause(pause)
	}
}

// nextPause doubles the pause before a restart, up to longestWait.
func nextPause(pause time.Duration) time.Duration { return min(2*pause, longestWait) }

// takeOver adopts the program that an earlier supervisor left, if it is what the
// specification asks for, and ends whatever else is left of the service. The
// returned channel is nil if nothing was adopted.
func (s *supervisor) takeOver() (<-chan string, error) {
	old := readState(s.dir, s.spec.Service.Name)
	s.state.Service, s.state.Fingerprint = s.spec.Service.Name, s.spec.Fingerprint
	var adopted <-chan string
	if old.Child.Alive() && old.Fingerprint == s.spec.Fingerprint {
		ended, err := waitForeign(old.Child)
		if err == nil {
			adopted = ended
			s.state.Child, s.state.Started, s.state.Restarts, s.state.LastExit = old.Child, old.Started, old.Restarts, old.LastExit
			s.log.Info("took over", "pid", old.Child.PID)
		}
	}
	if err := s.clear(old.Child); err != nil {
		return nil, err
	}
	return adopted, s.save()
}

// clear ends what runs in the service's cgroup, and the given process, but for
// the supervisor and its present child.
func (s *supervisor) clear(others ...Identity) error {
	if s.spec.Service.Cgroup != "" {
		strays, err := s.cgroups.Processes(s.spec.Service.Cgroup)
		if err != nil {
			return err
		}
		others = append(others, strays...)
	}
	var doomed []Identity
	for _, id := range others {
		if id != s.state.Supervisor && id != s.state.Child && id.Alive() {
			doomed = append(doomed, id)
		}
	}
	if len(doomed) == 0 {
		return nil
	}
	s.log.Info("ending what an earlier run left", "processes", doomed)
	return Kill(doomed, killTimeout)
}

// start starts the program. The returned channel gets a description of its end.
func (s *supervisor) start() (<-chan string, error) {
	if err := s.clear(); err != nil {
		return nil, err
	}
	cmd := exec.Command(s.spec.Service.Command[0], s.spec.Service.Command[1:]...)
	cmd.Env = s.spec.Service.Env
	cmd.Dir = "/"
	// The file itself, no pipe: see rotate.
	cmd.Stdout, cmd.Stderr = s.out, s.out
	s.state.Started = time.Now()
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	ended := make(chan string, 1)
	go func() {
		err := cmd.Wait()
		if err == nil {
			ended <- "exit status 0"
			return
		}
		ended <- err.Error()
	}()
	id, err := Identify(cmd.Process.Pid)
	if errors.Is(err, os.ErrNotExist) {
		return ended, nil // it has ended already
	}
	if err != nil {
		s.log.Error("cannot identify the program", "pid", cmd.Process.Pid, "error", err)
	}
	s.state.Child = id
	if err := s.save(); err != nil {
		s.log.Error("cannot save the state", "error", err)
	}
	return ended, nil
}

// watch waits for the program's end, and keeps its log bounded meanwhile. It
// returns true if it ended the program because ctx is done.
func (s *supervisor) watch(ctx context.Context, ended <-chan string) bool {
	tick := time.NewTicker(rotateEvery)
	defer tick.Stop()
	for {
		select {
		case s.state.LastExit = <-ended:
			return false
		case <-tick.C:
			if err := rotate(s.spec.Service.Log, s.logLimit()); err != nil {
				s.log.Error("cannot rotate the log", "error", err)
			}
		case <-ctx.Done():
			s.stop(ended)
			return true
		}
	}
}

func (s *supervisor) logLimit() int64 {
	if s.spec.Service.LogLimit > 0 {
		return s.spec.Service.LogLimit
	}
	return DefaultLogLimit
}

func (s *supervisor) stop(ended <-chan string) {
	_ = s.state.Child.Signal(syscall.SIGTERM)
	timeout := s.spec.Service.StopTimeout
	if timeout == 0 {
		timeout = DefaultStopTimeout
	}
	select {
	case <-ended:
	case <-time.After(timeout):
		s.log.Info("did not end when told to, killing it", "pid", s.state.Child.PID, "after", timeout)
		_ = s.state.Child.Signal(syscall.SIGKILL)
		<-ended
	}
	s.state.Child = Identity{}
	if err := errors.Join(s.clear(), s.save()); err != nil {
		s.log.Error("cannot clean up", "error", err)
	}
}

func (s *supervisor) save() error {
	return writeJSON(stateFile(s.dir, s.spec.Service.Name), s.state)
}

// waitForeign waits for the end of a process that is not a child of ours.
func waitForeign(id Identity) (<-chan string, error) {
	end, err := openEnd(id)
	if err != nil {
		return nil, err
	}
	ended := make(chan string, 1)
	go func() {
		defer end.close()
		if _, err := end.wait(-1); err != nil {
			ended <- err.Error()
			return
		}
		ended <- "ended"
	}()
	return ended, nil
}
