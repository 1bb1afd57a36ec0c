package engine

import (
	"sync"
	"time"
)

// unwanted remembers since when super objects have not been wanted. A restart
// forgets it, which gives them a little more time.
type unwanted struct {
	mu    sync.Mutex
	since map[Key]time.Time
}

// left is how long an object may stay, counted from the first call for its key.
func (u *unwanted) left(key Key, linger time.Duration, now time.Time) time.Duration {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.since == nil {
		u.since = map[Key]time.Time{}
	}
	since, known := u.since[key]
	if !known {
		u.since[key] = now
		return linger
	}
	return linger - now.Sub(since)
}

// forget is called for what is wanted, or gone.
func (u *unwanted) forget(key Key) {
	u.mu.Lock()
	defer u.mu.Unlock()
	delete(u.since, key)
}
