package engine

import (
	"context"
	"sync"
	"time"
)

// Bounds of what is remembered of one tenant's handlings: about 100 kB.
const (
	// maxRemembered handlings are remembered, the latest ones.
	maxRemembered = 256
	// maxFailures and maxFindings are of keys that failed, and that the tenant was told
	// something about, when they were last handled, however long ago.
	maxFailures, maxFindings = 256, 256
)

// handling is what happens while a key is handled. It goes with the context, for it
// is on one worker alone.
type handling struct {
	started  time.Time
	findings []string
	// created is when the super pod was made, bound and up whether the tenant was told
	// of its node or anything else.
	created   time.Time
	bound, up bool
}

type handlingKey struct{}

func withHandling(ctx context.Context) (context.Context, *handling) {
	h := &handling{started: time.Now()}
	return context.WithValue(ctx, handlingKey{}, h), h
}

// handlingOf returns the handling that a context belongs to, or nil.
func handlingOf(ctx context.Context) *handling {
	h, _ := ctx.Value(handlingKey{}).(*handling)
	return h
}

// found takes a note of what a tenant is told about a key, which may be another one
// than is handled: a pod makes what it needs.
func (h *handling) found(key Key, text string) {
	if h != nil {
		h.findings = append(h.findings, key.String()+": "+text)
	}
}

// handled is a handling that is over.
type handled struct {
	at       time.Time
	took     time.Duration
	result   string
	findings []string
}

// failure is how a key's last handling failed.
type failure struct {
	text string
}

// history remembers handlings, for people who ask where an object is. Nothing that is
// done depends on it.
type history struct {
	mu       sync.Mutex
	recent   map[Key]handled
	order    [maxRemembered]Key
	next     int
	failures map[Key]failure
	findings map[Key]handled
}

func (h *history) add(key Key, last handled, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.recent == nil {
		h.recent, h.failures, h.findings = make(map[Key]handled, maxRemembered), map[Key]failure{}, map[Key]handled{}
	}
	if _, known := h.recent[key]; !known {
		delete(h.recent, h.order[h.next])
		h.order[h.next] = key
		h.next = (h.next + 1) % maxRemembered
	}
	h.recent[key] = last
	delete(h.findings, key)
	if len(last.findings) > 0 && len(h.findings) < maxFindings {
		h.findings[key] = last
	}
	delete(h.failures, key)
	if err != nil && len(h.failures) < maxFailures {
		h.failures[key] = failure{text: err.Error()}
	}
}

// of returns the last handling of a key and its failure, as far as they are remembered.
func (h *history) of(key Key) (last *handled, problem string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if found, ok := h.recent[key]; ok {
		last = &found
	} else if found, ok := h.findings[key]; ok {
		last = &found
	}
	return last, h.failures[key].text
}
