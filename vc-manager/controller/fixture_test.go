package controller

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/rand"
	"k8s.io/apimachinery/pkg/util/wait"
	"sigs.k8s.io/controller-runtime/pkg/client"

	tenancyv1alpha1 "github.com/bulkhead-dev/bulkhead/api/tenancy/v1alpha1"
	"github.com/bulkhead-dev/bulkhead/vc-manager/controlplane"
)

// patience bounds every wait of the tests, on a machine that has other things to do.
const patience = 2 * time.Minute

// newClass makes a class for a test of its own and returns its name.
func newClass(t *testing.T, change func(*tenancyv1alpha1.VirtualClusterClassSpec)) string {
	t.Helper()
	return newClassNamed(t, "class-"+rand.String(6), change)
}

func newClassNamed(t *testing.T, name string, change func(*tenancyv1alpha1.VirtualClusterClassSpec)) string {
	t.Helper()
	class := &tenancyv1alpha1.VirtualClusterClass{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: tenancyv1alpha1.VirtualClusterClassSpec{
			Exposure: tenancyv1alpha1.ExposureSpec{Type: tenancyv1alpha1.ExposeClusterIP},
			// No test here needs one, and there is no node it could measure.
			MetricsServer: tenancyv1alpha1.MetricsServerSpec{Disabled: true},
			Etcd:          tenancyv1alpha1.EtcdSpec{Storage: tenancyv1alpha1.StorageSpec{Size: resource.MustParse("1Gi")}},
		},
	}
	if change != nil {
		change(&class.Spec)
	}
	if err := super.Client.Create(t.Context(), class); err != nil {
		t.Fatal(err)
	}
	return name
}

// newNamespace makes a namespace for virtual clusters of one test.
func newNamespace(t *testing.T) string {
	t.Helper()
	namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "tenants-"}}
	if err := super.Client.Create(t.Context(), namespace); err != nil {
		t.Fatal(err)
	}
	return namespace.Name
}

// newCluster makes a virtual cluster; the test's end deletes it.
func newCluster(t *testing.T, name, class string, finalizers ...string) *tenancyv1alpha1.VirtualCluster {
	t.Helper()
	vc := &tenancyv1alpha1.VirtualCluster{
		ObjectMeta: metav1.ObjectMeta{Namespace: newNamespace(t), Name: name, Finalizers: finalizers},
		Spec:       tenancyv1alpha1.VirtualClusterSpec{ClassName: class},
	}
	if err := super.Client.Create(t.Context(), vc); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := super.Client.Delete(ctx, vc.DeepCopy()); err != nil && !apierrors.IsNotFound(err) {
			t.Error(err)
		}
	})
	return vc
}

// deleteCluster deletes a virtual cluster and waits until nothing is left of it.
func deleteCluster(t *testing.T, vc *tenancyv1alpha1.VirtualCluster) {
	t.Helper()
	if err := super.Client.Delete(t.Context(), vc.DeepCopy()); err != nil && !apierrors.IsNotFound(err) {
		t.Fatal(err)
	}
	waitGone(t, vc)
	namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: tenantOf(vc).ControlPlaneNamespace()}}
	if err := super.Client.Get(t.Context(), client.ObjectKeyFromObject(namespace), namespace); !apierrors.IsNotFound(err) {
		t.Errorf("namespace %s is left (%v)", namespace.Name, err)
	}
}

func waitGone(t *testing.T, object client.Object) {
	t.Helper()
	eventually(t, func(ctx context.Context) error {
		err := super.Client.Get(ctx, client.ObjectKeyFromObject(object), object)
		if apierrors.IsNotFound(err) {
			return nil
		}
		if vc, ok := object.(*tenancyv1alpha1.VirtualCluster); ok && err == nil {
			return fmt.Errorf("%s is still there: %s", object.GetName(), conditionsText(vc))
		}
		return fmt.Errorf("%s is still there (%w)", object.GetName(), err)
	})
}

func waitReady(t *testing.T, vc *tenancyv1alpha1.VirtualCluster) metav1.Condition {
	t.Helper()
	return waitCondition(t, vc, tenancyv1alpha1.ConditionReady, metav1.ConditionTrue, reasonReady)
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
			namespace := tenantOf(vc).ControlPlaneNamespace()
			return fmt.Errorf("%s is not %s for %s:%s\n%s%s%s", condition, status, reason, conditionsText(vc),
				kubelet.log(namespace, controlplane.Etcd), kubelet.log(namespace, controlplane.APIServer), kubelet.log(namespace, controlplane.ControllerManager))
		}
		return nil
	})
	return *seen
}

func conditionsText(vc *tenancyv1alpha1.VirtualCluster) string {
	var text strings.Builder
	for _, c := range vc.Status.Conditions {
		fmt.Fprintf(&text, "\n%s %s %s: %s", c.Type, c.Status, c.Reason, c.Message)
	}
	return text.String()
}

// waitEvent waits for an event about a virtual cluster.
func waitEvent(t *testing.T, vc *tenancyv1alpha1.VirtualCluster, reason string) {
	t.Helper()
	eventually(t, func(ctx context.Context) error {
		var events eventsv1.EventList
		if err := super.Client.List(ctx, &events, client.InNamespace(vc.Namespace)); err != nil {
			return err
		}
		for _, event := range events.Items {
			if event.Regarding.UID == vc.UID && event.Reason == reason && event.Note != "" {
				return nil
			}
		}
		return fmt.Errorf("no event %s about %s", reason, vc.Name)
	})
}

// eventually polls until check succeeds.
func eventually(t *testing.T, check func(context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	var last error
	err := wait.PollUntilContextCancel(ctx, 50*time.Millisecond, true, func(ctx context.Context) (bool, error) {
		last = check(ctx)
		return last == nil, nil
	})
	if err != nil {
		t.Fatalf("%v: %v", err, last)
	}
}

func mustGet(t *testing.T, key client.ObjectKey, object client.Object) {
	t.Helper()
	if err := super.Client.Get(t.Context(), key, object); err != nil {
		t.Fatal(err)
	}
}

func getSecret(t *testing.T, vc *tenancyv1alpha1.VirtualCluster, name string) *corev1.Secret {
	t.Helper()
	secret := &corev1.Secret{}
	mustGet(t, client.ObjectKey{Namespace: tenantOf(vc).ControlPlaneNamespace(), Name: name}, secret)
	return secret
}

// podAnnotation is what makes a component's pods be replaced.
func podAnnotation(t *testing.T, vc *tenancyv1alpha1.VirtualCluster, component string) string {
	t.Helper()
	deployment := &appsv1.Deployment{}
	mustGet(t, client.ObjectKey{Namespace: tenantOf(vc).ControlPlaneNamespace(), Name: component}, deployment)
	return deployment.Spec.Template.Annotations[controlplane.AnnotationStartupFiles]
}

// restartManager stops vc-manager and starts another, which knows nothing yet.
func restartManager(t *testing.T) {
	t.Helper()
	withoutManager(t, func() {})
}

// withoutManager does something while no vc-manager runs.
func withoutManager(t *testing.T, do func()) {
	t.Helper()
	managerLock.Lock()
	defer managerLock.Unlock()
	manager.stop()
	defer func() {
		var err error
		// Not the test's context: it runs on for other tests.
		if manager, err = startManager(context.Background()); err != nil {
			panic(err)
		}
	}()
	do()
}
