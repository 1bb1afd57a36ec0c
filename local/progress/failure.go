package progress

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"unicode"
)

const (
	tailLines = 20        // lines of a log that a failure shows
	tailBytes = 64 * 1024 // how much of the log's end is read for them
	lineRunes = 400       // where a shown line is cut
)

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

// explain writes what is known about a failure: the error, what to do about it,
// and the end of the log that the error carries.
func explain(w io.Writer, err error) {
	fmt.Fprintf(w, "\nerror: %s\n", printableLines(err.Error()))
	var logged *LogError
	if !errors.As(err, &logged) {
		return
	}
	if logged.Hint != "" {
		fmt.Fprintf(w, "%s\n", printableLines(logged.Hint))
	}
	if logged.Log == "" {
		return
	}
	lines, err := tail(logged.Log)
	if err != nil {
		fmt.Fprintf(w, "log: %s (cannot be read: %v)\n", logged.Log, err)
		return
	}
	if len(lines) == 0 {
		fmt.Fprintf(w, "log: %s (empty)\n", logged.Log)
		return
	}
	fmt.Fprintf(w, "log: %s, which ends with\n", logged.Log)
	for _, line := range lines {
		fmt.Fprintf(w, "  | %s\n", line)
	}
}

// tail returns the last lines of a file, made fit for a terminal.
func tail(path string) ([]string, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	start := max(0, info.Size()-tailBytes)
	data, err := io.ReadAll(io.NewSectionReader(f, start, info.Size()-start))
	if err != nil {
		return nil, err
	}
	if start > 0 {
		// The first line is most likely cut off.
		if i := bytes.IndexByte(data, '\n'); i >= 0 {
			data = data[i+1:]
		}
	}
	text := strings.TrimRight(string(data), "\n")
	if text == "" {
		return nil, nil
	}
	lines := strings.Split(text, "\n")
	lines = lines[max(0, len(lines)-tailLines):]
	for i := range lines {
		lines[i] = clip(printable(lines[i]), lineRunes)
	}
	return lines, nil
}

// printable drops what would move the cursor or change the terminal's state:
// logs hold whatever a failed program wrote.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\t', r == '\n', r == '\r':
			return ' '
		case unicode.IsPrint(r):
			return r
		}
		return -1
	}, s)
}

// printableLines is printable for a text of several lines.
func printableLines(s string) string {
	lines := strings.Split(s, "\n")
	for i := range lines {
		lines[i] = printable(lines[i])
	}
	return strings.Join(lines, "\n")
}
