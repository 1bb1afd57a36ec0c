// Package events writes what cri-ext reports of pods' rules as Events on the super
// cluster's pods; the syncer carries them up to the tenants.
package events

import (
	"context"
	"fmt"
	"strings"
	"time"

	"golang.org/x/time/rate"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/events"

	"github.com/bulkhead-dev/bulkhead/internal/feed"
)

const (
	// repeatInterval is the least time between two events of one reason on one pod.
	repeatInterval = 30 * time.Second
	// tenantQPS and tenantBurst bound the events of all pods of one tenant on the node.
	tenantQPS, tenantBurst = 1, 50
	// maxNote is the longest message of an event in bytes.
	maxNote = 1024
	// forgetAfter is how long after its last report a pod or tenant is remembered, and
	// sweepInterval how often that is looked at.
	forgetAfter, sweepInterval = time.Hour, 10 * time.Minute
)

// Results of reports, for metrics.
const (
	Written    = "written"
	Suppressed = "suppressed"
	Unknown    = "unknown"
)

// Writer writes reports as Events.
type Writer struct {
	// Recorder writes to the super cluster.
	Recorder events.EventRecorder
	// Known tells whether a pod is one of ours on this node.
	Known func(feed.Pod) bool
	// Observe is told what became of each report.
	Observe func(result string)

	pods    map[podReason]*history
	tenants map[types.UID]*allowance
}

type podReason struct {
	pod    types.UID
	reason string
}

// history is what was reported of a pod for one reason.
type history struct {
	written    time.Time
	seen       time.Time
	suppressed int
}

// allowance bounds a tenant's events.
type allowance struct {
	*rate.Limiter
	seen time.Time
}

// Run writes reports until the context ends or there are no more.
func (w *Writer) Run(ctx context.Context, reports <-chan feed.Report) error {
	sweep := time.NewTicker(sweepInterval)
	defer sweep.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-sweep.C:
			w.sweep(time.Now())
		case report, open := <-reports:
			if !open {
				return nil
			}
			w.Observe(w.write(report, time.Now()))
		}
	}
}

// write writes one report unless there were too many like it, and says which.
func (w *Writer) write(report feed.Report, now time.Time) string {
	if !w.Known(report.Pod) {
		return Unknown
	}
	if w.pods == nil {
		w.pods, w.tenants = map[podReason]*history{}, map[types.UID]*allowance{}
	}
	key := podReason{report.Pod.UID, report.Reason}
	past := w.pods[key]
	if past == nil {
		past = &history{}
		w.pods[key] = past
	}
	past.seen = now
	allowed := w.tenants[report.Pod.Tenant]
	if allowed == nil {
		allowed = &allowance{Limiter: rate.NewLimiter(tenantQPS, tenantBurst)}
		w.tenants[report.Pod.Tenant] = allowed
	}
	allowed.seen = now
	if now.Sub(past.written) < repeatInterval || !allowed.AllowN(now, 1) {
		past.suppressed++
		return Suppressed
	}
	note := report.Message
	if past.suppressed > 0 {
		note = fmt.Sprintf("%s (and %d more since the last such event)", note, past.suppressed)
	}
	past.written, past.suppressed = now, 0
	kind := corev1.EventTypeNormal
	if report.Warning {
		kind = corev1.EventTypeWarning
	}
	pod := &corev1.Pod{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"},
		ObjectMeta: metav1.ObjectMeta{Namespace: report.Pod.Namespace, Name: report.Pod.Name, UID: report.Pod.UID},
	}
	w.Recorder.Eventf(pod, nil, kind, report.Reason, "ServiceRules", "%s", cut(note))
	return Written
}

func (w *Writer) sweep(now time.Time) {
	for key, past := range w.pods {
		if now.Sub(past.seen) > forgetAfter {
			delete(w.pods, key)
		}
	}
	for tenant, allowed := range w.tenants {
		if now.Sub(allowed.seen) > forgetAfter {
			delete(w.tenants, tenant)
		}
	}
}

func cut(note string) string {
	if len(note) <= maxNote {
		return note
	}
	return strings.ToValidUTF8(note[:maxNote-3], "") + "..."
}
