package fairqueue_test

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/bulkhead-dev/bulkhead/syncer/fairqueue"
)

// Two tenants have work. One of them has much more, and the other does not wait for it.
func Example() {
	q := fairqueue.New[string, int](fairqueue.Options[string]{Cost: fairqueue.CostPerKey})
	q.Set("greedy", fairqueue.Tenant{})
	q.Set("modest", fairqueue.Tenant{})
	for key := range 1000 {
		q.Add("greedy", key)
	}
	q.Add("modest", 1)
	q.Add("modest", 2)
	for range 5 {
		item, _ := q.Get()
		fmt.Println(item.Tenant, item.Key)
		q.Done(item)
	}
	// Output:
	// greedy 0
	// modest 1
	// greedy 1
	// modest 2
	// greedy 2
}

// A handler says by what it returns when its key is looked at again.
func ExampleQueue_Run() {
	q := fairqueue.New[string, string](fairqueue.Options[string]{})
	q.Set("acme", fairqueue.Tenant{})
	q.Add("acme", "pod web/a")
	ctx, cancel := context.WithCancel(context.Background())
	attempt := 0
	q.Run(ctx, 4, func(_ context.Context, tenant, key string) (time.Duration, error) {
		attempt++
		fmt.Println(tenant, key, attempt)
		switch attempt {
		case 1:
			return 0, errors.New("the server is busy") // later again
		case 2:
			return time.Millisecond, nil // it is to be looked at again after that
		}
		cancel()
		return 0, nil
	})
	// Output:
	// acme pod web/a 1
	// acme pod web/a 2
	// acme pod web/a 3
}

// A tenant that goes takes its keys along; one that is still handled is waited for.
func ExampleQueue_Remove() {
	q := fairqueue.New[string, int](fairqueue.Options[string]{})
	q.Set("acme", fairqueue.Tenant{Weight: 2})
	q.Add("acme", 1)
	q.Add("acme", 2)
	item, _ := q.Get()
	ended := q.Remove("acme")
	q.Done(item)
	<-ended
	fmt.Println(q.Add("acme", 3), q.Stats().Waiting)
	// Output: false 0
}
