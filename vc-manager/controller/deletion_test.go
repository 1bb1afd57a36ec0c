package controller

import (
	"context"
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	tenancyv1alpha1 "github.com/bulkhead-dev/bulkhead/api/tenancy/v1alpha1"
	"github.com/bulkhead-dev/bulkhead/internal/tenancy"
	"github.com/bulkhead-dev/bulkhead/vc-manager/controlplane"
)

func TestDeletedBeforeAnythingWasMade(t *testing.T) {
	t.Parallel()
	vc := newCluster(t, "classless", "no-such-class")
	waitCondition(t, vc, tenancyv1alpha1.ConditionReady, metav1.ConditionFalse, tenancyv1alpha1.ReasonClassNotFound)
	waitEvent(t, vc, tenancyv1alpha1.ReasonClassNotFound)
	deleteCluster(t, vc)
}

func TestDeletedWhileThePodsArePending(t *testing.T) {
	t.Parallel()
	vc := newCluster(t, "pending", newClass(t, nil))
	waitCondition(t, vc, tenancyv1alpha1.ConditionCertificatesReady, metav1.ConditionTrue, reasonReady)
	waitPod(t, vc, "etcd-0")
	deleteCluster(t, vc)
}

func waitPod(t *testing.T, vc *tenancyv1alpha1.VirtualCluster, name string) {
	t.Helper()
	key := client.ObjectKey{Namespace: tenantOf(vc).ControlPlaneNamespace(), Name: name}
	eventually(t, func(ctx context.Context) error { return super.Client.Get(ctx, key, &corev1.Pod{}) })
}

// Deleted at once, wherever the first pass just is.
func TestDeletedWhileItIsMade(t *testing.T) {
	t.Parallel()
	class := newClass(t, nil)
	var clusters []*tenancyv1alpha1.VirtualCluster
	for i := range 5 {
		vc := newCluster(t, fmt.Sprintf("hasty-%d", i), class)
		if err := super.Client.Delete(t.Context(), vc.DeepCopy()); err != nil {
			t.Fatal(err)
		}
		clusters = append(clusters, vc)
	}
	for _, vc := range clusters {
		waitGone(t, vc)
		waitGone(t, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: tenantOf(vc).ControlPlaneNamespace()}})
	}
}

func TestDeletionGoesOnAfterARestart(t *testing.T) {
	t.Parallel()
	vc := newCluster(t, "interrupted", newClass(t, nil))
	waitPod(t, vc, "etcd-0")
	// Something in the namespace that does not go by itself.
	held := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{
		Namespace: tenantOf(vc).ControlPlaneNamespace(), Name: "held", Finalizers: []string{"example.org/held"},
	}}
	if err := super.Client.Create(t.Context(), held); err != nil {
		t.Fatal(err)
	}
	if err := super.Client.Delete(t.Context(), vc.DeepCopy()); err != nil {
		t.Fatal(err)
	}
	// The condition says, in the super cluster's words, what is left.
	eventually(t, func(ctx context.Context) error {
		deleting := waitCondition(t, vc, tenancyv1alpha1.ConditionReady, metav1.ConditionFalse, tenancyv1alpha1.ReasonDeleting)
		if !strings.Contains(deleting.Message, "example.org/held") {
			return fmt.Errorf("message %q", deleting.Message)
		}
		return nil
	})
	restartManager(t)
	waitCondition(t, vc, tenancyv1alpha1.ConditionReady, metav1.ConditionFalse, tenancyv1alpha1.ReasonDeleting)
	held.Finalizers = nil
	if err := super.Client.Patch(t.Context(), held, client.RawPatch("application/merge-patch+json", []byte(`{"metadata":{"finalizers":null}}`))); err != nil {
		t.Fatal(err)
	}
	deleteCluster(t, vc)
}

// What a vc-manager with an old view of the super cluster made after the virtual
// cluster was gone.
func TestOrphans(t *testing.T) {
	t.Parallel()
	for name, established := range map[string]bool{"never ran": false, "has held data": true} {
		t.Run(name, func(t *testing.T) {
			in := controlplane.Input{Tenant: tenancy.Tenant{UID: types.UID("gone-" + newNamespace(t)), Namespace: "team", Name: "orphan"}, Established: established}
			namespace := controlplane.Namespace(in)
			for _, object := range []client.Object{namespace, controlplane.EtcdConfig(in), controlplane.EtcdPeerService(in)} {
				if err := super.Client.Create(t.Context(), object); err != nil {
					t.Fatal(err)
				}
			}
			restartManager(t)
			if !established {
				waitGone(t, namespace)
				return
			}
			// It has been looked at when another orphan, made later, is gone.
			later := controlplane.Namespace(controlplane.Input{Tenant: tenancy.Tenant{UID: in.Tenant.UID + "-later", Namespace: "team", Name: "orphan"}})
			if err := super.Client.Create(t.Context(), later); err != nil {
				t.Fatal(err)
			}
			waitGone(t, later)
			mustGet(t, client.ObjectKeyFromObject(namespace), namespace)
			if !namespace.DeletionTimestamp.IsZero() {
				t.Error("a tenant's data is deleted")
			}
		})
	}
}

// The tenant's workloads go before the control plane that describes them.
func TestDeletionWaitsForTheSyncer(t *testing.T) {
	t.Parallel()
	vc := newCluster(t, "synced", newClass(t, nil), tenancy.FinalizerSyncer)
	waitPod(t, vc, "etcd-0")
	if err := super.Client.Delete(t.Context(), vc.DeepCopy()); err != nil {
		t.Fatal(err)
	}
	eventually(t, func(context.Context) error {
		deleting := waitCondition(t, vc, tenancyv1alpha1.ConditionReady, metav1.ConditionFalse, tenancyv1alpha1.ReasonDeleting)
		if !strings.Contains(deleting.Message, "syncer") {
			return fmt.Errorf("message %q", deleting.Message)
		}
		return nil
	})
	namespace := &corev1.Namespace{}
	mustGet(t, client.ObjectKey{Name: tenantOf(vc).ControlPlaneNamespace()}, namespace)
	if !namespace.DeletionTimestamp.IsZero() {
		t.Error("the control plane is deleted before the workloads")
	}
	patch := []byte(`{"metadata":{"finalizers":["` + tenancy.FinalizerControlPlane + `"]}}`)
	if err := super.Client.Patch(t.Context(), vc, client.RawPatch("application/merge-patch+json", patch)); err != nil {
		t.Fatal(err)
	}
	deleteCluster(t, vc)
}

// newVolume binds a volume to etcd's claim, as a provisioner does. Nothing deletes it
// but the test.
func newVolume(t *testing.T, vc *tenancyv1alpha1.VirtualCluster, policy corev1.PersistentVolumeReclaimPolicy) *corev1.PersistentVolume {
	t.Helper()
	volume := &corev1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{GenerateName: "volume-"},
		Spec: corev1.PersistentVolumeSpec{
			Capacity: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}, AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
			PersistentVolumeReclaimPolicy: policy, VolumeMode: ptr.To(corev1.PersistentVolumeFilesystem), StorageClassName: "test",
			ClaimRef:               &corev1.ObjectReference{Namespace: tenantOf(vc).ControlPlaneNamespace(), Name: controlplane.EtcdData + "-etcd-0"},
			PersistentVolumeSource: corev1.PersistentVolumeSource{CSI: &corev1.CSIPersistentVolumeSource{Driver: "test.example.org", VolumeHandle: "x"}},
		},
	}
	if err := super.Client.Create(t.Context(), volume); err != nil {
		t.Fatal(err)
	}
	return volume
}

func TestDeletionWaitsForTheVolume(t *testing.T) {
	t.Parallel()
	class := newClass(t, func(spec *tenancyv1alpha1.VirtualClusterClassSpec) { spec.Etcd.Storage.StorageClassName = "test" })
	vc := newCluster(t, "stored", class)
	waitPod(t, vc, "etcd-0")
	volume := newVolume(t, vc, corev1.PersistentVolumeReclaimDelete)
	retained := newVolume(t, vc, corev1.PersistentVolumeReclaimRetain)
	if err := super.Client.Delete(t.Context(), vc.DeepCopy()); err != nil {
		t.Fatal(err)
	}
	eventually(t, func(context.Context) error {
		deleting := waitCondition(t, vc, tenancyv1alpha1.ConditionReady, metav1.ConditionFalse, tenancyv1alpha1.ReasonDeleting)
		if !strings.Contains(deleting.Message, volume.Name) || strings.Contains(deleting.Message, retained.Name) {
			return fmt.Errorf("message %q", deleting.Message)
		}
		return nil
	})
	// The provisioner has deleted it.
	for _, policy := range []*corev1.PersistentVolume{volume} {
		if err := super.Client.Delete(t.Context(), policy); err != nil {
			t.Fatal(err)
		}
		_ = super.Client.Patch(t.Context(), policy, client.RawPatch("application/merge-patch+json", []byte(`{"metadata":{"finalizers":null}}`)))
	}
	waitGone(t, vc)
}

// Two virtual clusters of the same name, one after the other and side by side, have
// nothing in common.
func TestSameNames(t *testing.T) {
	t.Parallel()
	class := newClass(t, nil)
	first, second := newCluster(t, "same", class), newCluster(t, "same", class)
	waitPod(t, first, "etcd-0")
	waitPod(t, second, "etcd-0")
	deleteCluster(t, first)
	again := &tenancyv1alpha1.VirtualCluster{ObjectMeta: metav1.ObjectMeta{Namespace: first.Namespace, Name: first.Name}, Spec: tenancyv1alpha1.VirtualClusterSpec{ClassName: class}}
	if err := super.Client.Create(t.Context(), again); err != nil {
		t.Fatal(err)
	}
	waitPod(t, again, "etcd-0")
	if tenantOf(again).ControlPlaneNamespace() == tenantOf(first).ControlPlaneNamespace() {
		t.Error("the second of the name lives where the first did")
	}
	waitPod(t, second, "etcd-0")
	deleteCluster(t, again)
	if err := super.Client.Get(t.Context(), client.ObjectKey{Name: tenantOf(second).ControlPlaneNamespace()}, &corev1.Namespace{}); apierrors.IsNotFound(err) {
		t.Error("deleting one of the name deleted the other")
	}
	deleteCluster(t, second)
}
