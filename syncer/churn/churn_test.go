//go:build churn

package churn

import (
	"context"
	"math/rand/v2"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-logr/logr"
	ctrl "sigs.k8s.io/controller-runtime"
)

func TestMain(m *testing.M) {
	ctrl.SetLogger(logr.Discard()) // clients log that Endpoints are deprecated
	os.Exit(m.Run())
}

// Tenants create, change and delete objects, the platform does its part, and all
// processes are killed at random. Once that is over nothing is lost, duplicated,
// orphaned or wrong.
func TestChurn(t *testing.T) {
	s := readSettings(t)
	t.Logf("to repeat it: %s", s)
	f := newFleet(t, s)
	f.syncer = newProgram(t, f)
	ctx, end := context.WithCancel(context.Background())
	var world sync.WaitGroup
	t.Cleanup(func() {
		end()
		world.Wait()
	})
	for i := range nodeCount {
		must(t, addNode(ctx, f.super.Client, i))
	}
	world.Go(func() { (&nodes{super: f.super.Client}).run(ctx) })
	world.Go(func() { (&cloud{super: f.super.Client}).run(ctx) })
	must(t, f.syncer.start())
	world.Go(func() { f.syncer.supervise(ctx) })

	operations, kills := newTally(), newTally()
	f.churn(ctx, operations, kills)
	t.Logf("%d operations: %s", operations.sum(), operations)
	t.Logf("%d faults: %s; the syncer was started %d times", kills.sum(), kills, f.syncer.starts)
	if never := operations.never(); operations.sum() > 5000 && len(never) > 0 {
		t.Errorf("these operations have not worked once: %s", never)
	}
	if t.Failed() {
		return
	}
	must(t, f.mend(ctx))
	f.quiet(t)
	super, views, err := f.states(ctx)
	must(t, err)
	t.Logf("the super cluster holds %s", census(super))
	for _, of := range views {
		t.Logf("tenant %s holds %s", of.Name, census(of.state))
	}
	if !t.Failed() {
		f.prove(t)
	}
	faults, err := f.syncer.faulty()
	must(t, err)
	if len(faults) > 0 {
		t.Errorf("%d lines of the syncer's log tell of faults of the program, such as:\n%s", len(faults), strings.Join(faults[:min(len(faults), 5)], ""))
	}
}

// quiet fails unless the model finds nothing wrong in the end.
func (f *fleet) quiet(t *testing.T) {
	t.Helper()
	for _, found := range f.settle(t.Context()) {
		t.Error(found)
	}
}

// churn goes on for as long as the settings say, and until there were some faults.
func (f *fleet) churn(ctx context.Context, operations, kills *tally) {
	ctx, end := context.WithCancel(ctx)
	defer end()
	seed := f.settings.Seed
	b := &breaker{f: f, count: kills, enough: make(chan struct{})}
	var actors sync.WaitGroup
	for i, tn := range f.tenants {
		actors.Go(func() {
			newActor(tn.name(), seed, uint64(i), f.settings.Pause, operations, user{tn.cluster.Client}.operations()).run(ctx)
		})
	}
	actors.Go(func() {
		newActor("platform", seed, 1<<32, f.settings.Pause, operations, platform{f.super.Client}.operations()).run(ctx)
	})
	actors.Go(func() { b.run(ctx, rand.New(rand.NewPCG(seed, 1<<33))) })
	<-time.After(f.settings.Duration)
	select {
	case <-b.enough:
	case <-time.After(patience):
		f.t.Errorf("after %s there were not %d faults: %s", patience, leastFaults, kills)
	}
	end()
	actors.Wait()
}

// census counts what a cluster holds.
func census(s *state) *tally {
	count := newTally()
	for kind := range s.lists() {
		for range s.objects(kind) {
			count.add(kind, nil)
		}
	}
	return count
}
