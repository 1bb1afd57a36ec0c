package main

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/bulkhead-dev/bulkhead/fence/policy"
	"github.com/bulkhead-dev/bulkhead/internal/sandboxaddress"
	"github.com/bulkhead-dev/bulkhead/internal/unixsocket"
)

// announcements are the addresses of sandboxes that the super cluster does not know
// yet, by the UID of the pod. They are kept while it does not, and not for ever.
type announcements map[types.UID]announcement

type announcement struct {
	addresses []netip.Addr
	at        time.Time
}

// announcementLife bounds how long an announcement is kept: the kubelet has told the
// super cluster by then, or there is no such pod.
const announcementLife = 10 * time.Minute

// of returns the addresses that were announced of a pod. It forgets them once the
// super cluster knows them.
func (a announcements) of(pod *corev1.Pod) []netip.Addr {
	announced, ok := a[pod.UID]
	if !ok {
		return nil
	}
	known := policy.Addresses(pod)
	if !slices.ContainsFunc(announced.addresses, func(address netip.Addr) bool { return !slices.Contains(known, address) }) {
		delete(a, pod.UID)
		return nil
	}
	return announced.addresses
}

func (a announcements) forget(pod *corev1.Pod) { delete(a, pod.UID) }

// expire forgets what is older than announcementLife.
func (a announcements) expire(now time.Time) {
	for uid, announced := range a {
		if now.Sub(announced.at) > announcementLife {
			delete(a, uid)
		}
	}
}

// listen serves announcements of sandboxes, if there is a socket for them.
func (a *agent) listen(ctx context.Context) error {
	if a.sandboxSocket == "" {
		return nil
	}
	listener, err := unixsocket.Listen(a.sandboxSocket)
	if err != nil {
		return err
	}
	return sandboxaddress.Serve(ctx, listener, 0, a.log.WithName("sandboxes"), a.fenceSandbox)
}

// fenceSandbox returns once the kernel has the rules of an announced pod. A pod that
// the watch has not shown yet is waited for.
func (a *agent) fenceSandbox(ctx context.Context, sandbox sandboxaddress.Sandbox) error {
	name := types.NamespacedName{Namespace: sandbox.Namespace, Name: sandbox.Name}
	a.mu.Lock()
	now := time.Now()
	a.announced.expire(now)
	a.announced[sandbox.UID] = announcement{addresses: sandbox.Addresses, at: now}
	a.mu.Unlock()
	for {
		if err := a.lookAt(ctx, name); err != nil {
			return err
		}
		a.mu.Lock()
		known, applied := a.model.Knows(name, sandbox.UID, sandbox.Addresses), a.applied
		a.mu.Unlock()
		if known {
			a.touch()
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waiting for pod %s: %w", name, ctx.Err())
		case <-applied:
			if known {
				return nil // the kernel got what the model knew then
			}
		case <-time.After(lookAgain):
		}
	}
}

// lookAgain is how often an announced pod is looked for besides what is watched.
const lookAgain = 100 * time.Millisecond

// lookAt reads a pod again that may have been announced.
func (a *agent) lookAt(ctx context.Context, name types.NamespacedName) error {
	var pod corev1.Pod
	if err := a.manager.GetCache().Get(ctx, name, &pod); err != nil {
		return client.IgnoreNotFound(fmt.Errorf("reading pod %s: %w", name, err))
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.setPod(&pod)
	return nil
}
