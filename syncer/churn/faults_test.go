//go:build churn

package churn

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/bulkhead-dev/bulkhead/internal/testenv"
)

// breaker kills processes, and starts them again after a while.
type breaker struct {
	f     *fleet
	count *tally
	// enough is closed once leastFaults were mended.
	enough chan struct{}
	// replaced are the tenants that are being deleted and made again.
	replaced sync.WaitGroup
}

// leastFaults are waited for, however slow the machine is.
const leastFaults = 4

// faults are what is done in turn. The syncer dies most often: it is what this is about.
var faults = []string{
	"kill syncer", "kill tenant apiserver", "kill syncer", "kill super apiserver", "kill syncer", "kill tenant etcd", "replace tenant",
	"kill syncer", "kill super etcd", "kill syncer", "kill tenant apiserver and etcd", "kill syncer", "kill tenant controller-manager", "kill everything",
}

// run goes on until the context ends, and mends what it has broken.
func (b *breaker) run(ctx context.Context, random *rand.Rand) {
	for i := 0; ; i++ {
		wait := b.f.settings.Faults/2 + time.Duration(random.Int64N(int64(b.f.settings.Faults)))
		away := time.Duration(random.Int64N(int64(2 * time.Second)))
		tn := b.f.tenants[random.IntN(len(b.f.tenants))]
		select {
		case <-ctx.Done():
			b.replaced.Wait()
			return
		case <-time.After(wait):
		}
		name := faults[i%len(faults)]
		err := b.fault(ctx, name, tn, away)
		if ctx.Err() == nil {
			b.count.add(name, err)
		}
		if err != nil {
			b.f.t.Logf("%s: %v", name, err)
		}
		if i+1 == leastFaults {
			close(b.enough)
		}
	}
}

// fault breaks something, for as long as away, and returns when it is mended.
func (b *breaker) fault(ctx context.Context, name string, tn *tenant, away time.Duration) error {
	// What is broken is mended even at the end.
	ctx = context.WithoutCancel(ctx)
	pause := func() { <-time.After(away) }
	switch name {
	case "kill syncer":
		b.f.syncer.kill()
		pause()
		return b.f.syncer.start()
	case "kill super apiserver":
		return b.f.breakSuper(ctx, pause, testenv.APIServer)
	case "kill super etcd":
		return b.f.breakSuper(ctx, pause, testenv.Etcd)
	case "kill everything":
		b.f.syncer.kill()
		err := b.f.breakSuper(ctx, pause, testenv.APIServer, testenv.Etcd)
		return errors.Join(err, b.f.syncer.start())
	case "kill tenant apiserver":
		return b.f.breakTenant(ctx, tn, pause, testenv.APIServer)
	case "kill tenant etcd":
		return b.f.breakTenant(ctx, tn, pause, testenv.Etcd)
	case "kill tenant apiserver and etcd":
		return b.f.breakTenant(ctx, tn, pause, testenv.APIServer, testenv.Etcd)
	case "kill tenant controller-manager":
		return b.f.breakTenant(ctx, tn, pause, testenv.ControllerManager)
	case "replace tenant":
		if !tn.faults.TryLock() {
			return nil // it is at it already
		}
		b.replaced.Go(func() {
			defer tn.faults.Unlock()
			if err := b.f.replace(ctx, tn); err != nil {
				b.f.t.Errorf("replacing tenant %s: %v", tn.name(), err)
			}
		})
		return nil
	}
	return fmt.Errorf("no fault %q", name)
}

func (f *fleet) breakSuper(ctx context.Context, pause func(), processes ...string) error {
	f.superFaults.Lock()
	defer f.superFaults.Unlock()
	f.super.Kill(processes...)
	pause()
	return revive(ctx, f.super)
}

func (f *fleet) breakTenant(ctx context.Context, tn *tenant, pause func(), processes ...string) error {
	if !tn.faults.TryLock() {
		return nil // it is being replaced
	}
	defer tn.faults.Unlock()
	tn.cluster.Kill(processes...)
	pause()
	return revive(ctx, tn.cluster)
}

// revive tries several times: on a loaded machine a controller-manager may give up on
// an apiserver that takes long.
func revive(ctx context.Context, cluster *testenv.Cluster) error {
	var err error
	for range 5 {
		if err = cluster.Revive(ctx); err == nil {
			return nil
		}
	}
	return err
}

// mend makes sure that everything runs. The super cluster's controller-manager starts
// anew: what it has failed at while the API server was away it would try again only
// after up to 16 minutes.
func (f *fleet) mend(ctx context.Context) error {
	f.super.Kill(testenv.ControllerManager)
	if err := revive(ctx, f.super); err != nil {
		return fmt.Errorf("the super cluster: %w", err)
	}
	for _, tn := range f.tenants {
		tn.faults.Lock()
		err := revive(ctx, tn.cluster)
		tn.faults.Unlock()
		if err != nil {
			return fmt.Errorf("tenant %s: %w", tn.name(), err)
		}
	}
	return f.syncer.start()
}
