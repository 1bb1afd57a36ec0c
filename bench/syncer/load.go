package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

// podLimit is how long a pod may take until it is Ready before the bench gives up.
const podLimit = 10 * time.Minute

// newPod is an ordinary pod: with the token that every pod has unless it says otherwise.
func newPod(name string) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"app": "load", "name": name}},
		Spec: corev1.PodSpec{Containers: []corev1.Container{{
			Name: "main", Image: "registry.k8s.io/pause:3.10",
			Env:       []corev1.EnvVar{{Name: "MODE", Value: "load"}},
			Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("10m"), corev1.ResourceMemory: resource.MustParse("16Mi")}},
		}}},
	}
}

// create posts a pod. The channel has nil once it is Ready there.
func create(ctx context.Context, r *record, sites []site, key podKey) (<-chan error, error) {
	at := sites[key.site]
	done := r.expect(key)
	if _, err := at.pods.CoreV1().Pods(at.namespace).Create(ctx, newPod(key.name), metav1.CreateOptions{}); err != nil {
		return nil, fmt.Errorf("creating pod %s in %s: %w", key.name, at.namespace, err)
	}
	r.returned(key)
	return done, nil
}

// waitReady waits for a pod that was created.
func waitReady(ctx context.Context, key podKey, done <-chan error) error {
	limit := time.NewTimer(podLimit)
	defer limit.Stop()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	case <-limit.C:
		return fmt.Errorf("pod %s of site %d was not Ready within %s", key.name, key.site, podLimit)
	}
}

// burst creates n pods at each site at once, one thread for each site, and waits until
// all are Ready.
func burst(ctx context.Context, r *record, sites []site, name string, n int) error {
	return eachSite(len(sites), func(i int) error {
		waits := make(map[podKey]<-chan error, n)
		for j := range n {
			key := podKey{i, fmt.Sprintf("%s-%d", name, j)}
			done, err := create(ctx, r, sites, key)
			if err != nil {
				return err
			}
			waits[key] = done
		}
		for key, done := range waits {
			if err := waitReady(ctx, key, done); err != nil {
				return err
			}
		}
		return nil
	})
}

// sequence creates n pods at each of some sites, each when the one before it is Ready there.
func sequence(ctx context.Context, r *record, sites []site, of []int, name string, n int) error {
	return eachSite(len(of), func(i int) error {
		for j := range n {
			key := podKey{of[i], fmt.Sprintf("%s-%d", name, j)}
			done, err := create(ctx, r, sites, key)
			if err == nil {
				err = waitReady(ctx, key, done)
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
}

// eachSite runs a thread for each and waits for all of them.
func eachSite(n int, run func(i int) error) error {
	problems := make([]error, n)
	var group sync.WaitGroup
	for i := range n {
		group.Go(func() { problems[i] = run(i) })
	}
	group.Wait()
	return errors.Join(problems...)
}

// clear deletes all pods of some sites, by force, and waits until the super cluster has none.
func (w *world) clear(ctx context.Context, o *observer, sites []site) error {
	err := eachSite(len(sites), func(i int) error {
		at := sites[i]
		now := metav1.DeleteOptions{GracePeriodSeconds: ptr.To(int64(0))}
		if err := at.pods.CoreV1().Pods(at.namespace).DeleteCollection(ctx, now, metav1.ListOptions{}); err != nil {
			return fmt.Errorf("deleting the pods of %s: %w", at.namespace, err)
		}
		return nil
	})
	if err != nil {
		return err
	}
	return await(ctx, "the pods to be gone", 100*time.Millisecond, podLimit, func(context.Context) error {
		if left := o.inSuper(); left > 0 {
			return fmt.Errorf("%d are left", left)
		}
		return nil
	})
}
