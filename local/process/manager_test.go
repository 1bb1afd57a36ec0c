package process

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/bulkhead-dev/bulkhead/local/progress"
)

// TestMain lets the test binary stand in for the program with the supervise command.
func TestMain(m *testing.M) {
	if len(os.Args) == 5 && os.Args[1] == "supervise" {
		ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
		defer stop()
		if err := Supervise(ctx, os.Args[3], os.Args[4]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

const testTimeout = time.Minute

// eventually waits for a condition that describes itself when it does not hold.
func eventually(t *testing.T, holds func() error) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(testTimeout); ; <-tick.C {
		err := holds()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
}

// newService returns a manager, and a service that runs a shell script.
func newService(t *testing.T, script string) (Manager, Service) {
	t.Helper()
	dir := t.TempDir()
	m := Manager{Dir: filepath.Join(dir, "run"), Program: os.Args[0]}
	s := Service{
		Name: "test", Command: []string{"/bin/sh", "-c", script}, Log: filepath.Join(dir, "log", "test.log"),
		StopTimeout: time.Second,
	}
	t.Cleanup(func() {
		if err := m.Stop(context.Background(), s.Name); err != nil {
			t.Error(err)
		}
	})
	return m, s
}

func ensure(t *testing.T, m Manager, s Service) {
	t.Helper()
	if err := m.Ensure(context.Background(), s); err != nil {
		t.Fatal(err)
	}
}

// running waits until the service has a living child other than the given one.
func running(t *testing.T, m Manager, name string, not Identity) State {
	t.Helper()
	var state State
	eventually(t, func() error {
		state, _ = m.State(name)
		if !state.Child.Alive() || state.Child == not {
			return fmt.Errorf("no (new) child runs: %+v", state)
		}
		return nil
	})
	return state
}

func TestKilledProgramComesBack(t *testing.T) {
	m, s := newService(t, "exec sleep 1000")
	ensure(t, m, s)
	first := running(t, m, s.Name, Identity{})
	if err := first.Child.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	second := running(t, m, s.Name, first.Child)
	if second.Restarts != 1 || !strings.Contains(second.LastExit, "killed") {
		t.Errorf("restarts %d, last exit %q, want 1 restart after it was killed", second.Restarts, second.LastExit)
	}
	if second.Supervisor != first.Supervisor {
		t.Errorf("the supervisor changed from %v to %v", first.Supervisor, second.Supervisor)
	}
}

func TestEnsureLeavesAloneWhatIsUnchanged(t *testing.T) {
	m, s := newService(t, "exec sleep 1000")
	input := filepath.Join(t.TempDir(), "config")
	if err := os.WriteFile(input, []byte("a"), 0o600); err != nil {
		t.Fatal(err)
	}
	s.Inputs = []string{input}
	ensure(t, m, s)
	first := running(t, m, s.Name, Identity{})

	if err := os.Chtimes(input, time.Now(), time.Now().Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	ensure(t, m, s)
	if again := running(t, m, s.Name, Identity{}); again.Child != first.Child {
		t.Fatalf("an unchanged service was restarted: %v, then %v", first.Child, again.Child)
	}

	if err := os.WriteFile(input, []byte("b"), 0o600); err != nil {
		t.Fatal(err)
	}
	ensure(t, m, s)
	second := running(t, m, s.Name, first.Child)
	if first.Child.Alive() || first.Supervisor.Alive() {
		t.Error("the former program runs still")
	}

	s.Env = []string{"A=b"}
	ensure(t, m, s)
	running(t, m, s.Name, second.Child)
}

func TestNewSupervisorTakesOverTheProgram(t *testing.T) {
	m, s := newService(t, "exec sleep 1000")
	ensure(t, m, s)
	first := running(t, m, s.Name, Identity{})
	if err := Kill([]Identity{first.Supervisor}, testTimeout); err != nil {
		t.Fatal(err)
	}
	if !first.Child.Alive() {
		t.Fatal("the program ended with its supervisor")
	}
	ensure(t, m, s)
	second := running(t, m, s.Name, Identity{})
	if second.Child != first.Child || second.Supervisor == first.Supervisor {
		t.Fatalf("not taken over: %+v, then %+v", first, second)
	}
	// It watches what it took over.
	if err := second.Child.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	running(t, m, s.Name, second.Child)
}

func TestNewSupervisorReplacesAnOldProgram(t *testing.T) {
	m, s := newService(t, "exec sleep 1000")
	ensure(t, m, s)
	first := running(t, m, s.Name, Identity{})
	if err := Kill([]Identity{first.Supervisor}, testTimeout); err != nil {
		t.Fatal(err)
	}
	s.Command[2] = "exec sleep 2000"
	ensure(t, m, s)
	running(t, m, s.Name, first.Child)
	if first.Child.Alive() {
		t.Error("the program of the former description runs still")
	}
}

func TestEverythingKilled(t *testing.T) {
	m, s := newService(t, "exec sleep 1000")
	ensure(t, m, s)
	first := running(t, m, s.Name, Identity{})
	if err := Kill([]Identity{first.Supervisor, first.Child}, testTimeout); err != nil {
		t.Fatal(err)
	}
	ensure(t, m, s)
	running(t, m, s.Name, first.Child)
}

func TestStop(t *testing.T) {
	for name, script := range map[string]string{
		"that ends when told":      "exec sleep 1000",
		"that does not listen":     `trap "" TERM; echo ready; while :; do sleep 0.1; done`,
		"that always ends at once": "exit 1",
	} {
		t.Run(name, func(t *testing.T) {
			m, s := newService(t, script)
			ensure(t, m, s)
			state, _ := m.State(s.Name)
			for range 2 { // the second time there is nothing to stop
				if err := m.Stop(context.Background(), s.Name); err != nil {
					t.Fatal(err)
				}
			}
			if state.Supervisor.Alive() || state.Child.Alive() {
				t.Errorf("still alive: %+v", state)
			}
			names, err := m.Names()
			if err != nil || len(names) > 0 {
				t.Errorf("left: %v, %v", names, err)
			}
		})
	}
}

func TestStopWithoutSupervisor(t *testing.T) {
	m, s := newService(t, "exec sleep 1000")
	ensure(t, m, s)
	state := running(t, m, s.Name, Identity{})
	if err := Kill([]Identity{state.Supervisor}, testTimeout); err != nil {
		t.Fatal(err)
	}
	if err := m.Stop(context.Background(), s.Name); err != nil {
		t.Fatal(err)
	}
	if state.Child.Alive() {
		t.Error("the program runs still")
	}
}

func TestAwaitGivesUpOnWhatKeepsEnding(t *testing.T) {
	m, s := newService(t, "echo no such file; exit 3")
	ensure(t, m, s)
	err := m.Await(context.Background(), s.Name, time.Minute, func(context.Context) error { return errors.New("not ready") })
	var logged *progress.LogError
	if !errors.As(err, &logged) || logged.Log != s.Log || !strings.Contains(err.Error(), "exit status 3") {
		t.Fatalf("error %v, want one that names the log and the exit status", err)
	}
	data, err := os.ReadFile(s.Log)
	if err != nil || !strings.Contains(string(data), "no such file") {
		t.Errorf("log %q, %v: want what the program wrote", data, err)
	}
}

func TestAwait(t *testing.T) {
	m, s := newService(t, "exec sleep 1000")
	ensure(t, m, s)
	calls := 0
	if err := m.Await(context.Background(), s.Name, testTimeout, func(context.Context) error {
		if calls++; calls < 3 {
			return errors.New("not yet")
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	err := m.Await(context.Background(), s.Name, time.Millisecond, func(context.Context) error { return errors.New("not yet") })
	if err == nil || !strings.Contains(err.Error(), "not yet") || !strings.Contains(err.Error(), "test is not ready") {
		t.Errorf("error %v, want the last one of the check", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	err = m.Await(ctx, s.Name, time.Minute, func(context.Context) error { return errors.New("not yet") })
	if !errors.Is(err, context.Canceled) {
		t.Errorf("error %v, want that it was cancelled", err)
	}
}

func TestEnsureExplainsWhatCannotStart(t *testing.T) {
	m, s := newService(t, "")
	s.Command = []string{"relative"}
	if err := m.Ensure(context.Background(), s); err == nil || !strings.Contains(err.Error(), "absolute path") {
		t.Errorf("error %v, want one about the relative path", err)
	}
	s.Command = []string{"/bin/true"}
	s.Inputs = []string{"/does/not/exist"}
	if err := m.Ensure(context.Background(), s); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("error %v, want that the input is missing", err)
	}
}

func TestSecondSupervisorIsRefused(t *testing.T) {
	m, s := newService(t, "exec sleep 1000")
	ensure(t, m, s)
	running(t, m, s.Name, Identity{})
	out, err := exec.Command(m.Program, "supervise", "--dir", m.Dir, s.Name).CombinedOutput()
	if err == nil || !strings.Contains(string(out), "has a supervisor already") {
		t.Errorf("%v: %s, want that it is refused", err, out)
	}
}

func TestProgramMayOpenAsManyFilesAsAllowed(t *testing.T) {
	m, s := newService(t, "ulimit -Sn; ulimit -Hn; exec sleep 1000")
	ensure(t, m, s)
	eventually(t, func() error {
		data, err := os.ReadFile(s.Log)
		if err != nil {
			return err
		}
		limits := strings.Fields(string(data))
		if len(limits) != 2 || limits[0] != limits[1] {
			return fmt.Errorf("soft and hard limit: %q, want the same", limits)
		}
		return nil
	})
}
