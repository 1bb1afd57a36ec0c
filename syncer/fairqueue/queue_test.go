package fairqueue

import (
	"context"
	"errors"
	"runtime"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// Many goroutines add while many work: every key is handled after its last Add, and none
// twice at a time.
func TestNothingIsLostBetweenGoroutines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const tenants, keys, adders, rounds = 5, 20, 4, 200
		q := New[int, int](Options[int]{TenantWorkers: 3, Retry: Retry{Base: time.Microsecond, Max: time.Millisecond, PerSecond: 1e6, Burst: 1e6}})
		for tenant := range tenants {
			q.Set(tenant, Tenant{Weight: tenant + 1})
		}
		type at struct{ tenant, key int }
		var mu sync.Mutex
		wanted, seen, busy, turns := map[at]int{}, map[at]int{}, map[at]bool{}, map[at]int{}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			q.Run(ctx, 8, func(_ context.Context, tenant, key int) (time.Duration, error) {
				k := at{tenant, key}
				mu.Lock()
				defer mu.Unlock()
				if busy[k] {
					t.Errorf("key %v is handled twice at a time", k)
				}
				busy[k] = true
				see := wanted[k]
				mu.Unlock()
				runtime.Gosched()
				mu.Lock()
				busy[k] = false
				turns[k]++
				if turns[k]%5 == 1 {
					return 0, errors.New("once more")
				}
				seen[k] = see
				if turns[k]%5 == 2 {
					return time.Microsecond, nil
				}
				return 0, nil
			})
		}()
		var group sync.WaitGroup
		for adder := range adders {
			group.Go(func() {
				for round := range rounds {
					k := at{(round + adder) % tenants, (round * 7) % keys}
					mu.Lock()
					wanted[k]++
					mu.Unlock()
					if round%3 == 0 {
						q.AddAfter(k.tenant, k.key, time.Microsecond)
					} else {
						q.Add(k.tenant, k.key)
					}
					q.Stats()
				}
			})
		}
		group.Wait()
		complete := func() bool {
			mu.Lock()
			defer mu.Unlock()
			for k, want := range wanted {
				if seen[k] != want {
					return false
				}
			}
			return true
		}
		time.Sleep(time.Minute) // of retries and of what was added for later
		synctest.Wait()
		if !complete() {
			t.Errorf("wanted %v, seen %v, %+v", wanted, seen, q.Stats())
		}
		cancel()
		<-ended
	})
}

func TestRetriesBackOffAndForget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := New[string, string](Options[string]{Retry: Retry{Base: time.Second, Max: 5 * time.Second}})
		q.Set("a", Tenant{})
		q.Add("a", "k")
		last := time.Now()
		var gaps []time.Duration
		ctx, cancel := context.WithCancel(t.Context())
		q.Run(ctx, 1, func(context.Context, string, string) (time.Duration, error) {
			gaps = append(gaps, time.Since(last))
			last = time.Now()
			switch len(gaps) {
			case 6:
				return time.Minute, nil
			case 8:
				cancel()
			}
			return 0, errors.New("no")
		})
		s := time.Second
		if want := []time.Duration{0, s, 2 * s, 4 * s, 5 * s, 5 * s, time.Minute, s}; !slices.Equal(gaps, want) {
			t.Errorf("gaps %v, want %v", gaps, want)
		}
	})
}

// The rate of retries is each tenant's own.
func TestRateOfRetries(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := New[int, int](Options[int]{Retry: Retry{Base: time.Millisecond, Max: time.Millisecond, PerSecond: 10, Burst: 5}})
		for tenant := range 2 {
			q.Set(tenant, Tenant{})
			for key := range 1 + 99*tenant {
				q.Add(tenant, key)
			}
		}
		var mu sync.Mutex
		var count [2]int
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		q.Run(ctx, 4, func(_ context.Context, tenant, _ int) (time.Duration, error) {
			mu.Lock()
			defer mu.Unlock()
			count[tenant]++
			return 0, errors.New("no")
		})
		// 5 at once and 10 a second beside the first attempts.
		if got := count[1] - 100; got < 100 || got > 106 {
			t.Errorf("100 failing keys were tried again %d times in 10 seconds", got)
		}
		if got := count[0] - 1; got < 100 || got > 106 {
			t.Errorf("one failing key was tried again %d times in 10 seconds", got)
		}
	})
}

func TestPausedTenant(t *testing.T) {
	q := New[string, int](Options[string]{})
	q.Set("a", Tenant{Paused: true})
	q.Set("b", Tenant{})
	q.Add("a", 1)
	q.Add("b", 2)
	if item, _ := q.Get(); item.Tenant != "b" {
		t.Errorf("%+v came of a paused tenant", item)
	}
	if q.Backlog("a") != 1 {
		t.Error("the key of the paused tenant is gone")
	}
	q.Set("a", Tenant{})
	if item, _ := q.Get(); item.Tenant != "a" {
		t.Errorf("%+v came", item)
	}
}

func TestDrain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := New[string, int](Options[string]{})
		q.Set("a", Tenant{})
		q.Set("paused", Tenant{Paused: true})
		for key := range 10 {
			q.Add("a", key)
			q.Add("paused", key)
		}
		q.AddAfter("a", 99, time.Hour)
		var mu sync.Mutex
		var handled []int
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			q.Run(t.Context(), 2, func(_ context.Context, tenant string, key int) (time.Duration, error) {
				time.Sleep(time.Second)
				mu.Lock()
				defer mu.Unlock()
				handled = append(handled, key)
				return 0, errors.New("not tried again")
			})
		}()
		synctest.Wait()
		q.Add("a", 0) // is handled just now, so once more
		if err := q.Drain(t.Context()); err != nil {
			t.Fatal(err)
		}
		<-ended
		slices.Sort(handled)
		if want := []int{0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9}; !slices.Equal(handled, want) {
			t.Errorf("handled %v", handled)
		}
		if q.Add("a", 1) || q.AddAfter("a", 1, time.Second) || q.Retry("a", 1) {
			t.Error("a drained queue takes keys")
		}
	})
}

func TestDrainEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := New[string, int](Options[string]{})
		q.Set("a", Tenant{})
		q.Add("a", 1)
		q.Add("a", 2)
		item, _ := q.Get()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := q.Drain(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("draining: %v", err)
		}
		q.Done(item)
		if _, ok := q.Get(); ok || q.Stats().Waiting != 0 {
			t.Error("keys are left")
		}
	})
}

// A handler that panics ends the program, unless somebody recovers; its key is free.
func TestPanicGivesTheKeyBack(t *testing.T) {
	q := New[string, int](Options[string]{})
	q.Set("a", Tenant{})
	q.Add("a", 1)
	func() {
		defer func() { _ = recover() }()
		q.next(t.Context(), func(context.Context, string, int) (time.Duration, error) { panic("fault") })
	}()
	if stats := q.Stats(); stats.Running != 0 || stats.Active != 0 {
		t.Errorf("%+v", stats)
	}
}

func TestWaitedIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var waits []time.Duration
		q := New[string, int](Options[string]{Waited: func(_ string, waited time.Duration) { waits = append(waits, waited) }})
		q.Set("a", Tenant{})
		q.AddAfter("a", 1, time.Hour)
		time.Sleep(time.Hour + 3*time.Second)
		item, _ := q.Get()
		q.Add("a", 1)
		time.Sleep(5 * time.Second)
		q.Done(item)
		time.Sleep(time.Second)
		q.Get()
		if want := []time.Duration{3 * time.Second, time.Second}; !slices.Equal(waits, want) {
			t.Errorf("waited %v", waits)
		}
	})
}
