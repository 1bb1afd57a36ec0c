package engine

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/bulkhead-dev/bulkhead/syncer/fairqueue"
	"github.com/bulkhead-dev/bulkhead/syncer/report"
)

// Report tells how the link is.
func (l *Link) Report() report.Tenant {
	tenant := l.Tenant()
	l.mu.Lock()
	defer l.mu.Unlock()
	return report.Tenant{
		Namespace: tenant.Namespace, Name: tenant.Name, UID: string(tenant.UID),
		Synced: l.state.Synced, Reason: l.state.Reason, Message: l.state.Message, Since: l.since, Hangs: l.hangs,
		Down: queueReport(l.engine.down.Load(l)), Up: queueReport(l.engine.up.Load(l)),
	}
}

func queueReport(load fairqueue.Load) report.Queue {
	return report.Queue{
		Waiting: load.Waiting, Running: load.Running, Delayed: load.Delayed, Failing: load.Failing,
		Weight: load.Settings.Weight, Workers: load.Settings.Workers, Paused: load.Settings.Paused,
	}
}

// Find tells where an object is. An error says that its kind is not carried.
func (l *Link) Find(ctx context.Context, key Key) (report.Object, error) {
	kind := l.engine.kinds[key.Resource]
	if kind == nil {
		return report.Object{}, fmt.Errorf("%s are not carried; these are: %s", key.Resource, strings.Join(l.engine.Resources(), ", "))
	}
	object := report.Object{
		Tenant: l.Report(), Resource: key.Resource, Namespace: key.Namespace, Name: key.Name,
		Direction: "down", State: report.Idle,
	}
	if kind.upward() {
		object.Direction = "up"
	}
	place, _ := l.queueOf(kind).Look(l, key)
	object.Failures = place.Failures
	switch {
	case !place.Running.IsZero():
		object.State, object.Since = report.Handled, &place.Running
	case !place.Queued.IsZero():
		object.State, object.Since = report.Queued, &place.Queued
	case !place.Due.IsZero() && place.Failures > 0:
		object.State, object.Until = report.Retrying, &place.Due
	case !place.Due.IsZero():
		object.State, object.Until = report.Delayed, &place.Due
	}
	last, problem := l.history.of(key)
	object.LastError = problem
	if last != nil {
		object.Last = &report.Handling{At: last.at, Seconds: last.took.Seconds(), Result: last.result, Findings: last.findings}
		if object.State == report.Retrying || object.State == report.Delayed {
			object.Since = &object.Last.At
		}
	}
	if !l.filled.Load() || !kind.compared() {
		return object, nil // caches that are not filled would block
	}
	ctx, cancel := context.WithTimeout(ctx, cacheTimeout)
	defer cancel()
	versions, err := kind.versions(ctx, l, key)
	if err != nil {
		return object, fmt.Errorf("looking for %s in the caches: %w", key, err)
	}
	object.InTenant, object.InSuper, _ = strings.Cut(versions, " ")
	return object, nil
}

// remember takes a note of a handling that is over.
func (l *Link) remember(kind Kind, key Key, h *handling, result string, err error) {
	l.metrics.count(kind.upward(), err != nil)
	if key.Resource == resourcePods && (h.up || !h.created.IsZero()) {
		place, _ := l.queueOf(kind).Look(l, key)
		l.pods.measure(key, h, place.Waited)
	}
	l.history.add(key, handled{at: time.Now(), took: time.Since(h.started), result: result, findings: h.findings}, err)
}
