package sandbox

import (
	"fmt"
	"slices"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/bulkhead-dev/bulkhead/internal/feed"
	"github.com/bulkhead-dev/bulkhead/internal/ruleset"
)

// records are what the feeder has said: whose a pod is, and each tenant's rules. They
// are a feed.Receiver.
type records struct {
	// changedPod and changedTenant tell who has to look again. They are called without
	// the lock.
	changedPod    func(types.UID)
	changedTenant func(types.UID)
	// inUse tells whether a tenant has a sandbox here.
	inUse func(types.UID) bool

	mu        sync.RWMutex
	connected bool
	complete  bool
	// session numbers feeders, so that what the present one has not said is known.
	session uint64
	pods    map[types.UID]podRecord
	tenants map[types.UID]*tenantRecord
}

type podRecord struct {
	feed.Pod
	session uint64
}

type tenantRecord struct {
	set *ruleset.Set
	// delta leads to set from previous; both nil if that is not at hand.
	delta    *ruleset.Delta
	previous *ruleset.Set
	// pending is why there are no rules.
	pending string
	// forgotten: the rules go with the tenant's last sandbox.
	forgotten bool
	// changes are when the last sets' causes happened, in order.
	changes []change
}

type change struct {
	generation uint64
	at         time.Time
}

// changesKept is how many changes a sandbox may be late and still be measured.
const changesKept = 64

func newRecords() *records {
	return &records{pods: map[types.UID]podRecord{}, tenants: map[types.UID]*tenantRecord{}}
}

// Connected begins a feeder's account.
func (r *records) Connected() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.session++
	r.connected, r.complete = true, false
}

// Disconnected says that the feeder is away. All that it said stays.
func (r *records) Disconnected() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.connected = false
}

// PutPod records whose a pod is.
func (r *records) PutPod(pod feed.Pod) error {
	r.mu.Lock()
	if _, known := r.pods[pod.UID]; !known && len(r.pods) >= feed.MaxPods {
		r.mu.Unlock()
		return fmt.Errorf("more than %d pods of tenants on one node", feed.MaxPods)
	}
	r.pods[pod.UID] = podRecord{Pod: pod, session: r.session}
	r.mu.Unlock()
	r.changedPod(pod.UID)
	return nil
}

// RemovePod takes a record back. A sandbox that was bound by it stays bound.
func (r *records) RemovePod(uid types.UID) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.pods, uid)
}

// PodsComplete removes the records that the present feeder has not repeated.
func (r *records) PodsComplete() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.complete = true
	for uid, record := range r.pods {
		if record.session != r.session {
			delete(r.pods, uid)
		}
	}
}

// Held are the rules of all tenants that the feeder has not given up.
func (r *records) Held() []feed.Held {
	r.mu.RLock()
	defer r.mu.RUnlock()
	var all []feed.Held
	for uid, tenant := range r.tenants {
		if tenant.set != nil && !tenant.forgotten {
			all = append(all, feed.Held{Tenant: uid, Generation: tenant.set.Generation(), Digest: tenant.set.Digest()})
		}
	}
	return all
}

// Rules are a tenant's rules, nil if there are none.
func (r *records) Rules(tenant types.UID) *ruleset.Set {
	r.mu.RLock()
	defer r.mu.RUnlock()
	if record := r.tenants[tenant]; record != nil {
		return record.set
	}
	return nil
}

// PutRules replaces a tenant's rules by newer ones.
func (r *records) PutRules(set *ruleset.Set, delta *ruleset.Delta, trigger time.Time) error {
	r.mu.Lock()
	record, err := r.tenant(set.Tenant())
	if err != nil {
		r.mu.Unlock()
		return err
	}
	if record.set != nil && set.Generation() <= record.set.Generation() {
		r.mu.Unlock()
		return fmt.Errorf("rules of %s of generation %d do not follow generation %d", set.Tenant(), set.Generation(), record.set.Generation())
	}
	record.previous, record.delta = nil, nil
	if delta != nil {
		record.previous, record.delta = record.set, delta
	}
	record.set, record.pending, record.forgotten = set, "", false
	if !trigger.IsZero() {
		if len(record.changes) == changesKept {
			record.changes = slices.Delete(record.changes, 0, 1)
		}
		record.changes = append(record.changes, change{set.Generation(), trigger})
	}
	r.mu.Unlock()
	r.changedTenant(set.Tenant())
	return nil
}

// SetPending records why a tenant has no rules yet.
func (r *records) SetPending(tenant types.UID, reason string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	record, err := r.tenant(tenant)
	if err != nil {
		return err
	}
	record.pending, record.forgotten = reason, false
	return nil
}

// Forget drops a tenant, or lets it go with its last sandbox.
func (r *records) Forget(tenant types.UID) {
	used := r.inUse(tenant)
	r.mu.Lock()
	defer r.mu.Unlock()
	if record := r.tenants[tenant]; record != nil {
		record.forgotten = true
		if !used {
			delete(r.tenants, tenant)
		}
	}
}

// unused drops a tenant that has no sandbox any more, if it was forgotten.
func (r *records) unused(tenant types.UID) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if record := r.tenants[tenant]; record != nil && record.forgotten {
		delete(r.tenants, tenant)
	}
}

func (r *records) tenant(uid types.UID) (*tenantRecord, error) {
	record := r.tenants[uid]
	if record == nil {
		if len(r.tenants) >= feed.MaxTenants {
			return nil, fmt.Errorf("more than %d tenants on one node", feed.MaxTenants)
		}
		record = &tenantRecord{}
		r.tenants[uid] = record
	}
	return record, nil
}

// pod is the record of a pod.
func (r *records) pod(uid types.UID) (feed.Pod, bool) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	record, found := r.pods[uid]
	return record.Pod, found
}

// newest is a tenant's rules, and the delta that leads to them from basis if there
// is any. basis may be nil.
func (r *records) newest(tenant types.UID, basis *ruleset.Set) (*ruleset.Set, *ruleset.Delta, error) {
	r.mu.RLock()
	record := r.tenants[tenant]
	if record == nil || record.set == nil {
		r.mu.RUnlock()
		return nil, nil, nil
	}
	set, delta, previous := record.set, record.delta, record.previous
	r.mu.RUnlock()
	switch {
	case basis == nil || basis == set || basis.Generation() >= set.Generation():
		return set, nil, nil
	case basis == previous:
		return set, delta, nil
	}
	delta, err := ruleset.Diff(basis, set)
	if err != nil {
		return nil, nil, err
	}
	return set, delta, nil
}

// causes are when the changes after generation from up to generation to happened.
func (r *records) causes(tenant types.UID, from, to uint64) []time.Time {
	r.mu.RLock()
	defer r.mu.RUnlock()
	var all []time.Time
	if record := r.tenants[tenant]; record != nil {
		for _, c := range record.changes {
			if c.generation > from && c.generation <= to {
				all = append(all, c.at)
			}
		}
	}
	return all
}

// whyUnknown says why there is no record of a pod.
func (r *records) whyUnknown(pod string, uid types.UID) string {
	r.mu.RLock()
	defer r.mu.RUnlock()
	switch {
	case !r.connected:
		return "tenant-proxy is not connected to cri-ext on this node"
	case !r.complete:
		return "tenant-proxy has not listed the pods of this node yet"
	}
	return fmt.Sprintf("tenant-proxy knows no pod %s with UID %s: by the super cluster's records it is no tenant's", pod, uid)
}

// whyNoRules says why a tenant has no rules.
func (r *records) whyNoRules(tenant types.UID) string {
	r.mu.RLock()
	defer r.mu.RUnlock()
	reason := "tenant-proxy has no rules of the virtual cluster yet"
	if record := r.tenants[tenant]; record != nil && record.pending != "" {
		reason += ": " + record.pending
	}
	if !r.connected {
		reason = "tenant-proxy is not connected to cri-ext on this node, and has left no rules of the virtual cluster"
	}
	return reason
}

// state is for the outside.
func (r *records) state() (connected, complete bool, pods int, tenants map[types.UID]*ruleset.Set) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	tenants = map[types.UID]*ruleset.Set{}
	for uid, record := range r.tenants {
		tenants[uid] = record.set
	}
	return r.connected, r.complete, len(r.pods), tenants
}
