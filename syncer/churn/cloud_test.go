//go:build churn

package churn

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// provisioner is whose StorageClasses the stand-in serves.
const provisioner = "churn.example/disk"

// cloud plays what stands around the super cluster: a provisioner of volumes and one of
// load balancers.
type cloud struct{ super client.Client }

func (c *cloud) run(ctx context.Context) {
	tick := time.NewTicker(500 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		call, cancel := context.WithTimeout(ctx, 2*callTimeout)
		c.volumes(call)
		c.balancers(call)
		cancel()
	}
}

// volumes makes, grows and deletes volumes. Errors are those of an apiserver that was
// killed, or of an object that has changed: the next look shows what is left to do.
func (c *cloud) volumes(ctx context.Context) {
	var claims corev1.PersistentVolumeClaimList
	var volumes corev1.PersistentVolumeList
	if c.super.List(ctx, &claims) != nil || c.super.List(ctx, &volumes) != nil {
		return
	}
	have := index(volumes.Items)
	for i := range claims.Items {
		claim := &claims.Items[i]
		volume := have["disk-"+string(claim.UID)]
		asked := claim.Spec.Resources.Requests[corev1.ResourceStorage]
		switch {
		case volume == nil && claim.Status.Phase == corev1.ClaimPending:
			_ = c.super.Create(ctx, &corev1.PersistentVolume{
				ObjectMeta: metav1.ObjectMeta{Name: "disk-" + string(claim.UID), Annotations: map[string]string{"pv.kubernetes.io/provisioned-by": provisioner}},
				Spec: corev1.PersistentVolumeSpec{
					Capacity: corev1.ResourceList{corev1.ResourceStorage: asked}, AccessModes: claim.Spec.AccessModes, StorageClassName: *claim.Spec.StorageClassName,
					PersistentVolumeReclaimPolicy: corev1.PersistentVolumeReclaimDelete,
					ClaimRef:                      &corev1.ObjectReference{APIVersion: "v1", Kind: "PersistentVolumeClaim", Namespace: claim.Namespace, Name: claim.Name, UID: claim.UID},
					PersistentVolumeSource:        corev1.PersistentVolumeSource{CSI: &corev1.CSIPersistentVolumeSource{Driver: "disk.churn.example", VolumeHandle: string(claim.UID)}},
				},
			})
		case volume != nil && claim.Status.Phase == corev1.ClaimBound:
			c.grow(ctx, claim, volume)
		}
	}
	for i := range volumes.Items {
		if volume := &volumes.Items[i]; volume.Status.Phase == corev1.VolumeReleased && volume.DeletionTimestamp == nil {
			_ = c.super.Delete(ctx, volume)
		}
	}
}

func (c *cloud) grow(ctx context.Context, claim *corev1.PersistentVolumeClaim, volume *corev1.PersistentVolume) {
	asked := claim.Spec.Resources.Requests[corev1.ResourceStorage]
	if has := volume.Spec.Capacity[corev1.ResourceStorage]; has.Cmp(asked) < 0 {
		grown := volume.DeepCopy()
		grown.Spec.Capacity[corev1.ResourceStorage] = asked
		if c.super.Patch(ctx, grown, client.MergeFrom(volume)) != nil {
			return
		}
	}
	if has := claim.Status.Capacity[corev1.ResourceStorage]; has.Cmp(asked) < 0 {
		grown := claim.DeepCopy()
		grown.Status.Capacity = corev1.ResourceList{corev1.ResourceStorage: asked}
		_ = c.super.Status().Patch(ctx, grown, client.MergeFrom(claim))
	}
}

// balancers gives each Service that asks for one an address.
func (c *cloud) balancers(ctx context.Context) {
	var services corev1.ServiceList
	if c.super.List(ctx, &services) != nil {
		return
	}
	for i := range services.Items {
		service := &services.Items[i]
		if service.Spec.Type != corev1.ServiceTypeLoadBalancer || len(service.Status.LoadBalancer.Ingress) > 0 || len(service.UID) < 4 {
			continue
		}
		balanced := service.DeepCopy()
		var number byte
		for _, character := range []byte(service.UID) {
			number += character
		}
		balanced.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: fmt.Sprintf("198.51.100.%d", number)}}
		_ = c.super.Status().Patch(ctx, balanced, client.MergeFrom(service))
	}
}
