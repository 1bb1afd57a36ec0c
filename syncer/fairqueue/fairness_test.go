package fairqueue

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"
)

// Over any interval in which two tenants have keys to hand out, they are served in
// proportion to their weights, within one key each, whatever other tenants do and
// however many keys are handled at a time.
func TestShareByWeight(t *testing.T) {
	for seed := range uint64(30) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			random := rand.New(rand.NewPCG(seed, 2))
			q := New[int, int](Options[int]{Cost: CostPerKey})
			weights := make([]float64, 5)
			next := 0
			fill := func(tenant, n int) {
				for range n {
					next++
					q.Add(tenant, next)
				}
			}
			// Tenants 0 to 2 always have keys. 3 and 4 come and go.
			for tenant := range weights {
				weight := 1 + random.IntN(7)
				weights[tenant] = float64(weight)
				q.Set(tenant, Tenant{Weight: weight})
			}
			for tenant := range 3 {
				fill(tenant, 3000)
			}
			var open []Item[int, int]
			var served [][5]int // before each turn
			var count [5]int
			for range 1500 {
				served = append(served, count)
				if random.IntN(10) == 0 {
					fill(3+random.IntN(2), random.IntN(20))
				}
				item, _ := q.Get()
				count[item.Tenant]++
				open = append(open, item)
				for len(open) > 1+random.IntN(16) {
					i := random.IntN(len(open))
					q.Done(open[i])
					open = append(open[:i], open[i+1:]...)
				}
			}
			served = append(served, count)
			// The difference of normalised service moves within a band of that width.
			for a := range 3 {
				for b := range a {
					low, high := 0.0, 0.0
					for _, at := range served {
						difference := float64(at[a])/weights[a] - float64(at[b])/weights[b]
						low, high = min(low, difference), max(high, difference)
					}
					if bound := 1/weights[a] + 1/weights[b]; high-low > bound+1e-6 {
						t.Errorf("weights %v and %v: service differs by %v, want at most %v", weights[a], weights[b], high-low, bound)
					}
				}
			}
		})
	}
}

// pool handles keys with a number of workers in fake time; each tenant's take as long
// as it says. It returns how much time of workers each tenant had.
func pool(q *Queue[int, int], workers int, takes func(tenant int) time.Duration, during time.Duration) (spent map[int]time.Duration, handled map[int]int) {
	type result struct {
		spent   map[int]time.Duration
		handled map[int]int
	}
	results := make(chan result, workers)
	for range workers {
		go func() {
			r := result{map[int]time.Duration{}, map[int]int{}}
			for {
				item, ok := q.Get()
				if !ok {
					results <- r
					return
				}
				took := takes(item.Tenant)
				time.Sleep(took)
				r.spent[item.Tenant] += took
				r.handled[item.Tenant]++
				q.Done(item)
			}
		}()
	}
	time.Sleep(during)
	q.ShutDown()
	spent, handled = map[int]time.Duration{}, map[int]int{}
	for range workers {
		r := <-results
		for tenant := range r.spent {
			spent[tenant] += r.spent[tenant]
			handled[tenant] += r.handled[tenant]
		}
	}
	return spent, handled
}

// Five tenants' servers take a second to answer, a sixth's takes a millisecond. All have the
// same share of the workers' time, so the quick one is served a hundred times as often.
func TestSlowTenantsDoNotSetThePace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := New[int, int](Options[int]{})
		for tenant := range 6 {
			q.Set(tenant, Tenant{})
			for key := range 50000 {
				q.Add(tenant, key)
			}
		}
		spent, handled := pool(q, 6, func(tenant int) time.Duration {
			if tenant == 5 {
				return time.Millisecond
			}
			return time.Second
		}, 30*time.Second)
		for tenant := range 6 {
			if share := spent[tenant].Seconds() / 180; share < 0.1 || share > 0.25 {
				t.Errorf("tenant %d has a share of %v: %v", tenant, share, spent)
			}
		}
		if handled[5] < 100*handled[0] {
			t.Errorf("the quick tenant had %d turns, a slow one %d", handled[5], handled[0])
		}
	})
}

func TestShareOfTimeByWeight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := New[int, int](Options[int]{})
		for tenant, weight := range []int{1, 3} {
			q.Set(tenant, Tenant{Weight: weight})
			for key := range 20000 {
				q.Add(tenant, key)
			}
		}
		spent, _ := pool(q, 4, func(tenant int) time.Duration { return time.Duration(1+5*tenant) * time.Millisecond }, 20*time.Second)
		if ratio := spent[1].Seconds() / spent[0].Seconds(); ratio < 2.9 || ratio > 3.1 {
			t.Errorf("weights 1 and 3 share the workers' time 1 to %v", ratio)
		}
	})
}

// A tenant that comes anew is served next, whatever backlog others have, and one that
// was away has no turns saved up.
func TestNewcomerDoesNotWaitForBacklogs(t *testing.T) {
	q := New[int, int](Options[int]{Cost: CostPerKey})
	for tenant := range 10 {
		q.Set(tenant, Tenant{})
		for key := range 900 {
			q.Add(tenant, key)
		}
	}
	q.Set(10, Tenant{})
	for range 2000 {
		item, _ := q.Get()
		q.Done(item)
	}
	for key := range 100 {
		q.Add(10, key)
	}
	position, count := 0, 0
	for turn := 1; turn <= 55; turn++ {
		item, _ := q.Get()
		q.Done(item)
		if item.Tenant == 10 {
			if count++; position == 0 {
				position = turn
			}
		}
	}
	if position > 11 || count < 4 || count > 6 {
		t.Errorf("served first at turn %d and %d times within 55 turns of 11 tenants", position, count)
	}
}

// A handler that hangs keeps its tenant's share of the workers busy, and no more.
func TestHangingTenantLeavesWorkers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := New[int, int](Options[int]{TenantWorkers: 2})
		for tenant := range 3 {
			q.Set(tenant, Tenant{})
			for key := range 5000 {
				q.Add(tenant, key)
			}
		}
		_, handled := pool(q, 6, func(tenant int) time.Duration {
			if tenant == 0 {
				return time.Hour
			}
			return time.Millisecond
		}, time.Second)
		if handled[0] != 2 || handled[1] < 1900 || handled[2] < 1900 {
			t.Errorf("handled %v", handled)
		}
	})
}

// Once its server answers again, a tenant is not punished for the time it hung.
func TestTenantIsServedSoonAfterHanging(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := New[int, int](Options[int]{TenantWorkers: 2})
		for tenant := range 4 {
			q.Set(tenant, Tenant{})
			for key := range 50000 {
				q.Add(tenant, key)
			}
		}
		started := time.Now()
		_, handled := pool(q, 4, func(tenant int) time.Duration {
			if tenant == 0 && time.Since(started) < time.Minute {
				return time.Minute
			}
			return 10 * time.Millisecond
		}, 80*time.Second)
		if handled[0] < 800 {
			t.Errorf("the tenant that hung a minute had %d turns in 20 seconds, the others %v", handled[0], handled)
		}
	})
}

// What a handling takes is charged in full when it ends, and not in the mean later.
func TestLongHandlingIsPaidForAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := New[int, int](Options[int]{})
		for tenant := range 2 {
			q.Set(tenant, Tenant{})
			for key := range 2000 {
				q.Add(tenant, key)
			}
		}
		first := true
		_, handled := pool(q, 1, func(tenant int) time.Duration {
			if tenant == 1 && first {
				first = false
				return time.Second
			}
			return time.Millisecond
		}, 1900*time.Millisecond)
		if handled[1] != 1 || handled[0] < 800 {
			t.Errorf("in the 0.9 seconds after a handling of one second: %v", handled)
		}
	})
}
