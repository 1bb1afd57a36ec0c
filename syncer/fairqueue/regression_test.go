package fairqueue

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

// The tests here are named after defects that were found in an earlier fair queue of
// this kind, the one of the project's ancestor.

// An item that was added while it was handled was lost, and its tenant with it, if the
// tenant's idle sub-queue was collected meanwhile; the next Get panicked or never returned.
func TestItemAddedDuringLongHandlingIsNotLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := New[string, string](Options[string]{})
		q.Set("a", Tenant{})
		q.Add("a", "k")
		item, _ := q.Get()
		time.Sleep(10 * time.Minute) // longer than the ancestor kept a sub-queue
		q.Add("a", "k")
		time.Sleep(10 * time.Minute)
		q.Done(item)
		if again, _ := q.Get(); again.Key != "k" {
			t.Fatalf("%+v came", again)
		}
		q.Add("a", "other")
		if other, _ := q.Get(); other.Key != "other" {
			t.Fatalf("%+v came", other)
		}
	})
}

// The same when the tenant is removed and announced again during the handling: what is
// added then is handled, and not beside the old handling.
func TestItemAddedAfterRemovalDuringHandlingIsNotLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := New[string, string](Options[string]{})
		q.Set("a", Tenant{})
		q.Add("a", "k")
		item, _ := q.Get()
		ended := q.Remove("a")
		if q.Add("a", "k") {
			t.Error("a removed tenant takes keys")
		}
		q.Set("a", Tenant{})
		q.Add("a", "k")
		got := make(chan Item[string, string], 1)
		go func() {
			again, _ := q.Get()
			got <- again
		}()
		synctest.Wait()
		select {
		case again := <-got:
			t.Fatalf("%+v came while its key was handled", again)
		case <-ended:
			t.Fatal("the removal says that all has ended")
		default:
		}
		q.Done(item)
		<-ended
		q.Done(<-got)
		<-q.Remove("a")
	})
}

// All tenants and kinds shared one rate limit of retries: 300 failing items of one
// tenant held up another's first retry for 20 seconds.
func TestRetriesOfOneTenantDoNotDelayAnother(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := New[string, int](Options[string]{TenantWorkers: 4})
		q.Set("greedy", Tenant{})
		q.Set("other", Tenant{})
		for key := range 5000 {
			q.Add("greedy", key)
		}
		q.Add("other", 1)
		var attempts []time.Duration
		started := time.Now()
		ctx, cancel := context.WithCancel(t.Context())
		q.Run(ctx, 8, func(_ context.Context, tenant string, _ int) (time.Duration, error) {
			time.Sleep(time.Millisecond)
			if tenant == "other" {
				if attempts = append(attempts, time.Since(started)); len(attempts) == 3 {
					cancel()
					return 0, nil
				}
			}
			return 0, errors.New("no")
		})
		if last := attempts[2]; last > 200*time.Millisecond {
			t.Errorf("attempts of the tenant beside the greedy one at %v", attempts)
		}
	})
}

// Get walked over all idle tenants under the queue's lock. Here it does not look at them: see
// BenchmarkIdleTenants. That they are not among those it chooses from is what is held here.
func TestIdleTenantsAreNotLookedAt(t *testing.T) {
	q := New[int, int](Options[int]{})
	for tenant := range 10000 {
		q.Set(tenant, Tenant{})
		q.Add(tenant, 1)
		item, _ := q.Get()
		q.Done(item)
	}
	if len(q.ready) != 0 || q.Stats() != (Stats{Tenants: 10000}) {
		t.Errorf("%d tenants are ready, %+v", len(q.ready), q.Stats())
	}
}

// One tick of a collector was shared by many queues, and one queue's end stopped all.
func TestQueuesHaveNothingInCommon(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		first, second := New[string, int](Options[string]{}), New[string, int](Options[string]{})
		second.Set("a", Tenant{})
		second.AddAfter("a", 1, time.Second)
		first.ShutDown()
		if item, ok := second.Get(); !ok || item.Key != 1 {
			t.Errorf("%+v, %v", item, ok)
		}
	})
}
