package kinds

import (
	"context"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/bulkhead-dev/bulkhead/internal/tenancy"
	"github.com/bulkhead-dev/bulkhead/syncer/engine"
	"github.com/bulkhead-dev/bulkhead/syncer/translation"
)

// eventAge is how old an event may be and still come up: after a restart all events
// of the last hour are seen again.
const eventAge = 10 * time.Minute

// eventPatience is how long an event may be seen before what it is about.
const eventPatience = 10 * time.Second

// cacheTimeout bounds reads of caches where no caller has a deadline.
const cacheTimeout = 5 * time.Second

// events come up when they are about something of the tenant. Those of tenants
// never go down, so nothing goes round in a circle.
func events() engine.Kind {
	return &engine.Up[*corev1.Event]{
		Name:     "events",
		Uncached: true,
		Targets: func(ctx context.Context, e *engine.Engine, super *corev1.Event, to func(*engine.Link, engine.Key)) error {
			if eventInvolves(super.InvolvedObject.Kind) == nil || time.Since(lastSeen(super)) > eventAge {
				return nil
			}
			link, namespace, err := linkOf(ctx, e, super.Namespace)
			if link != nil {
				to(link, engine.Key{Resource: "events", Namespace: namespace, Name: super.Name})
			}
			return err
		},
		Translate: func(ctx context.Context, l *engine.Link, key engine.Key, super, _ *corev1.Event) (*corev1.Event, error) {
			object := eventInvolves(super.InvolvedObject.Kind)
			if object == nil {
				return nil, nil
			}
			at := client.ObjectKey{Namespace: super.Namespace, Name: super.InvolvedObject.Name}
			err := l.SuperReader().Get(ctx, at, object)
			switch {
			case apierrors.IsNotFound(err) && time.Since(lastSeen(super)) < eventPatience:
				return nil, engine.Wait("the cache to show what the event is about")
			case err != nil:
				return nil, client.IgnoreNotFound(err)
			}
			origin, ok := tenancy.OriginOf(object)
			if uid := super.InvolvedObject.UID; !ok || (uid != "" && uid != object.GetUID()) || origin.Tenant != l.Tenant().UID || origin.Namespace != key.Namespace {
				return nil, nil
			}
			return translateEvent(translation.NewMessage(l.Tenant(), origin.Namespace, object.GetUID(), origin.UID), origin, super), nil
		},
		Merge: func(tenant, desired *corev1.Event) {
			tenant.Count, tenant.Message, tenant.Series = desired.Count, desired.Message, desired.Series
			tenant.LastTimestamp = desired.LastTimestamp
		},
	}
}

// eventInvolves makes an empty object of a kind that tenants hear of, or nil.
func eventInvolves(kind string) client.Object {
	switch kind {
	case "Pod":
		return &corev1.Pod{}
	case "Service":
		return &corev1.Service{}
	case "PersistentVolumeClaim":
		return &corev1.PersistentVolumeClaim{}
	case "NetworkPolicy":
		return &networkingv1.NetworkPolicy{}
	}
	return nil
}

// enqueueEvents looks again at all events in a super namespace.
func enqueueEvents(l *engine.Link, superNamespace, namespace string) {
	var list corev1.EventList
	ctx, cancel := context.WithTimeout(context.Background(), cacheTimeout)
	defer cancel()
	// A read of a cache; it fails only while the program ends.
	if err := l.SuperReader().List(ctx, &list, client.InNamespace(superNamespace), client.UnsafeDisableDeepCopy); err != nil {
		return
	}
	for i := range list.Items {
		if event := &list.Items[i]; eventInvolves(event.InvolvedObject.Kind) != nil && time.Since(lastSeen(event)) < eventAge {
			l.Enqueue(engine.Key{Resource: "events", Namespace: namespace, Name: event.Name})
		}
	}
}

func lastSeen(event *corev1.Event) time.Time {
	last := event.LastTimestamp.Time
	if event.Series != nil && event.Series.LastObservedTime.After(last) {
		last = event.Series.LastObservedTime.Time
	}
	for _, other := range []time.Time{event.EventTime.Time, event.CreationTimestamp.Time} {
		if other.After(last) {
			last = other
		}
	}
	return last
}

// translateEvent makes the event about the tenant's object, in the tenant's words.
func translateEvent(message translation.Message, origin tenancy.Origin, super *corev1.Event) *corev1.Event {
	in := super.DeepCopy()
	return &corev1.Event{
		InvolvedObject: corev1.ObjectReference{
			APIVersion: in.InvolvedObject.APIVersion, Kind: in.InvolvedObject.Kind, FieldPath: in.InvolvedObject.FieldPath,
			Namespace: origin.Namespace, Name: origin.Name, UID: origin.UID,
		},
		Reason: in.Reason, Message: message.Clean(in.Message), Type: in.Type, Action: in.Action,
		Source: in.Source, ReportingController: in.ReportingController, ReportingInstance: in.ReportingInstance,
		Count: in.Count, Series: in.Series, EventTime: in.EventTime, FirstTimestamp: in.FirstTimestamp, LastTimestamp: in.LastTimestamp,
	}
}
