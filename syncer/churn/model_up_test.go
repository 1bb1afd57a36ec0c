//go:build churn

package churn

import (
	"fmt"
	"strings"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/bulkhead-dev/bulkhead/internal/tenancy"
)

const (
	// offeredClass is the StorageClass that the churn's classes offer.
	offeredClass = "standard"
	// poolLabel tells the super nodes apart that a class may select.
	poolLabel = "pool"
	// nodeStays is how long a virtual node stays without pods, with some patience.
	nodeStays = 3 * time.Minute
)

// checkUp compares what comes up.
func (m *model) checkUp() {
	nodes := m.nodes()
	m.up("nodes", nodes)
	m.up("leases", m.leases(nodes))
	m.up("persistentvolumes", m.volumes())
	m.up("storageclasses", m.storageClasses())
}

// claims go down where they name a class that is offered.
func (m *model) claims() wants {
	expected := wants{}
	for i := range m.tenant.Claims.Items {
		claim := &m.tenant.Claims.Items[i]
		if class := claim.Spec.StorageClassName; class == nil || *class != offeredClass {
			continue
		}
		expected[keyOf(claim)] = want{
			must: true, from: claim, at: m.superKey(claim.Namespace, claim.Name),
			fields: func(d *differences, object client.Object) {
				super := object.(*corev1.PersistentVolumeClaim)
				d.carried("metadata.labels", claim.Labels, super.Labels)
				d.same("spec.accessModes", claim.Spec.AccessModes, super.Spec.AccessModes)
				d.same("spec.storageClassName", claim.Spec.StorageClassName, super.Spec.StorageClassName)
				d.same("spec.resources.requests", storageOf(claim.Spec.Resources.Requests), storageOf(super.Spec.Resources.Requests))
				d.same("status.phase", super.Status.Phase, claim.Status.Phase)
				if super.Status.Phase == corev1.ClaimBound {
					d.same("spec.volumeName", super.Spec.VolumeName, claim.Spec.VolumeName)
					d.same("status.capacity", storageOf(super.Status.Capacity), storageOf(claim.Status.Capacity))
				}
			},
		}
	}
	return expected
}

func storageOf(list corev1.ResourceList) resource.Quantity { return list[corev1.ResourceStorage] }

// nodes are there where the tenant has pods, or where its class offers them. One
// without pods stays for a while.
func (m *model) nodes() wants {
	used := map[string]bool{}
	for i := range m.super.Pods.Items {
		if pod := &m.super.Pods.Items[i]; pod.Labels[tenancy.LabelTenant] == string(m.tenant.UID) {
			used[pod.Spec.NodeName] = true
		}
	}
	tenant := index(m.tenant.Nodes.Items)
	expected := wants{}
	for i := range m.super.Nodes.Items {
		super := &m.super.Nodes.Items[i]
		offered := m.tenant.Pool != "" && super.Labels[poolLabel] == m.tenant.Pool
		must := used[super.Name] || offered
		if !must {
			node := tenant[super.Name]
			if node == nil {
				continue
			}
			since, err := time.Parse(time.RFC3339, node.Annotations[tenancy.AnnotationUnusedSince])
			if err != nil || time.Since(since) > nodeStays {
				continue
			}
		}
		expected[super.Name] = want{
			must: must, from: super, at: client.ObjectKeyFromObject(super),
			fields: func(d *differences, object client.Object) {
				if must {
					compareNode(d, super, object.(*corev1.Node), offered)
				}
			},
		}
	}
	return expected
}

func compareNode(d *differences, super, node *corev1.Node, offered bool) {
	for key, value := range node.Labels {
		shown := key == tenancy.LabelManagedBy || key == corev1.LabelHostname || key == corev1.LabelOSStable || key == corev1.LabelArchStable || strings.HasPrefix(key, "topology.kubernetes.io/")
		if !shown && strings.HasPrefix(key, churnPrefix) {
			continue // the tenant's own
		}
		d.that("metadata.labels["+key+"]", shown, value+" is none of the tenant's business")
	}
	for _, key := range []string{corev1.LabelHostname, corev1.LabelOSStable, corev1.LabelTopologyZone} {
		d.same("metadata.labels["+key+"]", super.Labels[key], node.Labels[key])
	}
	d.same("spec.unschedulable", super.Spec.Unschedulable, node.Spec.Unschedulable)
	cordoned := false
	shown := map[string]bool{}
	for _, taint := range node.Spec.Taints {
		cordoned = cordoned || taint.Key == corev1.TaintNodeUnschedulable
		shown[taint.Key] = true
	}
	d.same("spec.taints["+corev1.TaintNodeUnschedulable+"]", super.Spec.Unschedulable, cordoned)
	for _, taint := range super.Spec.Taints {
		if taint.Key != corev1.TaintNodeUnschedulable {
			d.same("spec.taints["+taint.Key+"]", offered, shown[taint.Key])
		}
	}
	d.same("status.capacity", super.Status.Capacity, node.Status.Capacity)
	d.same("status.allocatable", super.Status.Allocatable, node.Status.Allocatable)
	ready := func(node *corev1.Node) string {
		for _, condition := range node.Status.Conditions {
			if condition.Type == corev1.NodeReady {
				return string(condition.Status) + " " + condition.Reason
			}
		}
		return "no condition"
	}
	d.same("status.conditions[Ready]", ready(super), ready(node))
	d.same("status.daemonEndpoints.kubeletEndpoint.port", int32(tenancy.VNAgentPort), node.Status.DaemonEndpoints.KubeletEndpoint.Port)
}

// leases are those of the virtual nodes, and at most a window older.
func (m *model) leases(nodes wants) wants {
	tenant := index(m.tenant.Nodes.Items)
	expected := wants{}
	for i := range m.super.Leases.Items {
		super := &m.super.Leases.Items[i]
		node := tenant[super.Name]
		is, wanted := nodes[super.Name]
		if super.Namespace != corev1.NamespaceNodeLease || node == nil || !wanted {
			continue
		}
		expected[keyOf(super)] = want{
			must: is.must, from: super, at: client.ObjectKeyFromObject(super),
			fields: func(d *differences, object client.Object) {
				lease := object.(*coordinationv1.Lease)
				d.that("metadata.ownerReferences", len(lease.OwnerReferences) == 1 && lease.OwnerReferences[0].UID == node.UID, "not the node's")
				renewed := lease.Spec.RenewTime
				late := !is.must || (renewed != nil && super.Spec.RenewTime.Sub(renewed.Time) < 2*time.Minute+30*time.Second)
				d.that("spec.renewTime", late, fmt.Sprintf("%s, while the node's is %s", renewed, super.Spec.RenewTime))
			},
		}
	}
	return expected
}

// volumes are those of the tenant's claims. One that is released may stay while the
// super cluster's does.
func (m *model) volumes() wants {
	claims, tenant := index(m.super.Claims.Items), index(m.tenant.Claims.Items)
	expected := wants{}
	for i := range m.super.Volumes.Items {
		super := &m.super.Volumes.Items[i]
		if super.Spec.ClaimRef == nil {
			continue
		}
		var claim *corev1.PersistentVolumeClaim
		if bound := claims[join(super.Spec.ClaimRef.Namespace, super.Spec.ClaimRef.Name)]; bound != nil && bound.UID == super.Spec.ClaimRef.UID {
			if origin, ok := tenancy.OriginOf(bound); ok && origin.Tenant == m.tenant.UID {
				claim = tenant[join(origin.Namespace, origin.Name)]
			}
		}
		expected[super.Name] = want{
			must: claim != nil, from: super, at: client.ObjectKeyFromObject(super),
			fields: func(d *differences, object client.Object) {
				volume := object.(*corev1.PersistentVolume)
				d.same("spec.capacity", super.Spec.Capacity, volume.Spec.Capacity)
				d.same("spec.accessModes", super.Spec.AccessModes, volume.Spec.AccessModes)
				d.same("spec.storageClassName", super.Spec.StorageClassName, volume.Spec.StorageClassName)
				if claim != nil {
					d.that("spec.claimRef", volume.Spec.ClaimRef != nil && volume.Spec.ClaimRef.UID == claim.UID, "not the tenant's claim")
				}
			},
		}
	}
	return expected
}

func (m *model) storageClasses() wants {
	expected := wants{}
	for i := range m.super.StorageClasses.Items {
		super := &m.super.StorageClasses.Items[i]
		if super.Name != offeredClass {
			continue
		}
		expected[super.Name] = want{
			must: true, from: super, at: client.ObjectKeyFromObject(super),
			fields: func(d *differences, object client.Object) {
				class := object.(*storagev1.StorageClass)
				d.same("provisioner", tenancy.OpaqueDriver, class.Provisioner)
				d.same("allowVolumeExpansion", super.AllowVolumeExpansion, class.AllowVolumeExpansion)
				d.same("reclaimPolicy", super.ReclaimPolicy, class.ReclaimPolicy)
				d.same("volumeBindingMode", super.VolumeBindingMode, class.VolumeBindingMode)
			},
		}
	}
	return expected
}
