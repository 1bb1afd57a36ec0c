//go:build churn

package churn

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"sigs.k8s.io/controller-runtime/pkg/client"
)

// operation is something an actor may do. All that is random in it comes from r, which
// is the operation's own: how many numbers it takes has no effect on what comes after.
type operation struct {
	name   string
	weight int
	do     func(ctx context.Context, r *rand.Rand) error
}

// actor does one operation after the other, in an order that its seed decides.
type actor struct {
	name       string
	random     *rand.Rand
	pause      time.Duration
	operations []operation
	count      *tally
}

func newActor(name string, seed, number uint64, pause time.Duration, count *tally, operations []operation) *actor {
	return &actor{name: name, random: rand.New(rand.NewPCG(seed, number)), pause: pause, operations: operations, count: count}
}

// run goes on until the context ends. That an operation is refused is part of the
// game: most of them find the world other than they need it.
func (a *actor) run(ctx context.Context) {
	total := 0
	for _, o := range a.operations {
		total += o.weight
	}
	for {
		pick, seed := a.random.IntN(total), a.random.Uint64()
		wait := time.Duration(a.random.ExpFloat64() * float64(a.pause))
		select {
		case <-ctx.Done():
			return
		case <-time.After(min(wait, 10*a.pause)):
		}
		for _, o := range a.operations {
			if pick -= o.weight; pick < 0 {
				call, cancel := context.WithTimeout(ctx, callTimeout)
				err := o.do(call, rand.New(rand.NewPCG(seed, 0)))
				cancel()
				a.count.add(o.name, err)
				break
			}
		}
	}
}

// tally counts what was done.
type tally struct {
	mu           sync.Mutex
	done, failed map[string]int
	last         map[string]error
}

func newTally() *tally {
	return &tally{done: map[string]int{}, failed: map[string]int{}, last: map[string]error{}}
}

func (c *tally) add(name string, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err != nil {
		c.failed[name]++
		c.last[name] = err
		return
	}
	c.done[name]++
}

// sum is how many operations have worked.
func (c *tally) sum() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	total := 0
	for _, n := range c.done {
		total += n
	}
	return total
}

// never returns those operations that have not worked once, with the last reason.
func (c *tally) never() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var names []string
	for name, err := range c.last {
		if c.done[name] == 0 {
			names = append(names, fmt.Sprintf("%s: %v", name, err))
		}
	}
	slices.Sort(names)
	return names
}

func (c *tally) String() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	all := maps.Clone(c.done)
	for name := range c.failed {
		all[name] += 0
	}
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(all)) {
		part := fmt.Sprintf("%s %d", name, c.done[name])
		if c.failed[name] > 0 {
			part += fmt.Sprintf(" (%d refused)", c.failed[name])
		}
		parts = append(parts, part)
	}
	return strings.Join(parts, ", ")
}

// change reads an object and patches it, with no regard for who else does.
func change[T client.Object](ctx context.Context, c client.Client, object T, edit func(T)) error {
	if err := c.Get(ctx, client.ObjectKeyFromObject(object), object); err != nil {
		return err
	}
	before := object.DeepCopyObject().(T)
	edit(object)
	return c.Patch(ctx, object, client.MergeFrom(before))
}

// one picks one of several.
func one[T any](r *rand.Rand, of ...T) T { return of[r.IntN(len(of))] }

// chance is true in so many of 100 cases.
func chance(r *rand.Rand, percent int) bool { return r.IntN(100) < percent }
