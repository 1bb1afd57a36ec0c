package command

import (
	"bytes"
	"regexp"
	"strings"
	"testing"
	"time"
)

// Where output is no terminal each change is a line, and nothing else is written.
func TestProgressInALog(t *testing.T) {
	var out bytes.Buffer
	start := time.Now()
	p := newProgress(&out, start)
	p.waits("for EtcdReady (PodPending: no room)")
	p.waits("for EtcdReady (PodPending: no room)")
	p.reached(start.Add(1500*time.Millisecond), "EtcdReady")
	p.waits("")
	p.end()
	if want := "waiting for EtcdReady (PodPending: no room)\n   1.500 s  EtcdReady\n"; out.String() != want {
		t.Errorf("got %q", out.String())
	}
}

// On a terminal the line that changes is never wider than it, and is gone at the end.
func TestProgressOnATerminal(t *testing.T) {
	var out bytes.Buffer
	start := time.Now()
	p := &progress{out: &out, start: start, columns: 40, stop: make(chan struct{})}
	p.waits("for EtcdReady (PodPending: 0/3 nodes are available — all are full)")
	p.reached(start.Add(1500*time.Millisecond), "EtcdReady")
	p.waits("for Ready")
	p.end()
	screen := regexp.MustCompile(`[0-9]+\.[0-9] s`).ReplaceAllString(out.String(), "N s")
	const erase = "\r\x1b[K"
	for _, drawn := range strings.Split(out.String(), erase) {
		for _, line := range strings.Split(drawn, "\n") {
			if width := len([]rune(line)); width >= 40 {
				t.Errorf("a line of %d columns on a terminal of 40: %q", width, line)
			}
		}
	}
	if !strings.HasSuffix(screen, "waiting for Ready"+erase) || !strings.Contains(screen, erase+"   1.500 s  EtcdReady\n") {
		t.Errorf("got %q", screen)
	}
}

// The clock moves by itself, and ends with the command.
func TestProgressTicks(t *testing.T) {
	out := make(chan string, 100)
	p := &progress{out: channelWriter(out), start: time.Now(), columns: 40, stop: make(chan struct{})}
	p.stopped.Go(p.run)
	p.waits("for Ready")
	for range 2 {
		select {
		case <-out:
		case <-time.After(patience):
			t.Fatal("the clock does not move")
		}
	}
	p.end()
}

type channelWriter chan string

func (w channelWriter) Write(data []byte) (int, error) {
	select {
	case w <- string(data):
	default: // nobody reads any more
	}
	return len(data), nil
}
