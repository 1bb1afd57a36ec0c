package process

import (
	"errors"
	"os"
	"os/exec"
	"syscall"
	"testing"
)

func TestIdentity(t *testing.T) {
	self, err := Identify(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	if !self.Alive() {
		t.Error("this very process is not alive")
	}
	reused := self
	reused.Start++
	if reused.Alive() {
		t.Error("a process that took over the id counts as the same")
	}
	if err := reused.Signal(syscall.SIGKILL); !errors.Is(err, os.ErrProcessDone) {
		t.Errorf("signalling a process that is gone: %v, want %v", err, os.ErrProcessDone)
	}
	rebooted := self
	rebooted.Boot = "another"
	if rebooted.Alive() {
		t.Error("a process of another boot counts as the same")
	}
	for _, none := range []Identity{{}, {PID: -1}} {
		if none.Alive() || !errors.Is(none.Signal(syscall.SIGKILL), os.ErrProcessDone) {
			t.Errorf("%v is alive", none)
		}
	}
}

func TestZombieIsNotAlive(t *testing.T) {
	cmd := exec.Command("/bin/sleep", "1000")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	id, err := Identify(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	// Nobody has waited for it when Kill returns.
	if err := Kill([]Identity{id}, testTimeout); err != nil {
		t.Fatal(err)
	}
	if id.Alive() {
		t.Error("a killed process is alive")
	}
	if err := cmd.Wait(); err == nil {
		t.Error("the process ended by itself")
	}
}

func TestParseStat(t *testing.T) {
	const rest = " S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4242 20 21\n"
	for name, tc := range map[string]struct {
		line  string
		state byte
		start uint64
		bad   bool
	}{
		"plain":                   {"7 (sh)" + rest, 'S', 4242, false},
		"parentheses and a space": {"7 (a) R 1 (b)" + rest, 'S', 4242, false},
		"short":                   {"7 (sh) S 1 2", 0, 0, true},
		"no name":                 {"7 sh S", 0, 0, true},
		"no number":               {"7 (sh) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 x 20", 0, 0, true},
		"empty":                   {"", 0, 0, true},
	} {
		state, start, err := parseStat([]byte(tc.line))
		if state != tc.state || start != tc.start || (err != nil) != tc.bad {
			t.Errorf("%s: %c, %d, %v; want %c, %d, error %v", name, state, start, err, tc.state, tc.start, tc.bad)
		}
	}
}

func FuzzParseStat(f *testing.F) {
	f.Add([]byte("7 (sh) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4242 20 21\n"))
	f.Add([]byte(")"))
	f.Fuzz(func(t *testing.T, data []byte) {
		if state, _, err := parseStat(data); err == nil && state == 0 {
			t.Fatal("a stat line without a state was read")
		}
	})
}
