package main

import (
	"context"
	"fmt"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	watchtools "k8s.io/client-go/tools/watch"
)

// podKey names a pod by the site that it was created in.
type podKey struct {
	site int
	name string
}

// life is when what happened to a pod, by the bench's own clock: its posting began and
// returned, it was first seen in the super cluster, bound and Ready there, and bound and
// Ready where it was created. Of a pod of the baseline, both places are one.
type life struct {
	posted, returned                  time.Time
	superSeen, superBound, superReady time.Time
	bound, ready                      time.Time
}

// latency is from the begin of the posting until Ready was seen there.
func (l *life) latency() time.Duration { return l.ready.Sub(l.posted) }

// record is the lives of the pods of one part of a run.
type record struct {
	mu    sync.Mutex
	lives map[podKey]*life
	// waiters get nil when their pod is Ready, or an error when it is gone before.
	waiters map[podKey]chan error
}

func newRecord() *record {
	return &record{lives: map[podKey]*life{}, waiters: map[podKey]chan error{}}
}

// expect notes that a pod is about to be posted. The channel has nil once it is Ready.
func (r *record) expect(key podKey) <-chan error {
	r.mu.Lock()
	defer r.mu.Unlock()
	done := make(chan error, 1)
	r.lives[key], r.waiters[key] = &life{posted: time.Now()}, done
	return done
}

func (r *record) returned(key podKey) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.lives[key].returned = time.Now()
}

// note writes down what a pod that was seen says. home: where it was created.
func (r *record) note(key podKey, pod *corev1.Pod, home, super bool) {
	now := time.Now()
	r.mu.Lock()
	defer r.mu.Unlock()
	l := r.lives[key]
	if l == nil {
		return
	}
	first := func(at *time.Time, is bool) {
		if is && at.IsZero() {
			*at = now
		}
	}
	if super {
		first(&l.superSeen, true)
		first(&l.superBound, pod.Spec.NodeName != "")
		first(&l.superReady, ready(pod))
	}
	if home {
		first(&l.bound, pod.Spec.NodeName != "")
		if l.ready.IsZero() && ready(pod) {
			l.ready = now
			r.waiters[key] <- nil
		}
	}
}

// lost notes that a pod is gone where it was created. Nobody deletes pods that the bench waits for.
func (r *record) lost(key podKey) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if l := r.lives[key]; l != nil && l.ready.IsZero() {
		select {
		case r.waiters[key] <- fmt.Errorf("pod %s of site %d was deleted before it was Ready", key.name, key.site):
		default:
		}
	}
}

func ready(pod *corev1.Pod) bool {
	for i := range pod.Status.Conditions {
		if pod.Status.Conditions[i].Type == corev1.PodReady {
			return pod.Status.Conditions[i].Status == corev1.ConditionTrue
		}
	}
	return false
}

// list returns all lives; those of pods that are not Ready yet have no such time.
func (r *record) list() []*life {
	r.mu.Lock()
	defer r.mu.Unlock()
	lives := make([]*life, 0, len(r.lives))
	for _, l := range r.lives {
		lives = append(lives, l)
	}
	return lives
}

// observer watches pods everywhere and notes what it sees in the present record.
type observer struct {
	mu      sync.Mutex
	present *record
	// supers counts the tenants' pods that are in the super cluster.
	supers map[string]bool
}

func (o *observer) begin() *record {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.present = newRecord()
	return o.present
}

func (o *observer) record() *record {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.present
}

// follow watches the pods of a cluster, or of one of its namespaces, until the context ends.
func follow(ctx context.Context, pods kubernetes.Interface, namespace string, see func(pod *corev1.Pod, gone bool)) error {
	list, err := pods.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return fmt.Errorf("listing pods: %w", err)
	}
	watcher, err := watchtools.NewRetryWatcherWithContext(ctx, list.ResourceVersion, &cache.ListWatch{
		WatchFuncWithContext: func(ctx context.Context, options metav1.ListOptions) (watch.Interface, error) {
			return pods.CoreV1().Pods(namespace).Watch(ctx, options)
		},
	})
	if err != nil {
		return fmt.Errorf("watching pods: %w", err)
	}
	go func() {
		defer watcher.Stop()
		for event := range watcher.ResultChan() {
			if pod, ok := event.Object.(*corev1.Pod); ok {
				see(pod, event.Type == watch.Deleted)
			} else if event.Type == watch.Error {
				fmt.Printf("a watch of pods was lost, latencies are not complete: %v\n", describe(event.Object))
				return
			}
		}
	}()
	return nil
}

func describe(object runtime.Object) string {
	if status, ok := object.(*metav1.Status); ok {
		return status.Message
	}
	return fmt.Sprintf("%T", object)
}

// observe begins to watch all of a world's clusters.
func (w *world) observe(ctx context.Context) (*observer, error) {
	o := &observer{present: newRecord(), supers: map[string]bool{}}
	type place struct {
		site int
		home bool
	}
	places := map[string]place{}
	for i, at := range w.baseline {
		places[at.namespace] = place{i, true}
	}
	for i, t := range w.tenants {
		places[t.SuperNamespace(namespace)] = place{i, false}
	}
	err := follow(ctx, w.pods, metav1.NamespaceAll, func(pod *corev1.Pod, gone bool) {
		at, known := places[pod.Namespace]
		if !known {
			return
		}
		o.count(pod, gone)
		switch key := (podKey{at.site, pod.Name}); {
		case !gone:
			o.record().note(key, pod, at.home, true)
		case at.home:
			o.record().lost(key)
		}
	})
	if err != nil {
		return nil, err
	}
	for i, t := range w.tenants {
		if err := follow(ctx, t.pods, namespace, func(pod *corev1.Pod, gone bool) {
			if gone {
				o.record().lost(podKey{i, pod.Name})
			} else {
				o.record().note(podKey{i, pod.Name}, pod, true, false)
			}
		}); err != nil {
			return nil, err
		}
	}
	return o, nil
}

func (o *observer) count(pod *corev1.Pod, gone bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if gone {
		delete(o.supers, pod.Namespace+"/"+pod.Name)
	} else {
		o.supers[pod.Namespace+"/"+pod.Name] = true
	}
}

// inSuper is how many pods that the bench has made are in the super cluster.
func (o *observer) inSuper() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return len(o.supers)
}

// unready is how many pods are not Ready yet.
func (r *record) unready() int {
	n := 0
	for _, l := range r.list() {
		if l.ready.IsZero() {
			n++
		}
	}
	return n
}

// bySite are the latencies by site.
func (r *record) bySite() map[int][]time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := map[int][]time.Duration{}
	for key, l := range r.lives {
		out[key.site] = append(out[key.site], l.latency())
	}
	return out
}
