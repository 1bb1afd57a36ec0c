//go:build churn

package churn

import (
	"context"
	"fmt"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// state is what a cluster holds of all kinds that are carried, but events.
type state struct {
	Namespaces      corev1.NamespaceList
	Pods            corev1.PodList
	Services        corev1.ServiceList
	Endpoints       corev1.EndpointsList
	ConfigMaps      corev1.ConfigMapList
	Secrets         corev1.SecretList
	ServiceAccounts corev1.ServiceAccountList
	Claims          corev1.PersistentVolumeClaimList
	Policies        networkingv1.NetworkPolicyList
	Nodes           corev1.NodeList
	Leases          coordinationv1.LeaseList
	Volumes         corev1.PersistentVolumeList
	StorageClasses  storagev1.StorageClassList
}

func (s *state) lists() map[string]client.ObjectList {
	return map[string]client.ObjectList{
		"namespaces": &s.Namespaces, "pods": &s.Pods, "services": &s.Services, "endpoints": &s.Endpoints,
		"configmaps": &s.ConfigMaps, "secrets": &s.Secrets, "serviceaccounts": &s.ServiceAccounts, "persistentvolumeclaims": &s.Claims,
		"networkpolicies": &s.Policies, "nodes": &s.Nodes, "leases": &s.Leases, "persistentvolumes": &s.Volumes, "storageclasses": &s.StorageClasses,
	}
}

// readState lists everything. The kinds are read one after the other, so that only of
// a cluster at rest it is one state.
func readState(ctx context.Context, from client.Reader) (*state, error) {
	s := &state{}
	for kind, list := range s.lists() {
		if err := from.List(ctx, list); err != nil {
			return nil, fmt.Errorf("listing %s: %w", kind, err)
		}
	}
	return s, nil
}

// objects are those of one kind; they may be changed, which changes the state.
func (s *state) objects(kind string) []client.Object {
	var all []client.Object
	_ = meta.EachListItem(s.lists()[kind], func(object runtime.Object) error {
		all = append(all, object.(client.Object))
		return nil
	})
	return all
}

// copied is a deep copy.
func (s *state) copied() *state {
	return &state{
		Namespaces: *s.Namespaces.DeepCopy(), Pods: *s.Pods.DeepCopy(), Services: *s.Services.DeepCopy(), Endpoints: *s.Endpoints.DeepCopy(),
		ConfigMaps: *s.ConfigMaps.DeepCopy(), Secrets: *s.Secrets.DeepCopy(), ServiceAccounts: *s.ServiceAccounts.DeepCopy(), Claims: *s.Claims.DeepCopy(),
		Policies: *s.Policies.DeepCopy(), Nodes: *s.Nodes.DeepCopy(), Leases: *s.Leases.DeepCopy(), Volumes: *s.Volumes.DeepCopy(), StorageClasses: *s.StorageClasses.DeepCopy(),
	}
}
