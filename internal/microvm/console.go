package microvm

import (
	"io"
	"strings"
	"sync"
)

// consoleLimit bounds what is kept of a guest's console, in bytes; its end is cut.
const consoleLimit = 4 << 20

// console collects what a guest writes, and tells waiting readers of it.
type console struct {
	mu    sync.Mutex
	kept  []byte
	next  chan struct{} // closed at the next change
	copy  io.Writer
	ended bool
}

func newConsole(to io.Writer) *console { return &console{next: make(chan struct{}), copy: to} }

func (c *console) Write(data []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if room := consoleLimit - len(c.kept); room > 0 {
		c.kept = append(c.kept, data[:min(room, len(data))]...)
	}
	if c.copy != nil {
		if _, err := c.copy.Write(data); err != nil {
			c.copy = nil // the machine runs on without somebody to watch it
		}
	}
	c.signal()
	return len(data), nil
}

func (c *console) signal() {
	if !c.ended {
		close(c.next)
		c.next = make(chan struct{})
	}
}

func (c *console) end() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.signal()
	c.ended = true
}

func (c *console) text() string {
	_, so := c.changed()
	return so
}

// changed returns what there is, and a channel that closes when there is more.
func (c *console) changed() (more <-chan struct{}, so string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.next, strings.ReplaceAll(string(c.kept), "\r\n", "\n")
}
