package main

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/bulkhead-dev/bulkhead/internal/testenv"
	"github.com/bulkhead-dev/bulkhead/syncer/tokens"
)

// The tests here are named after defects of the ancestor's syncer, found by reading
// and running it. Others are beside the code they concern: those of its queue in
// package fairqueue, of its translations in packages kinds and podspec.

// A pod that refers to a Secret that does not exist was never synced.
func TestPodWithMissingSecretGoesDown(t *testing.T) {
	startSyncer(t)
	tn := newTenant(t, 0, nil).synced()
	ns := tn.namespace("missing")
	pod := newPod(ns, "web")
	yes := true
	pod.Spec.Volumes = []corev1.Volume{{Name: "s", VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "later", Optional: &yes}}}}
	must(t, tn.client.Create(t.Context(), pod))
	tn.superPod(pod)
	must(t, tn.client.Create(t.Context(), &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "later"}}))
	waitFor(t, super.Client, tn.SuperNamespace(ns), "later", &corev1.Secret{}, nil)
}

// Updates of a ServiceAccount's imagePullSecrets were never synced.
func TestPullSecretsOfServiceAccountFollow(t *testing.T) {
	startSyncer(t)
	tn := newTenant(t, 0, nil).synced()
	ns := tn.namespace("pull")
	pod := newPod(ns, "web")
	must(t, tn.client.Create(t.Context(), pod))
	tn.superPod(pod)
	account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "default"}}
	testenv.Change(t, tn.client, account, func() {
		account.ImagePullSecrets = []corev1.LocalObjectReference{{Name: "registry"}}
	})
	waitFor(t, super.Client, tn.SuperNamespace(ns), "default-tenant", &corev1.ServiceAccount{}, func(a *corev1.ServiceAccount) error {
		if len(a.ImagePullSecrets) != 1 || a.ImagePullSecrets[0].Name != "registry" {
			return fmt.Errorf("pull secrets %v", a.ImagePullSecrets)
		}
		return nil
	})
}

// Content that somebody changed in the super cluster was counted, and not repaired.
func TestDriftIsRepaired(t *testing.T) {
	startSyncer(t)
	tn := newTenant(t, 0, nil).synced()
	ctx := t.Context()
	ns := tn.namespace("drift")
	must(t, tn.client.Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "config"}, Data: map[string]string{"k": "1"}}))
	pod := newPod(ns, "web")
	pod.Spec.Volumes = []corev1.Volume{{Name: "c", VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: "config"}}}}}
	must(t, tn.client.Create(ctx, pod))
	config := waitFor(t, super.Client, tn.SuperNamespace(ns), "config", &corev1.ConfigMap{}, nil)
	testenv.Change(t, super.Client, config, func() { config.Data = map[string]string{"k": "other"} })
	restored := func(c *corev1.ConfigMap) error {
		if c.Data["k"] != "1" {
			return fmt.Errorf("data %v", c.Data)
		}
		return nil
	}
	waitFor(t, super.Client, tn.SuperNamespace(ns), "config", config, restored)
	must(t, super.Client.Delete(ctx, config))
	waitFor(t, super.Client, tn.SuperNamespace(ns), "config", &corev1.ConfigMap{}, restored)
}

// A tenant's own StorageClasses and PersistentVolumes were deleted within a minute.
func TestTenantsOwnStorageStays(t *testing.T) {
	startSyncer(t)
	tn := newTenant(t, 0, nil)
	ctx := t.Context()
	class := &storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: "own"}, Provisioner: "example.com/own"}
	volume := &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: "own"}, Spec: corev1.PersistentVolumeSpec{
		Capacity: corev1.ResourceList{corev1.ResourceStorage: quantity("1Gi")}, AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
		PersistentVolumeSource: corev1.PersistentVolumeSource{NFS: &corev1.NFSVolumeSource{Server: "x", Path: "/"}},
	}}
	for _, object := range []client.Object{class, volume} {
		must(t, tn.client.Create(ctx, object))
		t.Cleanup(func() { _ = tn.client.Delete(context.Background(), object) })
	}
	// One of the same name in the super cluster makes no difference.
	same := &storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: "own", Annotations: map[string]string{"storageclass.kubernetes.io/is-default-class": "true"}}, Provisioner: "example.com/platform"}
	must(t, super.Client.Create(ctx, same))
	t.Cleanup(func() { _ = super.Client.Delete(context.Background(), same) })
	tn.synced()
	// When a later change has been carried, the earlier ones have been looked at.
	pod := newPod(tn.namespace("own-storage"), "web")
	must(t, tn.client.Create(ctx, pod))
	tn.superPod(pod)
	must(t, tn.client.Get(ctx, client.ObjectKeyFromObject(class), class))
	must(t, tn.client.Get(ctx, client.ObjectKeyFromObject(volume), volume))
	if class.Provisioner != "example.com/own" || class.DeletionTimestamp != nil || volume.DeletionTimestamp != nil || len(class.Labels)+len(volume.Labels) > 0 {
		t.Errorf("changed: %+v, %+v", class, volume.ObjectMeta)
	}
}

// Namespaces whose super name had more than 63 characters were not synced, and
// names that collide once joined ended up in one.
func TestLongAndCollidingNames(t *testing.T) {
	startSyncer(t)
	tn := newTenant(t, 0, nil).synced()
	seen := map[string]bool{}
	for _, name := range []string{strings.Repeat("n", 63), strings.Repeat("n", 62) + "m", "a", "a-b"} {
		pod := newPod(tn.namespace(name), "web")
		must(t, tn.client.Create(t.Context(), pod))
		seen[tn.superPod(pod).Namespace] = true
	}
	if len(seen) != 4 {
		t.Errorf("four namespaces live in %d", len(seen))
	}
}

// There were no TokenRequests at all. Tokens are renewed in time, and not before.
func TestTokensAreRenewed(t *testing.T) {
	startSyncer(t)
	tn := newTenant(t, 0, nil).synced()
	ns := tn.namespace("renewal")
	pod := newPod(ns, "web")
	must(t, tn.client.Create(t.Context(), pod))
	down := tn.superPod(pod)
	must(t, tn.client.Get(t.Context(), client.ObjectKeyFromObject(pod), pod))
	read := func() string {
		secret := waitFor(t, super.Client, down.Namespace, "tokens-"+string(pod.UID), &corev1.Secret{}, nil)
		for _, token := range secret.Data {
			return string(token)
		}
		return ""
	}
	first := read()
	for _, after := range []time.Duration{10 * time.Minute, 50 * time.Minute} {
		keeper := tokens.Keeper{
			Tenant: tn.Tenant, TenantClient: tn.client, SuperClient: super.Client, SuperReader: super.Client,
			Now: func() time.Time { return time.Now().Add(after) },
		}
		again, err := keeper.Ensure(t.Context(), pod, down)
		if err != nil || again <= 0 {
			t.Fatalf("after %s: %v, %v", after, again, err)
		}
		if renewed := read() != first; renewed != (after > 48*time.Minute) {
			t.Errorf("after %s: renewed is %v", after, renewed)
		}
	}
	tn.checkToken(pod, down)
}
