package engine

import (
	"context"
	"testing"

	"k8s.io/apimachinery/pkg/types"

	"github.com/bulkhead-dev/bulkhead/internal/tenancy"
	"github.com/bulkhead-dev/bulkhead/syncer/fairqueue"
	"github.com/bulkhead-dev/bulkhead/syncer/translation"
)

// A class that changes its weight changes the shares of tenants whose links run, in
// both queues, and neither wakes nor stops any. What nobody translates differently is not
// looked at again.
func TestWeightOfRunningTenants(t *testing.T) {
	e := &Engine{links: map[types.UID]*Link{}, kinds: map[string]Kind{"pods": noKind{}}, onState: func(tenancy.Tenant) {}}
	e.startWorkers(t.Context(), Workers{})
	t.Cleanup(e.endWorkers)
	tenant := translation.Tenant{Tenant: tenancy.Tenant{UID: "vc-uid", Namespace: "default", Name: "acme"}, Weight: 10}
	link := &Link{engine: e, ctx: t.Context()}
	before := tenant
	link.tenant.Store(&before)
	e.links[tenant.UID] = link
	link.announce()

	expect := func(want fairqueue.Tenant) {
		t.Helper()
		for name, queue := range map[string]*fairqueue.Queue[*Link, Key]{"down": e.down, "up": e.up} {
			if got, known := queue.Settings(link); !known || got != want {
				t.Errorf("%s: %+v, known %v, want %+v", name, got, known, want)
			}
		}
	}
	expect(fairqueue.Tenant{Weight: 10, Paused: true})
	link.setState(State{Synced: true})
	expect(fairqueue.Tenant{Weight: 10})
	tenant.Weight = 40
	if err := e.Update(t.Context(), tenant); err != nil {
		t.Errorf("another weight makes it look at all objects again: %v", err)
	}
	expect(fairqueue.Tenant{Weight: 40})
	if link.Tenant().Weight != 40 {
		t.Errorf("the link has %+v", link.Tenant())
	}
	tenant.PodSecurity = "restricted"
	if err := e.Update(t.Context(), tenant); err == nil {
		t.Error("another level of pod security does not")
	}
}

// noKind fails when it is asked to list.
type noKind struct{ Kind }

func (noKind) seed(context.Context, *Link) error { return context.Canceled }

func (noKind) lookAgain(context.Context, *Link, string) error { return nil }
