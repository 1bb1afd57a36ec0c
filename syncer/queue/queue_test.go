package queue

import (
	"context"
	"errors"
	"runtime"
	"sync"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/util/wait"
)

func TestEveryKeyIsHandledAndNoneTwiceAtATime(t *testing.T) {
	q := New[int]()
	ctx, cancel := context.WithCancel(t.Context())
	var mu sync.Mutex
	busy, handled := map[int]bool{}, map[int]int{}
	done := make(chan struct{})
	const keys = 100
	go func() {
		defer close(done)
		q.Run(ctx, 8, func(_ context.Context, key int) (time.Duration, error) {
			mu.Lock()
			if busy[key] {
				t.Errorf("key %d is handled twice at a time", key)
			}
			busy[key] = true
			mu.Unlock()
			runtime.Gosched()
			mu.Lock()
			defer mu.Unlock()
			busy[key] = false
			handled[key]++
			if handled[key] == 1 {
				return 0, errors.New("once more")
			}
			if handled[key] == 2 {
				return time.Millisecond, nil
			}
			return 0, nil
		})
	}()
	for range 5 {
		for key := range keys {
			q.Add(key)
		}
	}
	complete := func(context.Context) (bool, error) {
		mu.Lock()
		defer mu.Unlock()
		count := 0
		for _, times := range handled {
			if times >= 3 {
				count++
			}
		}
		return count == keys, nil
	}
	if err := wait.PollUntilContextTimeout(ctx, time.Millisecond, 30*time.Second, true, complete); err != nil {
		t.Fatalf("not every key was handled again after an error and after a delay: %v", handled)
	}
	cancel()
	<-done
	if q.Len() != 0 {
		t.Errorf("%d keys are left", q.Len())
	}
}

// A tenant's retries do not slow another's: the ancestor's queues shared one rate
// limit, and 300 failing items of one tenant held up another's first retry for 20
// seconds (virtualcluster.md 2.9).
func TestRetriesOfOneQueueDoNotDelayAnother(t *testing.T) {
	greedy, other := New[int](), New[int]()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var group sync.WaitGroup
	group.Go(func() {
		greedy.Run(ctx, 4, func(context.Context, int) (time.Duration, error) { return 0, errors.New("always") })
	})
	for key := range 5000 {
		greedy.Add(key)
	}
	attempts := make(chan int, 10)
	count := 0
	group.Go(func() {
		other.Run(ctx, 1, func(context.Context, int) (time.Duration, error) {
			count++
			attempts <- count
			if count < 3 {
				return 0, errors.New("not yet")
			}
			return 0, nil
		})
	})
	other.Add(1)
	timeout := time.After(30 * time.Second)
	for want := 1; want <= 3; want++ {
		select {
		case got := <-attempts:
			if got != want {
				t.Fatalf("attempt %d came as number %d", got, want)
			}
		case <-timeout:
			t.Fatalf("attempt %d never came", want)
		}
	}
	if greedy.Len() == 0 && ctx.Err() != nil {
		t.Error("the greedy queue had nothing to do")
	}
	cancel()
	group.Wait()
}
