package controller

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"sigs.k8s.io/controller-runtime/pkg/client"

	tenancyv1alpha1 "github.com/bulkhead-dev/bulkhead/api/tenancy/v1alpha1"
)

func class(name string) *tenancyv1alpha1.VirtualClusterClass {
	return &tenancyv1alpha1.VirtualClusterClass{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: tenancyv1alpha1.VirtualClusterClassSpec{
			Exposure:      tenancyv1alpha1.ExposureSpec{Type: tenancyv1alpha1.ExposeClusterIP},
			MetricsServer: tenancyv1alpha1.MetricsServerSpec{Disabled: true},
			Etcd:          tenancyv1alpha1.EtcdSpec{Storage: tenancyv1alpha1.StorageSpec{Size: resource.MustParse("1Gi")}},
		},
	}
}

func TestReady(t *testing.T) {
	vc := newCluster(t, "real", "default")
	kubelet.serve(tenantOf(vc).ControlPlaneNamespace())
	start := time.Now()
	waitCondition(t, vc, tenancyv1alpha1.ConditionReady, metav1.ConditionTrue, reasonReady)
	t.Logf("ready after %s", time.Since(start))
}

// newCluster creates a virtual cluster in a namespace of the test's own.
func newCluster(t *testing.T, name, class string) *tenancyv1alpha1.VirtualCluster {
	t.Helper()
	namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "tenants-"}}
	if err := super.Client.Create(t.Context(), namespace); err != nil {
		t.Fatal(err)
	}
	vc := &tenancyv1alpha1.VirtualCluster{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace.Name, Name: name},
		Spec:       tenancyv1alpha1.VirtualClusterSpec{ClassName: class},
	}
	if err := super.Client.Create(t.Context(), vc); err != nil {
		t.Fatal(err)
	}
	return vc
}

// waitCondition waits until a condition has a status and a reason, and returns it.
func waitCondition(t *testing.T, vc *tenancyv1alpha1.VirtualCluster, condition string, status metav1.ConditionStatus, reason string) metav1.Condition {
	t.Helper()
	var seen *metav1.Condition
	eventually(t, func(ctx context.Context) error {
		if err := super.Client.Get(ctx, client.ObjectKeyFromObject(vc), vc); err != nil {
			return err
		}
		seen = meta.FindStatusCondition(vc.Status.Conditions, condition)
		if seen == nil || seen.Status != status || seen.Reason != reason || seen.ObservedGeneration != vc.Generation {
			var text strings.Builder
			for _, c := range vc.Status.Conditions {
				fmt.Fprintf(&text, "\n%s %s %s: %s", c.Type, c.Status, c.Reason, c.Message)
			}
			namespace := tenantOf(vc).ControlPlaneNamespace()
			return fmt.Errorf("%s is not %s for %s:%s\n%s%s%s", condition, status, reason, text.String(),
				kubelet.log(namespace, "etcd"), kubelet.log(namespace, "kube-apiserver"), kubelet.log(namespace, "kube-controller-manager"))
		}
		return nil
	})
	return *seen
}

// eventually polls until check succeeds.
func eventually(t *testing.T, check func(context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 90*time.Second)
	defer cancel()
	var last error
	err := wait.PollUntilContextCancel(ctx, 100*time.Millisecond, true, func(ctx context.Context) (bool, error) {
		last = check(ctx)
		return last == nil, nil
	})
	if err != nil {
		t.Fatalf("%v: %v", err, last)
	}
}
