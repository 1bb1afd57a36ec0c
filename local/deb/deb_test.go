package deb

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/bulkhead-dev/bulkhead/local/progress"
)

// absent is a package name that no archive has.
const absent = "bulkhead-no-such-package"

// script writes a program that stands in for apt-get: the real one would change
// the machine that runs the tests.
func script(t *testing.T, body string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "apt-get")
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+body), 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestMissingAsksTheRealDpkg(t *testing.T) {
	s := system{dpkgQuery: "dpkg-query"}
	got, err := s.missing(t.Context(), []string{"dpkg", absent, "libc6"})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{absent}, got); diff != "" {
		t.Errorf("missing packages (-want +got):\n%s", diff)
	}
}

func TestNothingMissingCallsNoApt(t *testing.T) {
	s := system{dpkgQuery: "dpkg-query", aptGet: script(t, "exit 1\n"), isRoot: true}
	log := filepath.Join(t.TempDir(), "apt.log")
	if err := s.install(t.Context(), log, []string{"dpkg", "libc6"}); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(log); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("apt-get's log exists: apt-get was called (stat: %v)", err)
	}
}

func TestInstallsOnlyWhatIsMissing(t *testing.T) {
	// An update that fails is no reason to give up: the lists may do.
	for _, update := range []string{"exit 0", "exit 100"} {
		calls := filepath.Join(t.TempDir(), "calls")
		s := system{dpkgQuery: "dpkg-query", isRoot: true, aptGet: script(t,
			`echo "$DEBIAN_FRONTEND $@" >>`+calls+"\necho output\ncase \"$*\" in *update*) "+update+";; esac\n")}
		log := filepath.Join(t.TempDir(), "new", "apt.log")
		if err := s.install(t.Context(), log, []string{"dpkg", absent}); err != nil {
			t.Fatalf("with an update that does %q: %v", update, err)
		}
		got, err := os.ReadFile(calls)
		if err != nil {
			t.Fatal(err)
		}
		want := "noninteractive -q -o DPkg::Lock::Timeout=120 update\n" +
			"noninteractive -q -o DPkg::Lock::Timeout=120 install -y --no-install-recommends " + absent + "\n"
		if diff := cmp.Diff(want, string(got)); diff != "" {
			t.Errorf("calls (-want +got):\n%s", diff)
		}
		logged, err := os.ReadFile(log)
		if err != nil {
			t.Fatal(err)
		}
		if n := strings.Count(string(logged), "output\n"); n != 2 {
			t.Errorf("the log holds the output of %d calls, want 2:\n%s", n, logged)
		}
	}
}

func TestFailuresSayWhatToDo(t *testing.T) {
	failing := script(t, "echo no space left; exit 100\n")
	tests := []struct {
		name            string
		system          system
		wantErr, inHint string
		wantLog         bool
	}{
		{
			"no Debian", system{dpkgQuery: "/nonexistent/dpkg-query", aptGet: failing, isRoot: true},
			"this is no Debian or Ubuntu: dpkg-query is not there", "needs the packages dpkg, " + absent, false,
		},
		{
			"not root", system{dpkgQuery: "dpkg-query", aptGet: failing},
			"packages are missing and only root can install them: " + absent, "apt-get install " + absent, false,
		},
		{
			"apt fails", system{dpkgQuery: "dpkg-query", aptGet: failing, isRoot: true},
			"apt-get install " + absent + ": exit status 100 (and before that, apt-get update: exit status 100)", "apt-get install " + absent, true,
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			log := filepath.Join(t.TempDir(), "apt.log")
			err := tt.system.install(t.Context(), log, []string{"dpkg", absent})
			var logged *progress.LogError
			if !errors.As(err, &logged) {
				t.Fatalf("error is %v, want a LogError", err)
			}
			if diff := cmp.Diff(tt.wantErr, err.Error()); diff != "" {
				t.Errorf("error (-want +got):\n%s", diff)
			}
			if !strings.Contains(logged.Hint, tt.inHint) {
				t.Errorf("hint %q does not contain %q", logged.Hint, tt.inHint)
			}
			if (logged.Log == log) != tt.wantLog {
				t.Errorf("log %q, want it to be named: %v", logged.Log, tt.wantLog)
			}
		})
	}
}

func TestCancel(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	s := system{dpkgQuery: "dpkg-query", aptGet: script(t, "exit 0\n"), isRoot: true}
	if err := s.install(ctx, filepath.Join(t.TempDir(), "apt.log"), []string{absent}); !errors.Is(err, context.Canceled) {
		t.Errorf("error is %v, want context.Canceled", err)
	}
}
