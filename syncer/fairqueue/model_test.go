package fairqueue

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"
)

// model says what a queue must do, with maps and scans only. It knows nothing of turns,
// which the tests of fairness are about.
type model struct {
	tenants map[int]*modelTenant
}

type modelTenant struct {
	settings Tenant
	removed  bool
	keys     map[int]*modelKey
}

// modelKey is owed a handling if it was added after its last one began.
type modelKey struct {
	owed, running bool
	failures      int
	due           time.Time // zero if it is not delayed
	retry         bool
	// old handlings began before the tenant was removed.
	old bool
}

// tester holds a queue against the model.
type tester struct {
	t     testing.TB
	q     *Queue[int, int]
	m     model
	items []Item[int, int]
	// added and handled count, to see that the test does something.
	added, handled int
}

var testRetry = Retry{Base: 10 * time.Millisecond, Max: 80 * time.Millisecond, PerSecond: 1e6, Burst: 1e6}

func newTester(t testing.TB) *tester {
	return &tester{t: t, q: New[int, int](Options[int]{TenantWorkers: 3, Retry: testRetry}), m: model{tenants: map[int]*modelTenant{}}}
}

// known returns the model's key that a call is about, or nil if the queue takes none.
func (c *tester) known(tenant, key int) *modelKey {
	t := c.m.tenants[tenant]
	if t == nil || t.removed {
		return nil
	}
	if t.keys[key] == nil {
		t.keys[key] = &modelKey{}
	}
	return t.keys[key]
}

// advance does to the model what time does.
func (c *tester) advance(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
	now := time.Now()
	for _, t := range c.m.tenants {
		for _, k := range t.keys {
			if !k.due.IsZero() && !k.due.After(now) {
				k.due, k.retry, k.owed = time.Time{}, false, true
			}
		}
	}
}

func (k *modelKey) delay(due time.Time, retry bool) {
	if k.due.IsZero() {
		k.due, k.retry = due, retry
		return
	}
	k.retry = k.retry && retry
	if due.Before(k.due) {
		k.due = due
	}
}

func (c *tester) add(tenant, key int) {
	k := c.known(tenant, key)
	if got := c.q.Add(tenant, key); got != (k != nil) {
		c.t.Fatalf("Add(%d, %d) = %v", tenant, key, got)
	}
	if k != nil {
		k.owed = true
		c.added++
	}
}

func (c *tester) addAfter(tenant, key int, d time.Duration) {
	k := c.known(tenant, key)
	if got := c.q.AddAfter(tenant, key, d); got != (k != nil) {
		c.t.Fatalf("AddAfter(%d, %d) = %v", tenant, key, got)
	}
	if k != nil {
		k.delay(time.Now().Add(d), false)
	}
}

func (c *tester) set(tenant int, settings Tenant) {
	c.q.Set(tenant, settings)
	if c.m.tenants[tenant] == nil {
		c.m.tenants[tenant] = &modelTenant{keys: map[int]*modelKey{}}
	}
	c.m.tenants[tenant].settings, c.m.tenants[tenant].removed = settings, false
}

func (c *tester) remove(tenant int) {
	ended := c.q.Remove(tenant)
	running := false
	if t := c.m.tenants[tenant]; t != nil {
		t.removed = true
		for key, k := range t.keys {
			if k.running {
				running = true
				*k = modelKey{running: true, old: true}
			} else {
				delete(t.keys, key)
			}
		}
	}
	select {
	case <-ended:
		if running {
			c.t.Fatalf("Remove(%d) says that all has ended, and it has not", tenant)
		}
	default:
		if !running {
			c.t.Fatalf("Remove(%d) waits for nothing", tenant)
		}
	}
}

// get takes an item if there must be one, and none if there must be none.
func (c *tester) get() {
	c.q.mu.Lock()
	ready := len(c.q.ready) > 0
	c.q.mu.Unlock()
	if !ready {
		for id, t := range c.m.tenants {
			for key, k := range t.keys {
				if c.mayRun(t) && k.owed && !k.running {
					c.t.Fatalf("key %d of tenant %d is owed a handling, and not handed out", key, id)
				}
			}
		}
		return
	}
	item, _ := c.q.Get()
	t := c.m.tenants[item.Tenant]
	if t == nil || !c.mayRun(t) {
		c.t.Fatalf("tenant %d may not be served", item.Tenant)
	}
	k := t.keys[item.Key]
	if k == nil || !k.owed || k.running {
		c.t.Fatalf("key %d of tenant %d must not be handed out: %+v", item.Key, item.Tenant, k)
	}
	k.owed, k.running = false, true
	if k.retry {
		k.due, k.retry = time.Time{}, false
	}
	c.items = append(c.items, item)
	c.handled++
}

func (c *tester) mayRun(t *modelTenant) bool {
	running := 0
	for _, k := range t.keys {
		if k.running {
			running++
		}
	}
	limit := t.settings.Workers
	if limit == 0 {
		limit = 3
	}
	return !t.removed && !t.settings.Paused && running < limit
}

// done gives an item back: as handled, failed, or to be looked at again.
func (c *tester) done(which, how int) {
	if len(c.items) == 0 {
		return
	}
	which %= len(c.items)
	item := c.items[which]
	c.items = append(c.items[:which], c.items[which+1:]...)
	k := c.m.tenants[item.Tenant].keys[item.Key]
	again := 20 * time.Millisecond
	c.q.finish(item, func(e *entry[int, int], now time.Time) {
		if k.old {
			c.t.Fatalf("what follows from a handling of a removed tenant concerns its successor")
		}
		switch how % 3 {
		case 0:
			e.failures = 0
		case 1:
			c.q.retry(e, now)
		case 2:
			e.failures = 0
			c.q.delay(e, now.Add(again), false)
		}
	})
	c.q.Done(item) // to give it back twice does nothing
	if !k.old {
		switch how % 3 {
		case 0:
			k.failures = 0
		case 1:
			k.failures++
			k.delay(time.Now().Add(testRetry.backoff(k.failures)), true)
		case 2:
			k.failures = 0
			k.delay(time.Now().Add(again), false)
		}
	}
	k.running, k.old = false, false
}

// check compares what can be seen, and that nothing is kept of keys that are through.
func (c *tester) check() {
	c.t.Helper()
	waiting, delayed, running := 0, 0, 0
	for id, t := range c.m.tenants {
		backlog, kept := 0, 0
		for key, k := range t.keys {
			if k.owed && !k.running {
				backlog++
			}
			if !k.due.IsZero() {
				delayed++
			}
			if k.running {
				running++
			}
			if k.owed || k.running || !k.due.IsZero() || k.failures > 0 {
				kept++
			}
			if busy := c.q.Busy(id, key); busy != (k.owed || k.running || k.failures > 0) {
				c.t.Fatalf("Busy(%d, %d) is %v: %+v", id, key, busy, k)
			}
		}
		waiting += backlog
		if got := c.q.Backlog(id); got != backlog {
			c.t.Fatalf("tenant %d has %d waiting, want %d", id, got, backlog)
		}
		c.q.mu.Lock()
		entries := 0
		if t := c.q.tenants[id]; t != nil {
			entries = len(t.entries)
		}
		c.q.mu.Unlock()
		if entries != kept {
			c.t.Fatalf("tenant %d has %d entries, want %d", id, entries, kept)
		}
	}
	if stats := c.q.Stats(); stats.Waiting != waiting || stats.Delayed != delayed || stats.Running != running {
		c.t.Fatalf("%+v, want %d waiting, %d delayed, %d running", stats, waiting, delayed, running)
	}
}

// finish has all that is left handled: nothing may be lost.
func (c *tester) finish() {
	for id, t := range c.m.tenants {
		if !t.removed {
			t.settings.Paused = false
			c.set(id, t.settings)
		}
	}
	for {
		for len(c.items) > 0 {
			c.done(0, 0)
		}
		before := c.handled
		c.get()
		if c.handled > before {
			continue
		}
		if c.q.Stats().Delayed == 0 {
			break
		}
		c.advance(time.Second)
	}
	c.check()
	if stats := c.q.Stats(); stats.Waiting+stats.Delayed+stats.Running+stats.Active != 0 {
		c.t.Fatalf("left: %+v", stats)
	}
}

// step does one random operation; a byte each says which, for whom, and how.
func (c *tester) step(op, tenant, key byte) {
	id, k := int(tenant%4), int(key%6)
	switch op % 12 {
	case 0, 1, 2:
		c.add(id, k)
	case 3:
		c.addAfter(id, k, time.Duration(int(tenant)+1)*time.Millisecond)
	case 4, 5, 6:
		c.get()
	case 7, 8:
		c.done(int(tenant), int(key))
	case 9:
		c.advance(time.Duration(key) * time.Millisecond)
	case 10:
		c.set(id, Tenant{Weight: int(key % 5), Workers: int(key % 3), Paused: key%7 == 0})
	case 11:
		if key%4 == 0 {
			c.remove(id)
		} else {
			c.set(id, Tenant{})
		}
	}
	c.check()
}

func TestAgainstModel(t *testing.T) {
	for seed := range uint64(200) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				random := rand.New(rand.NewPCG(seed, 1))
				c := newTester(t)
				for id := range 4 {
					c.set(id, Tenant{Weight: id})
				}
				for range 500 {
					c.step(byte(random.Uint32()), byte(random.Uint32()), byte(random.Uint32()))
				}
				c.finish()
				if c.added < 20 || c.handled < 20 {
					t.Errorf("only %d added and %d handled", c.added, c.handled)
				}
				c.q.ShutDown()
			})
		})
	}
}

func FuzzQueue(f *testing.F) {
	f.Add([]byte{10, 0, 1, 0, 0, 0, 4, 0, 0, 0, 0, 0, 7, 0, 0, 4, 0, 0})
	f.Add([]byte{10, 1, 1, 0, 1, 1, 4, 0, 0, 11, 1, 0, 11, 1, 1, 0, 1, 1, 4, 0, 0, 7, 0, 1})
	f.Fuzz(func(t *testing.T, steps []byte) {
		synctest.Test(t, func(t *testing.T) {
			c := newTester(t)
			for ; len(steps) >= 3 && c.handled < 2000; steps = steps[3:] {
				c.step(steps[0], steps[1], steps[2])
			}
			c.finish()
			c.q.ShutDown()
		})
	})
}
