package progress

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// times matches what differs from run to run.
var times = regexp.MustCompile(`\d+(\.\d+)?s\b`)

func steady(s string) string { return times.ReplaceAllString(s, "TIME") }

func TestPhasePlain(t *testing.T) {
	log := filepath.Join(t.TempDir(), "build.log")
	var lines []string
	for i := range 30 {
		lines = append(lines, fmt.Sprintf("line %d", i))
	}
	lines[29] = "\033[31mred\033[0m\tend"
	if err := os.WriteFile(log, []byte(strings.Join(lines, "\n")+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	var tailed strings.Builder
	for i := 10; i < 29; i++ {
		fmt.Fprintf(&tailed, "  | line %d\n", i)
	}
	tailed.WriteString("  | [31mred[0m end\n")

	empty := filepath.Join(t.TempDir(), "empty.log")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}

	tests := []struct {
		name string
		err  error
		want string
	}{
		{"success", nil, "[ 1/12] network\n          bridge bh0\n[ 1/12] network ... TIME\n"},
		{
			"plain error", errors.New("no such bridge"),
			"[ 1/12] network\n          bridge bh0\n[ 1/12] network ... failed after TIME\n\nerror: no such bridge\n",
		},
		{
			"interrupted", fmt.Errorf("building: %w", context.Canceled),
			"[ 1/12] network\n          bridge bh0\n[ 1/12] network ... interrupted after TIME\n",
		},
		{
			"wrapped log error", fmt.Errorf("up: %w", &LogError{Err: errors.New("exit status 1"), Log: log, Hint: "Free some disk space."}),
			"[ 1/12] network\n          bridge bh0\n[ 1/12] network ... failed after TIME\n\nerror: up: exit status 1\nFree some disk space.\n" +
				"log: " + log + ", which ends with\n" + tailed.String(),
		},
		{
			"hint without log", &LogError{Err: errors.New("not root"), Hint: "Run it as root."},
			"[ 1/12] network\n          bridge bh0\n[ 1/12] network ... failed after TIME\n\nerror: not root\nRun it as root.\n",
		},
		{
			"empty log", &LogError{Err: errors.New("exit status 1"), Log: empty},
			"[ 1/12] network\n          bridge bh0\n[ 1/12] network ... failed after TIME\n\nerror: exit status 1\nlog: " + empty + " (empty)\n",
		},
		{
			"missing log", &LogError{Err: errors.New("exit status 1"), Log: "/nonexistent/x.log"},
			"[ 1/12] network\n          bridge bh0\n[ 1/12] network ... failed after TIME\n\nerror: exit status 1\n" +
				"log: /nonexistent/x.log (cannot be read: open /nonexistent/x.log: no such file or directory)\n",
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var out bytes.Buffer
			got := New(&out, 12).Phase(context.Background(), "network", func(_ context.Context, step func(string, ...any)) error {
				step("bridge %s", "bh0")
				return tt.err
			})
			if got != tt.err { //nolint:errorlint // the very same error, not one that wraps it
				t.Errorf("Phase returned %v, want the phase's own error %v", got, tt.err)
			}
			if diff := cmp.Diff(tt.want, steady(out.String())); diff != "" {
				t.Errorf("output (-want +got):\n%s", diff)
			}
		})
	}
}

func TestPhaseTerminal(t *testing.T) {
	var out bytes.Buffer
	r := New(&out, 2)
	r.width = func() int { return 40 }
	err := r.Phase(context.Background(), "programs", func(_ context.Context, step func(string, ...any)) error {
		step("building kube-apiserver and others that take long")
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	want := "\r\033[K[1/2] programs ... TIME" +
		"\r\033[K[1/2] programs: building kube- ... TIME" +
		"\r\033[K[1/2] programs ... TIME\n"
	if diff := cmp.Diff(want, steady(out.String())); diff != "" {
		t.Errorf("output (-want +got):\n%s", diff)
	}
}

func TestStepsFromManyGoroutines(t *testing.T) {
	var out bytes.Buffer
	r := New(&out, 1)
	const steps = 50
	err := r.Phase(context.Background(), "nodes", func(_ context.Context, step func(string, ...any)) error {
		var wg sync.WaitGroup
		for range steps {
			wg.Go(func() { step("ready") })
		}
		wg.Wait()
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Count(out.String(), "        ready\n"); got != steps {
		t.Errorf("%d whole step lines, want %d:\n%s", got, steps, out.String())
	}
}

func TestMorePhasesThanAnnounced(t *testing.T) {
	var out bytes.Buffer
	r := New(&out, 1)
	for _, name := range []string{"a", "b"} {
		if err := r.Phase(context.Background(), name, func(context.Context, func(string, ...any)) error { return nil }); err != nil {
			t.Fatal(err)
		}
	}
	if want := "[1/1] a\n[1/1] a ... TIME\n[2/2] b\n[2/2] b ... TIME\n"; steady(out.String()) != want {
		t.Errorf("output %q, want %q", steady(out.String()), want)
	}
}

func TestTailOfLongLog(t *testing.T) {
	log := filepath.Join(t.TempDir(), "long.log")
	long := strings.Repeat("x", 10_000)
	if err := os.WriteFile(log, []byte(strings.Repeat(long+"\n", 40)), 0o600); err != nil {
		t.Fatal(err)
	}
	lines, err := tail(log)
	if err != nil {
		t.Fatal(err)
	}
	// Only whole lines within the last 64 KiB are shown, each cut.
	if len(lines) != 6 {
		t.Errorf("%d lines, want 6", len(lines))
	}
	for _, line := range lines {
		if line != long[:lineRunes] {
			t.Errorf("line of %d characters, want %d", len(line), lineRunes)
		}
	}
}

func TestElapsed(t *testing.T) {
	for d, want := range map[time.Duration]string{
		420 * time.Millisecond: "0.4s",
		34 * time.Second:       "34s",
		248 * time.Second:      "4m08s",
		61 * time.Minute:       "61m00s",
	} {
		if got := elapsed(d); got != want {
			t.Errorf("elapsed(%v) = %q, want %q", d, got, want)
		}
	}
}
