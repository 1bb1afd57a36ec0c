package kinds

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/bulkhead-dev/bulkhead/syncer/engine"
	"github.com/bulkhead-dev/bulkhead/syncer/podspec"
	"github.com/bulkhead-dev/bulkhead/syncer/translation"
)

// Indexes of a tenant's pods by what they refer to (decision D5).
const (
	indexSecret         = "secret"
	indexConfigMap      = "config-map"
	indexServiceAccount = "service-account"
)

// referenceLinger is how long something stays after the last pod that refers to it:
// the next pod of a Job may be about to come.
const referenceLinger = 5 * time.Second

// copyOf is how the super copy of something that pods refer to is made.
type copyOf[T engine.Object] struct {
	Translate func(tenant T) T
	// Merge writes into super, which is a copy, what may change after creation.
	Merge func(super, desired T)
	// Immutable tells whether the super cluster takes no change of the copy; nil for never.
	Immutable func(super T) bool
	// Another tells what else only a new copy can carry; nil for nothing.
	Another func(super, desired T) bool
}

// referredTo is a kind that goes down while a pod refers to it; name gives the
// copy's name.
func referredTo[T engine.Object](resource, index string, name func(string) string, how copyOf[T]) engine.Kind {
	return &engine.Down[T]{
		Name: resource,
		SuperKey: func(t translation.Tenant, namespace, tenant string) types.NamespacedName {
			return types.NamespacedName{Namespace: t.SuperNamespace(namespace), Name: name(tenant)}
		},
		Wanted: usedByPods[T](index),
		Linger: referenceLinger,
		Translate: func(_ context.Context, _ *engine.Link, tenant T) (T, []translation.Finding, error) {
			return how.Translate(tenant), nil, nil
		},
		Merge:   how.Merge,
		Replace: how.replace,
	}
}

func sameName(name string) string { return name }

// replace tells whether a change takes a new copy: one that is immutable can only
// stay as it is.
func (how copyOf[T]) replace(super, desired T) bool {
	if how.Another != nil && how.Another(super, desired) {
		return true
	}
	if how.Immutable == nil || !how.Immutable(super) {
		return false
	}
	changed := super.DeepCopyObject().(T)
	how.Merge(changed, desired)
	return !equality.Semantic.DeepEqual(super, changed)
}

// enqueueAll looks again at the objects of a kind that a list of the tenant's cache has.
func enqueueAll(ctx context.Context, l *engine.Link, resource string, list client.ObjectList, options ...client.ListOption) error {
	if err := l.TenantReader().List(ctx, list, append(options, client.UnsafeDisableDeepCopy)...); err != nil {
		return fmt.Errorf("listing %s: %w", resource, err)
	}
	return meta.EachListItem(list, func(item runtime.Object) error {
		object := item.(client.Object)
		l.Enqueue(engine.Key{Resource: resource, Namespace: object.GetNamespace(), Name: object.GetName()})
		return nil
	})
}

func podIndexes() map[string]client.IndexerFunc {
	by := func(names func(podspec.References) map[string]bool) client.IndexerFunc {
		return func(o client.Object) []string {
			return slices.Collect(maps.Keys(names(podspec.ReferencesOf(o.(*corev1.Pod)))))
		}
	}
	return map[string]client.IndexerFunc{
		indexSecret:         by(func(r podspec.References) map[string]bool { return r.Secrets }),
		indexConfigMap:      by(func(r podspec.References) map[string]bool { return r.ConfigMaps }),
		indexServiceAccount: by(func(r podspec.References) map[string]bool { return map[string]bool{r.ServiceAccount: true} }),
	}
}

// podNeeds are the keys of what a pod refers to: the ServiceAccount first, for the
// super cluster's admission asks for it.
func podNeeds(pod *corev1.Pod) []engine.Key {
	references := podspec.ReferencesOf(pod)
	keys := []engine.Key{{Resource: "serviceaccounts", Namespace: pod.Namespace, Name: references.ServiceAccount}}
	for name := range references.ConfigMaps {
		keys = append(keys, engine.Key{Resource: "configmaps", Namespace: pod.Namespace, Name: name})
	}
	for name := range references.Secrets {
		keys = append(keys, engine.Key{Resource: "secrets", Namespace: pod.Namespace, Name: name})
	}
	return keys
}

// podClaims are the keys of the claims that a pod mounts. They go down by themselves.
func podClaims(pod *corev1.Pod) []engine.Key {
	var keys []engine.Key
	for _, volume := range pod.Spec.Volumes {
		name := ""
		switch {
		case volume.PersistentVolumeClaim != nil:
			name = volume.PersistentVolumeClaim.ClaimName
		case volume.Ephemeral != nil:
			name = pod.Name + "-" + volume.Name
		default:
			continue
		}
		keys = append(keys, engine.Key{Resource: "persistentvolumeclaims", Namespace: pod.Namespace, Name: name})
	}
	return keys
}

// usedByPods tells whether a pod that is, or is about to be, in the super cluster
// refers to an object.
func usedByPods[T client.Object](index string) func(context.Context, *engine.Link, T) (bool, error) {
	return func(ctx context.Context, l *engine.Link, object T) (bool, error) {
		var list corev1.PodList
		err := l.TenantReader().List(ctx, &list, client.InNamespace(object.GetNamespace()),
			client.MatchingFields{index: object.GetName()}, client.UnsafeDisableDeepCopy)
		if err != nil {
			return false, fmt.Errorf("listing the pods that refer to %s/%s: %w", object.GetNamespace(), object.GetName(), err)
		}
		return slices.ContainsFunc(list.Items, func(pod corev1.Pod) bool { return goesDown(l.Tenant(), &pod) }), nil
	}
}

// goesDown tells whether a pod is carried: it was placed, or nothing refuses it.
func goesDown(t translation.Tenant, pod *corev1.Pod) bool {
	if wasBound(pod) {
		return true
	}
	_, findings := podspec.Translate(podspec.Input{Tenant: t, Pod: pod})
	return !translation.Refused(findings)
}
