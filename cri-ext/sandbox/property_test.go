package sandbox

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"k8s.io/apimachinery/pkg/types"

	"github.com/bulkhead-dev/bulkhead/internal/feed"
	"github.com/bulkhead-dev/bulkhead/internal/ruleset"
)

func gatherer(t *testing.T, collector prometheus.Collector) prometheus.Gatherer {
	t.Helper()
	registry := prometheus.NewRegistry()
	if err := registry.Register(collector); err != nil {
		t.Fatal(err)
	}
	return registry
}

// chaos is what happens on a node: it knows the truth, and tells the registry of it
// late, in any order, and after restarts anew.
type chaos struct {
	t      *testing.T
	random *rand.Rand
	world  *world
	stand  *stand
	// tenants that exist, their rules, and how many there ever were.
	rules map[types.UID]*ruleset.Set
	born  int
	// pods are the truth; told are those that the feeder has told of.
	pods map[string]feed.Pod
	made int
}

func (c *chaos) tenant() types.UID {
	var all []types.UID
	for tenant := range c.rules {
		all = append(all, tenant)
	}
	if len(all) == 0 {
		return ""
	}
	slices.Sort(all)
	return all[c.random.IntN(len(all))]
}

// step does one thing.
func (c *chaos) step() {
	switch n := c.random.IntN(100); {
	case n < 6 && len(c.rules) < 5:
		c.born++
		c.rules[types.UID(fmt.Sprintf("t%d", c.born))] = nil
	case n < 30:
		c.addSandbox()
	case n < 42:
		c.removeSandbox()
	case n < 70:
		c.changeRules()
	case n < 74:
		c.removeTenant()
	case n < 78:
		c.restartFeeder()
	case n < 80:
		c.restartRegistry()
	case n < 86:
		// A guest is restored from a snapshot, or its agent restarts.
		for _, g := range c.world.guests {
			c.world.locked(func() { g.held = nil })
			break
		}
	case n < 90:
		c.world.locked(func() { c.world.faults = c.random.IntN(40) })
	default:
		c.stand.poke(func(*sandbox) bool { return c.random.IntN(2) == 0 })
	}
}

// addSandbox makes a pod in one of few namespaces, whose names are used again by other
// tenants, and under one of few names.
func (c *chaos) addSandbox() {
	tenant := c.tenant()
	if tenant == "" || len(c.pods) > 20 {
		return
	}
	c.made++
	id := fmt.Sprintf("%064x", c.made)
	pod := feed.Pod{
		UID: types.UID(fmt.Sprintf("uid-%d", c.made)), Tenant: tenant,
		Namespace: fmt.Sprintf("vc-n%d", c.random.IntN(3)), Name: fmt.Sprintf("p%d", c.random.IntN(3)),
	}
	c.pods[id] = pod
	early := c.random.IntN(2) == 0
	if early {
		c.put(pod)
	}
	c.stand.Add(c.world.add(id, pod))
	if !early {
		c.put(pod)
	}
}

func (c *chaos) put(pod feed.Pod) {
	if err := c.stand.records.PutPod(pod); err != nil {
		c.t.Fatal(err)
	}
}

func (c *chaos) removeSandbox() {
	for id, pod := range c.pods {
		delete(c.pods, id)
		if c.random.IntN(2) == 0 {
			c.stand.records.RemovePod(pod.UID)
			c.stand.Remove(id)
		} else {
			c.stand.Remove(id)
			c.stand.records.RemovePod(pod.UID)
		}
		c.world.locked(func() { delete(c.world.guests, id) })
		return
	}
}

func (c *chaos) changeRules() {
	tenant := c.tenant()
	if tenant == "" {
		return
	}
	generation := uint64(1)
	if held := c.stand.records.Rules(tenant); held != nil {
		generation = held.Generation() + 1
	}
	c.rules[tenant] = rules(c.t, tenant, generation, 1+c.random.IntN(6))
	if c.random.IntN(3) == 0 {
		if err := c.stand.records.PutRules(c.rules[tenant], nil, time.Now()); err != nil {
			c.t.Fatal(err)
		}
		return
	}
	c.stand.put(c.t, c.rules[tenant])
}

func (c *chaos) removeTenant() {
	tenant := c.tenant()
	if tenant == "" || c.random.IntN(2) == 0 {
		return
	}
	for id, pod := range c.pods {
		if pod.Tenant == tenant {
			delete(c.pods, id)
			c.stand.Remove(id)
			c.world.locked(func() { delete(c.world.guests, id) })
			c.stand.records.RemovePod(pod.UID)
		}
	}
	delete(c.rules, tenant)
	c.stand.records.Forget(tenant)
}

func (c *chaos) restartFeeder() {
	c.stand.records.Disconnected()
	c.replay()
}

// replay is what a new feeder, or one at a new cri-ext, says.
func (c *chaos) replay() {
	c.stand.records.Connected()
	for _, pod := range c.pods {
		c.put(pod)
	}
	c.stand.records.PodsComplete()
	for tenant, set := range c.rules {
		if set != nil && c.stand.records.Rules(tenant) == nil {
			c.stand.put(c.t, set)
		}
	}
}

func (c *chaos) restartRegistry() {
	c.stand.stop()
	c.stand = c.newStand()
	c.replay()
}

func (c *chaos) newStand() *stand {
	return newStand(c.t, c.world, func(o *Options) { o.RepairInterval, o.PatrolInterval = 5*time.Millisecond, 10*time.Millisecond })
}

// Whatever happens, nothing of a tenant gets into another's sandbox; and once it is
// quiet, each sandbox holds exactly its tenant's rules.
func TestNoByteOnAnothersChannel(t *testing.T) {
	for seed := range uint64(6) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			c := &chaos{t: t, random: rand.New(rand.NewPCG(seed, 7)), world: newWorld(t), rules: map[types.UID]*ruleset.Set{}, pods: map[string]feed.Pod{}}
			c.stand = c.newStand()
			c.replay()
			for range 1500 {
				c.step()
				if c.random.IntN(2) == 0 { // workers get some time, but never enough for all
					<-time.After(time.Duration(c.random.IntN(1000)) * time.Microsecond)
				}
			}
			c.world.locked(func() { c.world.faults = 0 })
			sends := 0
			for id, pod := range c.pods {
				want := c.rules[pod.Tenant]
				eventually(t, fmt.Sprintf("sandbox %s of %s to hold its rules", id, pod.Tenant), func() bool {
					var held *ruleset.Set
					c.world.guest(id, func(g *guest) { held = g.held })
					if want == nil {
						return held == nil
					}
					return held != nil && held.Tenant() == pod.Tenant && held.Digest() == want.Digest()
				})
			}
			c.world.locked(func() {
				for _, violation := range c.world.violations {
					t.Error(violation)
				}
				for _, n := range c.world.sent {
					sends += n
				}
			})
			if sends < 200 {
				t.Errorf("only %d sends: this tries nothing", sends)
			}
			if n := testutil.ToFloat64(c.stand.metrics.mismatches); n != 0 {
				t.Errorf("tenant_mismatch_total is %v", n)
			}
		})
	}
}
