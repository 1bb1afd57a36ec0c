// Package progress reports what the embedded super cluster is doing, phase by
// phase, and on failure shows where to look.
package progress

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/term"
)

// redrawEvery is how often the elapsed time of a phase moves on a terminal.
const redrawEvery = time.Second

// Reporter prints phases. On a terminal a running phase is one line that is
// drawn again and again; elsewhere each phase and step is a line of its own.
// One phase runs at a time; its step function may be called by many goroutines.
type Reporter struct {
	total int
	width func() int // columns of the terminal; nil when w is none

	mu      sync.Mutex
	w       io.Writer
	count   int       // phases begun
	name    string    // the running phase
	step    string    // its last step
	started time.Time // when it began
}

// New returns a Reporter that writes to w and counts up to total phases.
func New(w io.Writer, total int) *Reporter {
	r := &Reporter{w: w, total: total}
	if f, ok := w.(*os.File); ok && os.Getenv("TERM") != "dumb" && term.IsTerminal(int(f.Fd())) {
		r.width = func() int {
			columns, _, err := term.GetSize(int(f.Fd()))
			if err != nil {
				return 80
			}
			return columns
		}
	}
	return r
}

// Phase runs f under the given name and prints the name, the steps that f
// reports, and the time it took. When f fails, Phase prints one sentence and,
// if the error carries a log (see LogError), its path and last lines. It
// returns f's error unchanged.
func (r *Reporter) Phase(ctx context.Context, name string, f func(ctx context.Context, step func(format string, a ...any)) error) error {
	r.begin(name)
	stop := r.redraw()
	err := f(ctx, r.report)
	stop()
	r.end(err)
	return err
}

func (r *Reporter) begin(name string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.count++
	r.total = max(r.total, r.count)
	r.name, r.step, r.started = name, "", time.Now()
	if r.width == nil {
		fmt.Fprintf(r.w, "%s %s\n", r.prefix(), name)
		return
	}
	r.draw()
}

// redraw keeps the elapsed time on a terminal moving until the function that it
// returns is called.
func (r *Reporter) redraw() (stop func()) {
	if r.width == nil {
		return func() {}
	}
	done, finished := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(finished)
		tick := time.NewTicker(redrawEvery)
		defer tick.Stop()
		for {
			select {
			case <-done:
				return
			case <-tick.C:
				r.mu.Lock()
				r.draw()
				r.mu.Unlock()
			}
		}
	}()
	return func() {
		close(done)
		<-finished
	}
}

// report is the step function of the running phase.
func (r *Reporter) report(format string, a ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.step = printable(fmt.Sprintf(format, a...))
	if r.width == nil {
		fmt.Fprintf(r.w, "%s   %s\n", strings.Repeat(" ", len(r.prefix())), r.step)
		return
	}
	r.draw()
}

// draw writes the running phase over the terminal's present line.
func (r *Reporter) draw() {
	line := fmt.Sprintf("%s %s", r.prefix(), r.name)
	if r.step != "" {
		line += ": " + r.step
	}
	line = clip(line, r.width()-10) + " ... " + elapsed(time.Since(r.started))
	fmt.Fprintf(r.w, "\r\033[K%s", line)
}

func (r *Reporter) end(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	took := elapsed(time.Since(r.started))
	if r.width != nil {
		fmt.Fprint(r.w, "\r\033[K")
	}
	if err == nil {
		fmt.Fprintf(r.w, "%s %s ... %s\n", r.prefix(), r.name, took)
		return
	}
	if errors.Is(err, context.Canceled) {
		fmt.Fprintf(r.w, "%s %s ... interrupted after %s\n", r.prefix(), r.name, took)
		return
	}
	fmt.Fprintf(r.w, "%s %s ... failed after %s\n", r.prefix(), r.name, took)
	explain(r.w, err)
}

func (r *Reporter) prefix() string {
	digits := len(fmt.Sprint(r.total))
	return fmt.Sprintf("[%*d/%d]", digits, r.count, r.total)
}

// clip shortens s to n runes.
func clip(s string, n int) string {
	runes := []rune(s)
	if n < 1 || len(runes) <= n {
		return s
	}
	return string(runes[:n])
}

// elapsed renders d as 0.4s, 34s or 4m08s.
func elapsed(d time.Duration) string {
	switch {
	case d < 10*time.Second:
		return fmt.Sprintf("%.1fs", d.Seconds())
	case d < time.Minute:
		return fmt.Sprintf("%.0fs", d.Seconds())
	}
	return fmt.Sprintf("%dm%02ds", int(d.Minutes()), int(d.Seconds())%60)
}
