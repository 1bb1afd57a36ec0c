package fairqueue_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/bulkhead-dev/bulkhead/syncer/fairqueue"
)

func TestLook(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := fairqueue.New[string, string](fairqueue.Options[string]{TenantWorkers: 3})
		defer q.ShutDown()
		q.Set("acme", fairqueue.Tenant{Weight: 2})
		start := time.Now()
		look := func(step string, want fairqueue.Place, held bool) {
			t.Helper()
			got, ok := q.Look("acme", "a")
			if diff := cmp.Diff(want, got); diff != "" || ok != held {
				t.Errorf("%s: held %t (-want +got):\n%s", step, ok, diff)
			}
		}
		look("before", fairqueue.Place{}, false)
		q.Add("acme", "a")
		q.Add("acme", "b")
		look("added", fairqueue.Place{Queued: start}, true)
		time.Sleep(time.Second)
		item, _ := q.Get()
		started := time.Now()
		look("taken", fairqueue.Place{Running: started, Waited: time.Second}, true)
		q.Add("acme", "a")
		look("added meanwhile", fairqueue.Place{Running: started, Waited: time.Second, Again: true}, true)
		time.Sleep(time.Second)
		q.Retry("acme", "a")
		q.Done(item)
		due := time.Now().Add(50 * time.Millisecond)
		look("failed and added", fairqueue.Place{Queued: time.Now(), Due: due, Failures: 1}, true)
		want := fairqueue.Load{Waiting: 2, Delayed: 1, Failing: 1, Settings: fairqueue.Tenant{Weight: 2, Workers: 3}}
		if diff := cmp.Diff(want, q.Load("acme")); diff != "" {
			t.Errorf("load (-want +got):\n%s", diff)
		}
		<-q.Remove("acme")
		look("removed", fairqueue.Place{}, false)
		if diff := cmp.Diff(fairqueue.Load{}, q.Load("acme")); diff != "" {
			t.Errorf("load of nobody (-want +got):\n%s", diff)
		}
	})
}
