package tenants

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"sync"
	"time"

	"github.com/go-logr/logr"
	"golang.org/x/time/rate"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	eventsv1client "k8s.io/client-go/kubernetes/typed/events/v1"

	"github.com/bulkhead-dev/bulkhead/tenant-proxy/compile"
)

const (
	// reportsQueued is the number of problems of a tenant that wait to be told; those
	// beyond are told by the next reminder.
	reportsQueued = 256
	// reportTimeout bounds the writing of one event.
	reportTimeout = 10 * time.Second
	reportQPS     = 2
	reportBurst   = 20
	// maxNote is the longest message of an event in bytes.
	maxNote = 1024
)

// reporter tells a tenant, by events on their Services, what did not become a rule.
// Every node finds the same, so the name of an event says what it is about and the
// first node to write it is enough.
type reporter struct {
	log     logr.Logger
	node    string
	metrics *Metrics
	queue   chan told

	mu     sync.Mutex
	events *eventsv1client.EventsV1Client
}

type told struct {
	owner   compile.Owner
	problem compile.Problem
}

func newReporter(log logr.Logger, node string, metrics *Metrics) *reporter {
	return &reporter{log: log, node: node, metrics: metrics, queue: make(chan told, reportsQueued)}
}

// use sets the client that events are written with.
func (r *reporter) use(events *eventsv1client.EventsV1Client) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.events = events
}

// tell has a problem told, without waiting.
func (r *reporter) tell(owner compile.Owner, problem compile.Problem) {
	select {
	case r.queue <- told{owner, problem}:
	default:
		r.metrics.reports.WithLabelValues("dropped").Inc()
	}
}

func (r *reporter) run(ctx context.Context) {
	limiter := rate.NewLimiter(reportQPS, reportBurst)
	for {
		select {
		case <-ctx.Done():
			return
		case next := <-r.queue:
			if limiter.Wait(ctx) != nil {
				return
			}
			r.write(ctx, next)
		}
	}
}

func (r *reporter) write(ctx context.Context, t told) {
	r.mu.Lock()
	events := r.events
	r.mu.Unlock()
	if events == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, reportTimeout)
	defer cancel()
	_, err := events.Events(t.owner.Namespace).Create(ctx, eventFor(r.node, t, time.Now()), metav1.CreateOptions{})
	switch {
	case err == nil:
		r.metrics.reports.WithLabelValues("written").Inc()
	case apierrors.IsAlreadyExists(err):
		// Another node has told it, or this one before it restarted.
	case ctx.Err() == nil || apierrors.IsForbidden(err):
		r.metrics.reports.WithLabelValues("failed").Inc()
		r.log.V(1).Info("Cannot write an event in a tenant's cluster", "service", t.owner.String(), "reason", err.Error())
	}
}

func eventFor(node string, t told, now time.Time) *eventsv1.Event {
	sum := sha256.Sum256(fmt.Appendf(nil, "%s\x00%s\x00%s", t.owner.UID, t.problem.Reason, t.problem.Message))
	return &eventsv1.Event{
		ObjectMeta:          metav1.ObjectMeta{Namespace: t.owner.Namespace, Name: t.owner.Name + "." + hex.EncodeToString(sum[:8])},
		EventTime:           metav1.NewMicroTime(now),
		ReportingController: "bulkhead.dev/tenant-proxy", ReportingInstance: cut("tenant-proxy-"+node, 128),
		Action: "Compile", Reason: string(t.problem.Reason), Type: corev1.EventTypeWarning, Note: cut(t.problem.Message, maxNote),
		Regarding: corev1.ObjectReference{APIVersion: "v1", Kind: "Service", Namespace: t.owner.Namespace, Name: t.owner.Name, UID: t.owner.UID},
	}
}
