package command

import (
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"golang.org/x/term"

	"github.com/bulkhead-dev/bulkhead/kubectl-vc/phase"
)

// tick is how often the clock on a terminal moves.
const tick = 100 * time.Millisecond

// progress shows what a command waits for: on a terminal one line that changes in
// place, elsewhere a line for each change.
type progress struct {
	out   io.Writer
	start time.Time
	// columns is the terminal's width; 0 if out is none.
	columns int

	mutex   sync.Mutex
	waiting string
	shown   string
	stop    chan struct{}
	stopped sync.WaitGroup
}

// newProgress starts to show; the caller calls end.
func newProgress(out io.Writer, start time.Time) *progress {
	p := &progress{out: out, start: start, columns: columns(out), stop: make(chan struct{})}
	if p.columns > 0 {
		p.stopped.Go(p.run)
	}
	return p
}

// columns is the width of the terminal, 0 if out is none.
func columns(out io.Writer) int {
	file, ok := out.(*os.File)
	if !ok || !term.IsTerminal(int(file.Fd())) {
		return 0
	}
	width, _, err := term.GetSize(int(file.Fd()))
	if err != nil || width < 20 {
		return 0
	}
	return width
}

func (p *progress) run() {
	ticker := time.NewTicker(tick)
	defer ticker.Stop()
	for {
		select {
		case <-p.stop:
			return
		case <-ticker.C:
			p.mutex.Lock()
			p.draw()
			p.mutex.Unlock()
		}
	}
}

// reached prints a line that stays: what came true just now.
func (p *progress) reached(now time.Time, what string) {
	p.mutex.Lock()
	defer p.mutex.Unlock()
	p.erase()
	fmt.Fprintf(p.out, "%10s  %s\n", phase.Seconds(now.Sub(p.start)), what)
	p.draw()
}

// waits says what the command waits for from now on, as phase.Waits does.
func (p *progress) waits(what string) {
	p.mutex.Lock()
	defer p.mutex.Unlock()
	if p.waiting == what {
		return
	}
	p.waiting = what
	if p.columns == 0 && what != "" {
		fmt.Fprintf(p.out, "waiting %s\n", what)
		return
	}
	p.draw()
}

// end clears the line that changes.
func (p *progress) end() {
	close(p.stop)
	p.stopped.Wait()
	p.erase()
}

// draw rewrites the line that changes, cut to the terminal's width.
func (p *progress) draw() {
	if p.columns == 0 || p.waiting == "" {
		return
	}
	line := fmt.Sprintf("%9.1f s  waiting %s", time.Since(p.start).Seconds(), p.waiting)
	if runes := []rune(line); len(runes) >= p.columns {
		line = string(runes[:p.columns-2]) + "…"
	}
	p.erase()
	fmt.Fprint(p.out, line)
	p.shown = line
}

// erase takes the line that changes off the terminal.
func (p *progress) erase() {
	if p.shown != "" {
		fmt.Fprint(p.out, "\r\x1b[K")
		p.shown = ""
	}
}
