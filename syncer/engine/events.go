package engine

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// Reasons of events on tenants' objects.
const (
	// ReasonRefused: the object does not go down; the message names fields and rules.
	ReasonRefused = "RefusedByPlatform"
	// ReasonIgnored: the object goes down without what the message names.
	ReasonIgnored = "IgnoredByPlatform"
	// ReasonNotAccepted: the super cluster did not take the object; it is tried again.
	ReasonNotAccepted = "NotAcceptedByPlatform"
	// ReasonNameTaken: an object of the name that is needed is not ours.
	ReasonNameTaken = "NameTaken"
)

const (
	eventSource = "bulkhead-syncer"
	// eventRepeat is how long the same event on the same object is not repeated. An
	// event lives an hour.
	eventRepeat = 10 * time.Minute
	// maxEventMessage is the API's limit of a message, in bytes.
	maxEventMessage = 1024
	// maxEventPrefix leaves room for the hash in an event's name.
	maxEventPrefix = 200
)

// Warn puts a warning on a tenant's object.
func (l *Link) Warn(ctx context.Context, object client.Object, reason, message string) {
	l.Event(ctx, object, corev1.EventTypeWarning, reason, message)
}

// Event puts an event on a tenant's object. Its name follows from what it says, so
// that the same event is written once and counted up later, whichever process
// writes it. An event that cannot be written is logged and not tried again: it must
// not hold up what it is about.
func (l *Link) Event(ctx context.Context, object client.Object, eventType, reason, message string) {
	if l.rehearsal != nil {
		return
	}
	event, err := l.newEvent(object, eventType, reason, message)
	if err == nil && l.recent.has(event.Namespace+"/"+event.Name, event.LastTimestamp.Time) {
		return
	}
	if err == nil {
		err = l.writeEvent(ctx, event)
	}
	if err == nil {
		l.recent.add(event.Namespace+"/"+event.Name, event.LastTimestamp.Time)
	}
	if err != nil && ctx.Err() == nil {
		l.log.Error(err, "writing an event", "object", client.ObjectKeyFromObject(object), "reason", reason, "message", message)
	}
}

// recentEvents remembers which events were written a moment ago, which saves
// asking the tenant's apiserver again. Forgetting costs no more than that.
type recentEvents struct {
	mu      sync.Mutex
	written map[string]time.Time
}

// maxRecent bounds the memory of one tenant's recent events.
const maxRecent = 4096

func (r *recentEvents) has(name string, now time.Time) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	last, ok := r.written[name]
	return ok && now.Sub(last) < eventRepeat
}

func (r *recentEvents) add(name string, now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.written == nil || len(r.written) >= maxRecent {
		r.written = map[string]time.Time{}
	}
	r.written[name] = now
}

func (l *Link) newEvent(object client.Object, eventType, reason, message string) (*corev1.Event, error) {
	gvk, err := l.engine.gvkOf(object)
	if err != nil {
		return nil, err
	}
	if len(message) > maxEventMessage {
		message = message[:maxEventMessage-3] + "..."
	}
	namespace := object.GetNamespace()
	if namespace == "" {
		namespace = metav1.NamespaceDefault
	}
	now := metav1.Now()
	sum := sha256.Sum256([]byte(string(object.GetUID()) + "\x00" + reason + "\x00" + message))
	prefix := object.GetName()
	if len(prefix) > maxEventPrefix {
		prefix = prefix[:maxEventPrefix]
	}
	return &corev1.Event{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: prefix + "." + hex.EncodeToString(sum[:8])},
		InvolvedObject: corev1.ObjectReference{
			APIVersion: gvk.GroupVersion().String(), Kind: gvk.Kind, Namespace: object.GetNamespace(), Name: object.GetName(), UID: object.GetUID(),
		},
		Reason: reason, Message: message, Type: eventType, Count: 1, FirstTimestamp: now, LastTimestamp: now,
		Source: corev1.EventSource{Component: eventSource}, ReportingController: eventSource,
	}, nil
}

func (l *Link) writeEvent(ctx context.Context, event *corev1.Event) error {
	err := l.TenantClient().Create(ctx, event)
	if err == nil {
		writes.WithLabelValues("events", "tenant", "create").Inc()
		return nil
	}
	if !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("creating event %s: %w", event.Name, err)
	}
	before, err := Get[*corev1.Event](ctx, l.TenantClient(), event.Namespace, event.Name)
	if err != nil || before == nil || event.LastTimestamp.Sub(before.LastTimestamp.Time) < eventRepeat {
		return err
	}
	again := before.DeepCopy()
	again.Count++
	again.LastTimestamp = event.LastTimestamp
	if err := l.TenantClient().Patch(ctx, again, client.MergeFrom(before)); err != nil {
		return fmt.Errorf("counting up event %s: %w", event.Name, err)
	}
	return nil
}
