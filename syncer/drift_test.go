package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	tenancyv1alpha1 "github.com/bulkhead-dev/bulkhead/api/tenancy/v1alpha1"
	"github.com/bulkhead-dev/bulkhead/internal/tenancy"
)

// Found by the churn test: what somebody wrote into the Secret of a pod's tokens stayed
// there, beside the tokens or in the place of one.
func TestTokensThatSomebodyChanged(t *testing.T) {
	startSyncer(t)
	tn := newTenant(t, 0, nil).synced()
	pod := newPod(tn.namespace("tokens-drift"), "web")
	must(t, tn.client.Create(t.Context(), pod))
	down := tn.superPod(pod)
	must(t, tn.client.Get(t.Context(), client.ObjectKeyFromObject(pod), pod))
	name := "tokens-" + string(pod.UID)
	secret := waitFor(t, super.Client, down.Namespace, name, &corev1.Secret{}, nil)
	eventually(t, "changing the tokens", func(ctx context.Context) error {
		if err := super.Client.Get(ctx, client.ObjectKeyFromObject(secret), secret); err != nil {
			return err
		}
		for key := range secret.Data {
			secret.Data[key] = []byte("somebody's")
		}
		secret.Data["more"] = []byte("x")
		return super.Client.Update(ctx, secret)
	})
	waitFor(t, super.Client, down.Namespace, name, secret, func(s *corev1.Secret) error {
		for key, token := range s.Data {
			if key == "more" || bytes.Equal(token, []byte("somebody's")) {
				return fmt.Errorf("key %s is still there, with %d bytes", key, len(token))
			}
		}
		return nil
	})
	tn.checkToken(pod, down)
}

// Found by the churn test: where the super cluster's controller misses that a Service
// with a selector was replaced by one without, the Endpoints it has made stay for ever,
// and the tenant's own did not go down.
func TestEndpointsThatNobodyKeeps(t *testing.T) {
	startSyncer(t)
	tn := newTenant(t, 0, nil).synced()
	ctx, ns := t.Context(), tn.namespace("leftover")
	pod := newPod(ns, "web") // for the namespace
	must(t, tn.client.Create(ctx, pod))
	at := metav1.ObjectMeta{Namespace: tn.superPod(pod).Namespace, Name: "db", Labels: map[string]string{
		tenancy.LabelTenant: string(tn.UID), tenancy.LabelManagedBy: tenancy.ManagedBySyncer, "endpoints.kubernetes.io/managed-by": "endpoint-controller",
	}}
	subsets := func(ip string) []corev1.EndpointSubset {
		return []corev1.EndpointSubset{{Addresses: []corev1.EndpointAddress{{IP: ip}}, Ports: []corev1.EndpointPort{{Port: 80}}}}
	}
	must(t, super.Client.Create(ctx, &corev1.Endpoints{ObjectMeta: at, Subsets: subsets("198.51.100.1")}))
	must(t, tn.client.Create(ctx, &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "db"}, Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 80}}}}))
	must(t, tn.client.Create(ctx, &corev1.Endpoints{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "db"}, Subsets: subsets("198.51.100.2")}))
	waitFor(t, super.Client, at.Namespace, "db", &corev1.Endpoints{}, func(e *corev1.Endpoints) error {
		if len(e.Subsets) != 1 || e.Subsets[0].Addresses[0].IP != "198.51.100.2" {
			return fmt.Errorf("subsets %+v", e.Subsets)
		}
		return nil
	})
}

// Found by the churn test: a pod that was made after its claim had been deleted, and
// before the super claim had gone, ran with the deleted claim's volume, and kept it.
func TestPodsDoNotTakeWhatIsDeleted(t *testing.T) {
	startSyncer(t)
	tn := newTenant(t, 0, func(class *tenancyv1alpha1.VirtualClusterClass) { class.Spec.StorageClasses = []string{"earlier"} }).synced()
	ctx, ns := t.Context(), tn.namespace("earlier")
	class := &storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: "earlier"}, Provisioner: "example.com/none"}
	must(t, super.Client.Create(ctx, class))
	t.Cleanup(func() { _ = super.Client.Delete(context.Background(), class) })
	claim := func() *corev1.PersistentVolumeClaim {
		return &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "data"}, Spec: corev1.PersistentVolumeClaimSpec{
			StorageClassName: &class.Name, AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
			Resources: corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: quantity("1Gi")}},
		}}
	}
	superNS := tn.SuperNamespace(ns)
	waitFor(t, tn.client, "", class.Name, &storagev1.StorageClass{}, nil)
	must(t, tn.client.Create(ctx, claim()))
	down := waitFor(t, super.Client, superNS, "data", &corev1.PersistentVolumeClaim{}, nil)
	hold := func(finalizers string) {
		must(t, super.Client.Patch(ctx, down, client.RawPatch(types.MergePatchType, []byte(`{"metadata":{"finalizers":`+finalizers+`}}`))))
	}
	hold(`["example.com/hold"]`)
	must(t, tn.client.Delete(ctx, claim()))
	waitFor(t, super.Client, superNS, "data", down, func(c *corev1.PersistentVolumeClaim) error {
		if c.DeletionTimestamp == nil {
			return errors.New("it is not being deleted")
		}
		return nil
	})
	pod := newPod(ns, "web")
	pod.Spec.Volumes = []corev1.Volume{{Name: "data", VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "data"}}}}
	must(t, tn.client.Create(ctx, pod))
	// One that has nothing to wait for shows that the first was looked at.
	other := newPod(ns, "other")
	must(t, tn.client.Create(ctx, other))
	tn.superPod(other)
	if err := super.Client.Get(ctx, client.ObjectKey{Namespace: superNS, Name: "web"}, &corev1.Pod{}); !apierrors.IsNotFound(err) {
		t.Errorf("the pod has gone down to a claim that is being deleted: %v", err)
	}
	hold("null")
	must(t, tn.client.Create(ctx, claim()))
	before := down.UID
	tn.superPod(pod)
	waitFor(t, super.Client, superNS, "data", down, func(c *corev1.PersistentVolumeClaim) error {
		if c.UID == before {
			return errors.New("it is the one that was deleted")
		}
		return nil
	})
}
