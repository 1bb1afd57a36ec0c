package controller

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	tenancyv1alpha1 "github.com/bulkhead-dev/bulkhead/api/tenancy/v1alpha1"
	"github.com/bulkhead-dev/bulkhead/internal/tenancy"
	"github.com/bulkhead-dev/bulkhead/vc-manager/certificates"
	"github.com/bulkhead-dev/bulkhead/vc-manager/controlplane"
)

// A virtual cluster's names come from its UID, so what is in its way has to be put
// there after it exists: while it waits for its class, or no vc-manager runs.

func TestForeignNamespace(t *testing.T) {
	t.Parallel()
	vc := newCluster(t, "taken", "class-of-taken")
	waitCondition(t, vc, tenancyv1alpha1.ConditionReady, metav1.ConditionFalse, tenancyv1alpha1.ReasonClassNotFound)
	theirs := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: tenantOf(vc).ControlPlaneNamespace()}}
	if err := super.Client.Create(t.Context(), theirs); err != nil {
		t.Fatal(err)
	}
	newClassNamed(t, "class-of-taken", nil)
	taken := waitCondition(t, vc, tenancyv1alpha1.ConditionNamespaceReady, metav1.ConditionFalse, tenancyv1alpha1.ReasonNameTaken)
	if !strings.Contains(taken.Message, theirs.Name) {
		t.Errorf("message %q", taken.Message)
	}
	waitCondition(t, vc, tenancyv1alpha1.ConditionReady, metav1.ConditionFalse, tenancyv1alpha1.ReasonNameTaken)
	waitEvent(t, vc, tenancyv1alpha1.ReasonNameTaken)
	var secrets corev1.SecretList
	if err := super.Client.List(t.Context(), &secrets, client.InNamespace(theirs.Name)); err != nil || len(secrets.Items) > 0 {
		t.Errorf("%d secrets were put there (%v)", len(secrets.Items), err)
	}
	// Its deletion leaves theirs alone.
	if err := super.Client.Delete(t.Context(), vc.DeepCopy()); err != nil {
		t.Fatal(err)
	}
	waitGone(t, vc)
	after := &corev1.Namespace{}
	mustGet(t, client.ObjectKeyFromObject(theirs), after)
	if after.UID != theirs.UID || !after.DeletionTimestamp.IsZero() || len(after.Annotations) > 0 {
		t.Errorf("their namespace was touched: %+v", after.ObjectMeta)
	}
}

func TestForeignObjectInTheNamespace(t *testing.T) {
	t.Parallel()
	for name, theirs := range map[string]client.Object{
		"a service":   &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: tenancy.APIServerService}, Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 1}}}},
		"a ConfigMap": &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: controlplane.APIServer}, Data: map[string]string{"authentication.yaml": "anonymous for all"}},
		"an authority": &corev1.Secret{
			ObjectMeta: metav1.ObjectMeta{Name: certificates.ClusterCA}, Data: map[string][]byte{"tls.crt": []byte("a CA somebody else holds the key of")},
		},
		"a kubeconfig of another tenant": &corev1.Secret{ObjectMeta: metav1.ObjectMeta{
			Name: tenancy.AdminKubeconfigSecret, Labels: map[string]string{tenancy.LabelTenant: "other", tenancy.LabelManagedBy: tenancy.ManagedByManager},
		}},
	} {
		t.Run(name, func(t *testing.T) {
			class := newClass(t, nil)
			var vc *tenancyv1alpha1.VirtualCluster
			withoutManager(t, func() {
				vc = newCluster(t, "intruded", class)
				namespace := controlplane.Namespace(controlplane.Input{Tenant: tenantOf(vc)})
				if err := super.Client.Create(t.Context(), namespace); err != nil {
					t.Fatal(err)
				}
				theirs.SetNamespace(namespace.Name)
				if err := super.Client.Create(t.Context(), theirs); err != nil {
					t.Fatal(err)
				}
			})
			taken := waitCondition(t, vc, tenancyv1alpha1.ConditionReady, metav1.ConditionFalse, tenancyv1alpha1.ReasonNameTaken)
			if !strings.Contains(taken.Message, theirs.GetName()) {
				t.Errorf("message %q", taken.Message)
			}
			waitEvent(t, vc, tenancyv1alpha1.ReasonNameTaken)
			version := theirs.GetResourceVersion()
			mustGet(t, client.ObjectKeyFromObject(theirs), theirs)
			if theirs.GetResourceVersion() != version {
				t.Errorf("their object was changed: %v", theirs)
			}
		})
	}
}

// A namespace that held a tenant's data and is gone is not replaced by an empty one.
func TestLostControlPlane(t *testing.T) {
	t.Parallel()
	vc := newCluster(t, "lost", "class-of-lost")
	waitCondition(t, vc, tenancyv1alpha1.ConditionReady, metav1.ConditionFalse, tenancyv1alpha1.ReasonClassNotFound)
	if err := super.Client.Status().Patch(t.Context(), vc, client.RawPatch("application/merge-patch+json", []byte(`{"status":{"version":"v1.36.3"}}`))); err != nil {
		t.Fatal(err)
	}
	newClassNamed(t, "class-of-lost", nil)
	lost := waitCondition(t, vc, tenancyv1alpha1.ConditionNamespaceReady, metav1.ConditionFalse, reasonControlPlaneLost)
	if !strings.Contains(lost.Message, "backup") {
		t.Errorf("message %q", lost.Message)
	}
	waitEvent(t, vc, reasonControlPlaneLost)
	deleteCluster(t, vc)
}
