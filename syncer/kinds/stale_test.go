package kinds

import (
	"context"
	"errors"
	"net/netip"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"

	tenancyv1alpha1 "github.com/bulkhead-dev/bulkhead/api/tenancy/v1alpha1"
	"github.com/bulkhead-dev/bulkhead/internal/tenantnetwork"
	"github.com/bulkhead-dev/bulkhead/internal/testenv"
	"github.com/bulkhead-dev/bulkhead/syncer/engine"
)

// behind is a cluster whose cache lags: the first read of a pod, which is the cache's,
// finds what was there before, or nothing. Those that follow ask the cluster itself.
type behind struct {
	*memory
	before *corev1.Pod
	read   bool
}

func (b *behind) Get(ctx context.Context, key client.ObjectKey, into client.Object, options ...client.GetOption) error {
	pod, is := into.(*corev1.Pod)
	if !is || b.read {
		return b.memory.Get(ctx, key, into, options...)
	}
	b.read = true
	if b.before == nil {
		return apierrors.NewNotFound(schema.GroupResource{Resource: "pods"}, key.Name)
	}
	b.before.DeepCopyInto(pod)
	return nil
}

// boundPod carries a pod of the tenant down and has it bound there. It returns the super
// pod as it was before.
func boundPod(t *testing.T) (b *bench, lag *behind, key engine.Key) {
	t.Helper()
	b = newBench(t, tenancyv1alpha1.VirtualClusterClassSpec{PodSecurity: tenancyv1alpha1.PodSecurityBaseline})
	lag = &behind{memory: b.super, read: true}
	var err error
	networks := tenantnetwork.Networks{Denied: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}}
	if b.Pair, err = engine.Between(t.Context(), testenv.Scheme(), All(networks), b.Tenant(), lag, b.tenant); err != nil {
		t.Fatal(err)
	}
	automount := false
	b.tenant.put(&corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "web", Name: "front"},
		Spec:       corev1.PodSpec{ServiceAccountName: "default", AutomountServiceAccountToken: &automount, Containers: []corev1.Container{{Name: "main", Image: "i"}}},
	})
	key = engine.Key{Resource: "pods", Namespace: "web", Name: "front"}
	if _, err := b.Handle(key); err != nil {
		t.Fatal(err)
	}
	super := superPodOf(t, b)
	lag.before = super.DeepCopy()
	super.Spec.NodeName = "node-1"
	b.super.put(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node-1"}})
	b.super.put(super)
	return b, lag, key
}

func superPodOf(t *testing.T, b *bench) *corev1.Pod {
	t.Helper()
	super, err := engine.Get[*corev1.Pod](t.Context(), b.super, b.Tenant().SuperNamespace("web"), "front")
	if err != nil {
		t.Fatal(err)
	}
	if super == nil {
		t.Fatal("there is no super pod")
	}
	return super
}

// A pod that was bound on both sides was once taken for misplaced, and deleted, where the
// super cluster's cache did not show the binding yet.
func TestStaleCacheOfABoundPodDeletesNothing(t *testing.T) {
	b, lag, key := boundPod(t)
	tenant, err := engine.Get[*corev1.Pod](t.Context(), b.tenant, "web", "front")
	if err != nil {
		t.Fatal(err)
	}
	tenant.Spec.NodeName = "node-1"
	b.tenant.put(tenant)
	lag.read = false
	_, err = b.Handle(key)
	var wait *engine.WaitError
	if !errors.As(err, &wait) {
		t.Errorf("handling returned %v, and should wait", err)
	}
	superPodOf(t, b)

	// Somebody has indeed put the tenant's pod elsewhere.
	tenant.Spec.NodeName = "node-2"
	b.tenant.put(tenant)
	if _, err := b.Handle(key); err != nil {
		t.Fatal(err)
	}
	if left, err := engine.Get[*corev1.Pod](t.Context(), b.super, b.Tenant().SuperNamespace("web"), "front"); err != nil || left != nil {
		t.Errorf("the super pod of a pod that is elsewhere is %v, %v", left, err)
	}
}

// What a create finds is newer than the cache: nothing of it is carried on before the
// cache shows it.
func TestPodThatTheCacheDoesNotShowYetIsNotBound(t *testing.T) {
	b, lag, key := boundPod(t)
	lag.before, lag.read = nil, false
	if _, err := b.Handle(key); err != nil {
		t.Fatal(err)
	}
	tenant, err := engine.Get[*corev1.Pod](t.Context(), b.tenant, "web", "front")
	if err != nil {
		t.Fatal(err)
	}
	if tenant.Spec.NodeName != "" {
		t.Error("the tenant's pod was bound by what the cache did not show")
	}
}
