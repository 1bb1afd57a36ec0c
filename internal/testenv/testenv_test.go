package testenv

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	tenancyv1alpha1 "github.com/bulkhead-dev/bulkhead/api/tenancy/v1alpha1"
)

// TestClusterIsReal sees what only a real control plane does: defaults from a CRD,
// a ServiceAccount from the controller-manager, state that outlives the apiserver.
func TestClusterIsReal(t *testing.T) {
	options := Options{ControllerManager: true, CRDs: true}
	cluster := New(t, options)
	ctx := t.Context()
	vc := &tenancyv1alpha1.VirtualCluster{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "demo"}}
	if err := cluster.Client.Create(ctx, vc); err != nil {
		t.Fatal(err)
	}
	if vc.Spec.ClassName != "default" || vc.Spec.ServiceCIDR == "" {
		t.Errorf("defaults are missing: %+v", vc.Spec)
	}
	cluster.KillAPIServer()
	if err := cluster.Client.Get(ctx, client.ObjectKeyFromObject(vc), vc); err == nil {
		t.Error("a killed apiserver answers")
	}
	if err := cluster.StartAPIServer(ctx, options); err != nil {
		t.Fatal(err)
	}
	if err := cluster.Client.Get(ctx, client.ObjectKeyFromObject(vc), vc); err != nil {
		t.Errorf("after a restart of the apiserver: %v", err)
	}
	var account corev1.ServiceAccount
	if err := cluster.Client.Get(ctx, client.ObjectKey{Namespace: "default", Name: "default"}, &account); err != nil {
		t.Error(err)
	}

	cluster.Kill(ControllerManager, Etcd)
	if err := cluster.Revive(ctx); err != nil {
		t.Fatal(err)
	}
	if err := cluster.Client.Get(ctx, client.ObjectKeyFromObject(vc), vc); err != nil {
		t.Errorf("after a restart of etcd: %v", err)
	}
}
