package main

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	tenancyv1alpha1 "github.com/bulkhead-dev/bulkhead/api/tenancy/v1alpha1"
	"github.com/bulkhead-dev/bulkhead/internal/tenancy"
	"github.com/bulkhead-dev/bulkhead/internal/testenv"
)

func countOf(t *testing.T, list client.ObjectList) int {
	t.Helper()
	return meta.LenList(list)
}

// A tenant's apiserver that is killed: its condition says so, its super objects
// stay, the other tenant notices nothing, and changes go on when it is back.
func TestTenantOutage(t *testing.T) {
	startSyncer(t)
	up, gone := newTenant(t, 0, nil).synced(), newTenant(t, 1, nil).synced()
	ctx := t.Context()
	node := newNode(t, "node-outage")
	ns := gone.namespace("outage")
	pod := newPod(ns, "web")
	down := gone.runBound(pod, node.Name)
	upNS := up.namespace("outage")

	gone.cluster.KillAPIServer()
	eventually(t, "the condition to tell", func(ctx context.Context) error {
		return gone.condition(ctx, metav1.ConditionFalse, "Unreachable")
	})
	other := newPod(upNS, "web")
	must(t, up.client.Create(ctx, other))
	up.superPod(other)
	// What happens in the super cluster meanwhile is carried later.
	must(t, super.Client.Get(ctx, client.ObjectKeyFromObject(down), down))
	if down.DeletionTimestamp != nil {
		t.Error("a pod of the tenant was deleted in haste")
	}
	testenv.ChangeStatus(t, super.Client, down, func() {
		down.Status.PodIP, down.Status.PodIPs = "10.2.0.77", []corev1.PodIP{{IP: "10.2.0.77"}}
	})

	must(t, gone.cluster.StartAPIServer(ctx, testenv.Options{ControllerManager: true}))
	gone.synced()
	waitFor(t, gone.client, ns, "web", pod, func(p *corev1.Pod) error {
		if p.Status.PodIP != "10.2.0.77" {
			return fmt.Errorf("status %+v", p.Status)
		}
		return nil
	})
	second := newPod(ns, "second")
	must(t, gone.client.Create(ctx, second))
	gone.superPod(second)
}

// The syncer is stopped in the middle, both sides change, and what comes after it
// makes them alike: all state is in the clusters.
func TestSyncerRestart(t *testing.T) {
	stop := startSyncer(t)
	tn := newTenant(t, 0, nil).synced()
	ctx := t.Context()
	ns := tn.namespace("restart")
	superNS := tn.SuperNamespace(ns)
	node := newNode(t, "node-restart")
	config := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "config"}, Data: map[string]string{"k": "1"}}
	must(t, tn.client.Create(ctx, config))
	stays, forced, unbound := newPod(ns, "stays"), newPod(ns, "forced"), newPod(ns, "unbound")
	stays.Spec.Volumes = []corev1.Volume{{Name: "c", VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: "config"}}}}}
	staysDown := tn.runBound(stays, node.Name)
	forcedDown := tn.runBound(forced, node.Name)
	must(t, tn.client.Create(ctx, unbound))
	unboundDown := tn.superPod(unbound)
	tokens := waitFor(t, super.Client, superNS, "tokens-"+string(stays.UID), &corev1.Secret{}, nil)
	stop()

	must(t, tn.client.Delete(ctx, forced, client.GracePeriodSeconds(0)))
	testenv.Change(t, tn.client, config, func() { config.Data["k"] = "2" })
	late := newPod(ns, "late")
	must(t, tn.client.Create(ctx, late))
	schedule(t, unboundDown, node.Name)
	// As if the syncer had been killed between the pod and its tokens.
	must(t, super.Client.Delete(ctx, tokens))
	must(t, super.Client.Delete(ctx, staysDown, client.GracePeriodSeconds(15)))

	startSyncer(t)
	tn.superPod(late)
	waitFor(t, super.Client, superNS, "config", &corev1.ConfigMap{}, func(c *corev1.ConfigMap) error {
		if c.Data["k"] != "2" {
			return fmt.Errorf("data %v", c.Data)
		}
		return nil
	})
	waitFor(t, super.Client, superNS, "forced", forcedDown, func(p *corev1.Pod) error {
		if p.DeletionTimestamp == nil {
			return errors.New("it is not being deleted")
		}
		return nil
	})
	waitFor(t, tn.client, ns, "unbound", unbound, func(p *corev1.Pod) error {
		if p.Spec.NodeName != node.Name {
			return errors.New("it is not bound")
		}
		return nil
	})
	waitFor(t, tn.client, ns, "stays", stays, func(p *corev1.Pod) error {
		if p.DeletionTimestamp == nil || *p.DeletionGracePeriodSeconds != 15 {
			return fmt.Errorf("deletion %v", p.DeletionTimestamp)
		}
		return nil
	})
	waitFor(t, super.Client, superNS, "tokens-"+string(unbound.UID), &corev1.Secret{}, nil)
}

// New credentials are taken up without a restart.
func TestCredentialRotation(t *testing.T) {
	startSyncer(t)
	tn := newTenant(t, 0, nil).synced()
	ctx := t.Context()
	secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: tn.ControlPlaneNamespace(), Name: tenancy.SyncerKubeconfigSecret}}
	stranger, err := clusters[1].Credentials(tenancy.UserSyncer) // signed by another CA
	must(t, err)
	other := strings.ReplaceAll(string(stranger), clusters[1].Config.Host, tn.cluster.Config.Host)
	testenv.Change(t, super.Client, secret, func() { secret.Data[tenancy.KubeconfigKey] = []byte(other) })
	eventually(t, "the condition to tell", func(ctx context.Context) error {
		return tn.condition(ctx, metav1.ConditionFalse, "")
	})
	fresh, err := tn.cluster.Credentials(tenancy.UserSyncer)
	must(t, err)
	testenv.Change(t, super.Client, secret, func() { secret.Data[tenancy.KubeconfigKey] = fresh })
	tn.synced()
	pod := newPod(tn.namespace("rotation"), "web")
	must(t, tn.client.Create(ctx, pod))
	tn.superPod(pod)
	testenv.Change(t, super.Client, secret, func() { secret.Data[tenancy.KubeconfigKey] = []byte("nonsense") })
	eventually(t, "the condition to tell", func(ctx context.Context) error {
		return tn.condition(ctx, metav1.ConditionFalse, "CredentialsNotReady")
	})
}

// A tenant that goes takes its goroutines along.
func TestTenantsLeaveNoGoroutines(t *testing.T) {
	startSyncer(t)
	ctx := t.Context()
	round := 0
	cycle := func() {
		round++
		t.Run(fmt.Sprint(round), func(t *testing.T) {
			tn := newTenant(t, 1, nil).synced()
			pod := newPod(tn.namespace(fmt.Sprintf("leak-%d", round)), "web")
			must(t, tn.client.Create(ctx, pod))
			down := tn.superPod(pod)
			vc := &tenancyv1alpha1.VirtualCluster{ObjectMeta: metav1.ObjectMeta{Namespace: tn.Namespace, Name: tn.Name}}
			endPod(t, down)
			must(t, super.Client.Delete(ctx, vc))
			waitGone(t, super.Client, tn.Namespace, tn.Name, vc)
		})
	}
	cycle()
	before := runtime.NumGoroutine()
	cycle()
	// A link has dozens: one that stays would show.
	eventually(t, "goroutines to end", func(context.Context) error {
		if now := runtime.NumGoroutine(); now > before+10 {
			stacks := make([]byte, 1<<20)
			return fmt.Errorf("%d before, %d now:\n%s", before, now, stacks[:runtime.Stack(stacks, true)])
		}
		return nil
	})
}
