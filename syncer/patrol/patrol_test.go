package patrol

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-logr/logr"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/bulkhead-dev/bulkhead/syncer/engine"
)

// standIn is a link whose differences the test decides on: the real one cannot be made
// to show them at a moment. With real clusters the patrol is tested in package main.
type standIn struct {
	name      string
	objects   int
	state     engine.State
	different map[engine.Key]*engine.Difference
	busy      map[engine.Key]bool
	notFilled bool

	started  []time.Time // of rounds
	compared []time.Time
	enqueued []engine.Key
}

func (s *standIn) State() engine.State { return s.state }

func (s *standIn) Inventory(_ context.Context, resource string) ([]engine.Key, error) {
	if s.notFilled {
		return nil, fmt.Errorf("listing: %w", engine.ErrNotComparable)
	}
	if resource == "pods" {
		s.started = append(s.started, time.Now())
	}
	var keys []engine.Key
	for i := range s.objects {
		keys = append(keys, engine.Key{Resource: resource, Name: fmt.Sprint(i)})
	}
	return keys, nil
}

func (s *standIn) Compare(_ context.Context, key engine.Key) (*engine.Difference, error) {
	if s.notFilled {
		return nil, fmt.Errorf("comparing: %w", engine.ErrNotComparable)
	}
	s.compared = append(s.compared, time.Now())
	return s.different[key], nil
}

func (s *standIn) Busy(key engine.Key) bool { return s.busy[key] }

func (s *standIn) Enqueue(keys ...engine.Key) { s.enqueued = append(s.enqueued, keys...) }

func newStandIn(name string, objects int) *standIn {
	return &standIn{name: name, objects: objects, state: engine.State{Synced: true}, different: map[engine.Key]*engine.Difference{}, busy: map[engine.Key]bool{}}
}

var testOptions = Options{Interval: time.Minute, Rate: 100, Settle: 10 * time.Second, Log: logr.Discard()}

// run patrols for a time. What it returns ends the patrol and waits for that.
func run(t *testing.T, links []*standIn, resources ...string) *Patrol[*standIn] {
	t.Helper()
	p := New(func() []*standIn { return links }, resources, testOptions)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := p.Run(ctx); err != nil {
			t.Error(err)
		}
	}()
	t.Cleanup(func() {
		cancel()
		<-done
	})
	return p
}

func repaired(kind string, reason engine.Reason) float64 {
	return testutil.ToFloat64(repairs.WithLabelValues(kind, string(reason)))
}

func TestRateIsKeptAndTenantsAreEqual(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		large, small := newStandIn("large", 100000), []*standIn{newStandIn("a", 50), newStandIn("b", 50), newStandIn("c", 50)}
		run(t, append(small, large), "pods")
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		total := len(large.compared)
		for _, s := range small {
			total += len(s.compared)
			// A round a minute, whatever the large one has.
			if len(s.started) < 9 || len(s.started) > 10 || len(s.compared) < 450 {
				t.Errorf("a tenant with 50 objects had %d rounds and %d comparisons in 10 minutes", len(s.started), len(s.compared))
			}
		}
		if total > 100*600+burst || total < 90*540 {
			t.Errorf("%d objects were compared in 10 minutes at 100 a second", total)
		}
	})
}

func TestFirstRoundsAreSpread(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begin := time.Now()
		var links []*standIn
		for i := range 100 {
			links = append(links, newStandIn(fmt.Sprint(i), 1))
		}
		run(t, links, "pods")
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		var quarters [4]int
		for _, s := range links {
			if len(s.started) == 0 || s.started[0].Sub(begin) > time.Minute+time.Second {
				t.Fatalf("a first round at %v", s.started)
			}
			quarters[min(int(s.started[0].Sub(begin)/(15*time.Second)), 3)]++
		}
		for _, n := range quarters {
			if n < 5 {
				t.Errorf("first rounds by quarters of the interval: %v", quarters)
			}
		}
	})
}

func TestStandingDifferenceIsRepairedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStandIn("a", 5)
		key := engine.Key{Resource: "pods", Name: "3"}
		s.different[key] = &engine.Difference{Reason: engine.Orphan, Versions: "1 2"}
		before := repaired("pods", engine.Orphan)
		run(t, []*standIn{s}, "pods", "secrets")
		for len(s.enqueued) == 0 {
			time.Sleep(time.Second)
			synctest.Wait()
		}
		delete(s.different, key)
		time.Sleep(3 * time.Minute)
		synctest.Wait()
		if len(s.enqueued) != 1 || s.enqueued[0] != key {
			t.Errorf("enqueued %v", s.enqueued)
		}
		if got := repaired("pods", engine.Orphan) - before; got != 1 {
			t.Errorf("%v repairs counted", got)
		}
	})
}

// Clusters that are in use differ all the time, because events are on their way.
func TestDifferencesThatPassAreNotRepaired(t *testing.T) {
	key := engine.Key{Resource: "pods", Name: "3"}
	for name, meanwhile := range map[string]func(*standIn){
		"handled":  func(s *standIn) { delete(s.different, key) },
		"in hands": func(s *standIn) { s.busy[key] = true },
		"changed": func(s *standIn) {
			s.different[key] = &engine.Difference{Reason: engine.Drift, Versions: time.Now().String()}
		},
		"unreachable": func(s *standIn) { s.state = engine.State{} },
		"not filled":  func(s *standIn) { s.notFilled = true },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newStandIn("a", 5)
				s.different[key] = &engine.Difference{Reason: engine.Drift, Versions: "1 2"}
				run(t, []*standIn{s}, "pods")
				for len(s.compared) < 4 {
					time.Sleep(time.Millisecond)
					synctest.Wait()
				}
				for range 200 {
					meanwhile(s)
					time.Sleep(time.Second)
					synctest.Wait()
				}
				if len(s.enqueued) != 0 {
					t.Errorf("enqueued %v", s.enqueued)
				}
			})
		})
	}
}

func TestNothingIsDoneForLinksThatAreNotSynced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		away, empty := newStandIn("away", 5), newStandIn("not filled", 5)
		away.state, empty.notFilled = engine.State{}, true
		for _, s := range []*standIn{away, empty} {
			s.different[engine.Key{Resource: "pods", Name: "1"}] = &engine.Difference{Reason: engine.Orphan}
		}
		run(t, []*standIn{away, empty}, "pods")
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		for _, s := range []*standIn{away, empty} {
			if len(s.compared)+len(s.enqueued) > 0 {
				t.Errorf("%s: %d compared, enqueued %v", s.name, len(s.compared), s.enqueued)
			}
		}
		away.state, empty.notFilled = engine.State{Synced: true}, false
		time.Sleep(3 * time.Minute)
		synctest.Wait()
		for _, s := range []*standIn{away, empty} {
			if len(s.enqueued) == 0 {
				t.Errorf("%s: not repaired once it is back", s.name)
			}
		}
	})
}

func TestLinksComeAndGo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		first, second := newStandIn("first", 5), newStandIn("second", 5)
		links := []*standIn{first}
		p := New(func() []*standIn { return links }, []string{"pods"}, testOptions)
		p.follow(time.Now())
		links = []*standIn{second}
		p.follow(time.Now())
		if len(p.walks) != 1 || p.walks[0].link != second {
			t.Errorf("walks %v", p.walks)
		}
	})
}

// Memory is bounded when everything differs.
func TestManyDifferences(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStandIn("a", 3*maxSuspects)
		for i := range s.objects {
			s.different[engine.Key{Resource: "pods", Name: fmt.Sprint(i)}] = &engine.Difference{Reason: engine.Missing, Versions: "1"}
		}
		run(t, []*standIn{s}, "pods")
		time.Sleep(15 * time.Minute)
		synctest.Wait()
		unique := map[engine.Key]bool{}
		for _, key := range s.enqueued {
			unique[key] = true
		}
		if len(unique) < maxSuspects {
			t.Errorf("%d keys were repaired", len(unique))
		}
	})
}

func TestRound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		link, other := newStandIn("acme", 500), newStandIn("other", 1)
		p := run(t, []*standIn{link}, "pods")
		round := func() Round {
			synctest.Wait()
			round, ok := p.Round(link)
			if !ok {
				t.Fatal("the patrol does not know the tenant")
			}
			return round
		}
		before := round()
		if before.Next.Before(time.Now()) || !before.Began.IsZero() || before.LastResult != "" {
			t.Errorf("before the first round: %+v", before)
		}
		time.Sleep(time.Until(before.Next) + 2*time.Second)
		if during := round(); during.Began.Before(before.Next) || during.LastResult != "" {
			t.Errorf("in the first round: %+v", during)
		}
		time.Sleep(10 * time.Second)
		if after := round(); !after.Began.IsZero() || after.LastResult != "complete" || after.LastEnded.Before(before.Next) || !after.Next.After(time.Now()) {
			t.Errorf("after the first round: %+v", after)
		}
		if _, ok := p.Round(other); ok {
			t.Error("the patrol knows a tenant that does not run")
		}
	})
}
