package controller

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	tenancyv1alpha1 "github.com/bulkhead-dev/bulkhead/api/tenancy/v1alpha1"
	"github.com/bulkhead-dev/bulkhead/internal/kubeconfig"
	"github.com/bulkhead-dev/bulkhead/internal/tenancy"
	"github.com/bulkhead-dev/bulkhead/internal/testenv"
	"github.com/bulkhead-dev/bulkhead/vc-manager/certificates"
	"github.com/bulkhead-dev/bulkhead/vc-manager/controlplane"
)

// TestLife takes one virtual cluster with real processes through its life. The steps
// build on each other: starting a control plane is what takes time.
func TestLife(t *testing.T) {
	t.Parallel()
	vc := newCluster(t, "life", newClass(t, func(spec *tenancyv1alpha1.VirtualClusterClassSpec) {
		spec.Nodes = tenancyv1alpha1.NodesSpec{Mode: tenancyv1alpha1.NodesSelected, Selector: &metav1.LabelSelector{}}
		spec.Scheduling = tenancyv1alpha1.ScheduledByTenant
	}))
	namespace := tenantOf(vc).ControlPlaneNamespace()
	kubelet.serve(namespace)
	for _, step := range []struct {
		name string
		do   func(*testing.T, *tenancyv1alpha1.VirtualCluster)
	}{
		{"becomes ready", becomesReady},
		{"the admin's kubeconfig works", adminKubeconfigWorks},
		{"the components' kubeconfigs are limited", componentKubeconfigsAreLimited},
		{"a restart of vc-manager changes nothing", restartChangesNothing},
		{"drift is set right", driftIsSetRight},
		{"certificates are renewed", certificatesAreRenewed},
		{"an apiserver that is killed comes back", killedAPIServerComesBack},
		{"a scheduler that the class has no more goes", unwantedSchedulerGoes},
		{"a deleted class changes nothing", deletedClassChangesNothing},
		{"a lost authority is not replaced", lostAuthorityIsNotReplaced},
		{"a lost volume is no new cluster", lostVolumeIsNoNewCluster},
		{"is deleted", func(t *testing.T, vc *tenancyv1alpha1.VirtualCluster) { deleteCluster(t, vc) }},
	} {
		if !t.Run(step.name, func(t *testing.T) { step.do(t, vc) }) {
			t.Fatal("the next steps build on this one")
		}
	}
}

func becomesReady(t *testing.T, vc *tenancyv1alpha1.VirtualCluster) {
	waitReady(t, vc)
	for _, condition := range ours {
		waitCondition(t, vc, condition, metav1.ConditionTrue, reasonReady)
	}
	waitEvent(t, vc, "Ready")
	if !strings.HasPrefix(vc.Status.Version, "v1.") || vc.Status.ControlPlaneNamespace != tenantOf(vc).ControlPlaneNamespace() {
		t.Errorf("status %+v", vc.Status)
	}
}

// tenantClient is a client with the kubeconfig of a Secret, through the Service.
func tenantClient(t *testing.T, vc *tenancyv1alpha1.VirtualCluster, secret string) client.Client {
	t.Helper()
	config, err := kubeconfig.RESTConfig(getSecret(t, vc, secret).Data[tenancy.KubeconfigKey])
	if err != nil {
		t.Fatal(err)
	}
	service := &corev1.Service{}
	mustGet(t, client.ObjectKey{Namespace: tenantOf(vc).ControlPlaneNamespace(), Name: tenancy.APIServerService}, service)
	if secret == tenancy.AdminKubeconfigSecret && config.Host != vc.Status.Endpoint {
		t.Errorf("the admin's server is %s, the endpoint is %s", config.Host, vc.Status.Endpoint)
	}
	config.Dial = kubelet.toService(service)
	c, err := client.New(config, client.Options{Scheme: testenv.Scheme()})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func adminKubeconfigWorks(t *testing.T, vc *tenancyv1alpha1.VirtualCluster) {
	admin := tenantClient(t, vc, tenancy.AdminKubeconfigSecret)
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "first"},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "x", Image: "x"}}},
	}
	if err := admin.Create(t.Context(), pod); err != nil {
		t.Error(err)
	}
	// The tenant's pods find the apiserver at the address it advertises.
	var service corev1.Service
	if err := admin.Get(t.Context(), client.ObjectKey{Namespace: "default", Name: "kubernetes"}, &service); err != nil || service.Spec.ClusterIP != "10.96.0.1" {
		t.Errorf("service kubernetes has %s (%v)", service.Spec.ClusterIP, err)
	}
}

func unwantedSchedulerGoes(t *testing.T, vc *tenancyv1alpha1.VirtualCluster) {
	class := &tenancyv1alpha1.VirtualClusterClass{ObjectMeta: metav1.ObjectMeta{Name: vc.Spec.ClassName}}
	testenv.Change(t, super.Client, class, func() { class.Spec.Scheduling = tenancyv1alpha1.ScheduledBySuper })
	eventually(t, func(ctx context.Context) error {
		err := super.Client.Get(ctx, client.ObjectKey{Namespace: tenantOf(vc).ControlPlaneNamespace(), Name: controlplane.Scheduler}, &appsv1.Deployment{})
		if !apierrors.IsNotFound(err) {
			return fmt.Errorf("the scheduler is still there: error %w", err)
		}
		// Nor does anything of it stay, its keys least of all.
		for object, name := range map[client.Object]string{
			&networkingv1.NetworkPolicy{}: controlplane.Scheduler, &policyv1.PodDisruptionBudget{}: controlplane.Scheduler,
			&corev1.Secret{}: certificates.SchedulerServing, &corev1.Secret{}: certificates.SchedulerKubeconfig,
		} {
			if err := super.Client.Get(ctx, client.ObjectKey{Namespace: tenantOf(vc).ControlPlaneNamespace(), Name: name}, object); !apierrors.IsNotFound(err) {
				return fmt.Errorf("%T %s is still there: error %w", object, name, err)
			}
		}
		if err := super.Client.Get(ctx, client.ObjectKeyFromObject(vc), vc); err != nil {
			return err
		}
		if condition := meta.FindStatusCondition(vc.Status.Conditions, tenancyv1alpha1.ConditionSchedulerReady); condition != nil {
			return fmt.Errorf("condition %+v", condition)
		}
		if !meta.IsStatusConditionTrue(vc.Status.Conditions, tenancyv1alpha1.ConditionReady) {
			return fmt.Errorf("conditions %+v", vc.Status.Conditions)
		}
		return nil
	})
}

func componentKubeconfigsAreLimited(t *testing.T, vc *tenancyv1alpha1.VirtualCluster) {
	for _, secret := range []string{tenancy.SyncerKubeconfigSecret, tenancy.VNAgentKubeconfigSecret, tenancy.TenantProxyKubeconfigSecret} {
		err := tenantClient(t, vc, secret).Create(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "x"}})
		if !apierrors.IsForbidden(err) {
			t.Errorf("%s may create a ConfigMap: %v", secret, err)
		}
	}
	var pods corev1.PodList
	if err := tenantClient(t, vc, tenancy.SyncerKubeconfigSecret).List(t.Context(), &pods); err != nil || len(pods.Items) == 0 {
		t.Errorf("the syncer sees %d pods (%v)", len(pods.Items), err)
	}
	if err := tenantClient(t, vc, tenancy.VNAgentKubeconfigSecret).List(t.Context(), &pods); !apierrors.IsForbidden(err) {
		t.Errorf("vn-agent may list pods: %v", err)
	}
}

// secretData is the content of all Secrets of a virtual cluster.
func secretData(t *testing.T, vc *tenancyv1alpha1.VirtualCluster) map[string]string {
	t.Helper()
	var secrets corev1.SecretList
	if err := super.Client.List(t.Context(), &secrets, client.InNamespace(tenantOf(vc).ControlPlaneNamespace())); err != nil {
		t.Fatal(err)
	}
	data := map[string]string{}
	for _, secret := range secrets.Items {
		data[secret.Name] = fmt.Sprint(secret.ResourceVersion, secret.Data)
	}
	return data
}

func restartChangesNothing(t *testing.T, vc *tenancyv1alpha1.VirtualCluster) {
	before := secretData(t, vc)
	transition := waitReady(t, vc).LastTransitionTime
	restartManager(t)
	// It has looked at everything once it has set right what was deleted here.
	forced := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: tenantOf(vc).ControlPlaneNamespace(), Name: controlplane.APIServer}}
	if err := super.Client.Delete(t.Context(), forced); err != nil {
		t.Fatal(err)
	}
	restartManager(t)
	eventually(t, func(ctx context.Context) error {
		return super.Client.Get(ctx, client.ObjectKeyFromObject(forced), forced)
	})
	if after := secretData(t, vc); !maps.Equal(before, after) {
		t.Error("a restart of vc-manager changed Secrets")
	}
	if ready := waitReady(t, vc); !ready.LastTransitionTime.Equal(&transition) {
		t.Errorf("Ready since %s, before the restart since %s", ready.LastTransitionTime, transition)
	}
}

func driftIsSetRight(t *testing.T, vc *tenancyv1alpha1.VirtualCluster) {
	service := &corev1.Service{}
	key := client.ObjectKey{Namespace: tenantOf(vc).ControlPlaneNamespace(), Name: tenancy.APIServerService}
	mustGet(t, key, service)
	testenv.Change(t, super.Client, service, func() { service.Spec.Selector = map[string]string{"app": "evil"} }, client.FieldOwner("somebody"))
	eventually(t, func(ctx context.Context) error {
		if err := super.Client.Get(ctx, key, service); err != nil {
			return err
		}
		if service.Spec.Selector["app.kubernetes.io/name"] != controlplane.APIServer {
			return fmt.Errorf("selector %v", service.Spec.Selector)
		}
		return nil
	})
}

// certificatesAreRenewed moves the clock of vc-manager on by nine months.
func certificatesAreRenewed(t *testing.T, vc *tenancyv1alpha1.VirtualCluster) {
	before := secretData(t, vc)
	template := podAnnotation(t, vc, controlplane.ControllerManager)
	clockAhead.Store(int64(9 * 30 * 24 * time.Hour))
	defer clockAhead.Store(0)
	restartManager(t)
	eventually(t, func(context.Context) error {
		for name, content := range secretData(t, vc) {
			authority := strings.HasSuffix(name, "-ca") || name == certificates.ServiceAccountKey
			if unchanged := content == before[name]; unchanged != authority {
				return fmt.Errorf("secret %s unchanged: %v", name, unchanged)
			}
		}
		if podAnnotation(t, vc, controlplane.ControllerManager) == template {
			return fmt.Errorf("controller-manager is not restarted for its new kubeconfig")
		}
		return nil
	})
	clockAhead.Store(0)
	restartManager(t)
	waitReady(t, vc)
	adminStill := tenantClient(t, vc, tenancy.AdminKubeconfigSecret)
	if err := adminStill.Get(t.Context(), client.ObjectKey{Name: "default"}, &corev1.Namespace{}); err != nil {
		t.Errorf("the renewed kubeconfig: %v", err)
	}
}

func killedAPIServerComesBack(t *testing.T, vc *tenancyv1alpha1.VirtualCluster) {
	namespace := tenantOf(vc).ControlPlaneNamespace()
	kubelet.pause(namespace)
	kubelet.kill(t, namespace, controlplane.APIServer)
	waitCondition(t, vc, tenancyv1alpha1.ConditionAPIServerReady, metav1.ConditionFalse, reasonWaiting)
	waitCondition(t, vc, tenancyv1alpha1.ConditionReady, metav1.ConditionFalse, reasonWaiting)
	waitEvent(t, vc, "NotReady")
	kubelet.serve(namespace)
	waitReady(t, vc)
}

func deletedClassChangesNothing(t *testing.T, vc *tenancyv1alpha1.VirtualCluster) {
	class := &tenancyv1alpha1.VirtualClusterClass{ObjectMeta: metav1.ObjectMeta{Name: vc.Spec.ClassName}}
	mustGet(t, client.ObjectKeyFromObject(class), class)
	if err := super.Client.Delete(t.Context(), class); err != nil {
		t.Fatal(err)
	}
	waitCondition(t, vc, tenancyv1alpha1.ConditionReady, metav1.ConditionTrue, tenancyv1alpha1.ReasonClassNotFound)
	waitEvent(t, vc, tenancyv1alpha1.ReasonClassNotFound)
	// And it is looked after: what is deleted comes back.
	restartManager(t)
	secret := getSecret(t, vc, certificates.EtcdPeer)
	if err := super.Client.Delete(t.Context(), secret); err != nil {
		t.Fatal(err)
	}
	restartManager(t)
	eventually(t, func(ctx context.Context) error {
		return super.Client.Get(ctx, client.ObjectKeyFromObject(secret), &corev1.Secret{})
	})
	// The class comes back, with a change: the control plane follows.
	again := newClassNamed(t, class.Name, func(spec *tenancyv1alpha1.VirtualClusterClassSpec) {
		spec.Exposure = tenancyv1alpha1.ExposureSpec{Type: tenancyv1alpha1.ExposeNodePort, Host: "demo.example.org"}
	})
	eventually(t, func(ctx context.Context) error {
		if err := super.Client.Get(ctx, client.ObjectKeyFromObject(vc), vc); err != nil {
			return err
		}
		if !strings.HasPrefix(vc.Status.Endpoint, "https://demo.example.org:") {
			return fmt.Errorf("class %s: endpoint %s", again, vc.Status.Endpoint)
		}
		return nil
	})
	// An apiserver that shows the new certificate takes the place of the old.
	waitReady(t, vc)
	config, err := kubeconfig.RESTConfig(getSecret(t, vc, tenancy.AdminKubeconfigSecret).Data[tenancy.KubeconfigKey])
	if err != nil {
		t.Fatal(err)
	}
	if config.Host != vc.Status.Endpoint {
		t.Errorf("the admin's kubeconfig leads to %s, the endpoint is %s", config.Host, vc.Status.Endpoint)
	}
}

func lostAuthorityIsNotReplaced(t *testing.T, vc *tenancyv1alpha1.VirtualCluster) {
	secret := getSecret(t, vc, certificates.ClusterCA)
	if err := super.Client.Delete(t.Context(), secret.DeepCopy()); err != nil {
		t.Fatal(err)
	}
	restartManager(t)
	lost := waitCondition(t, vc, tenancyv1alpha1.ConditionCertificatesReady, metav1.ConditionFalse, reasonAuthorityLost)
	if !strings.Contains(lost.Message, certificates.ClusterCA) {
		t.Errorf("message %q", lost.Message)
	}
	waitEvent(t, vc, reasonAuthorityLost)
	// Restored from a backup, all is well again.
	secret.ResourceVersion, secret.UID = "", ""
	if err := super.Client.Create(t.Context(), secret); err != nil {
		t.Fatal(err)
	}
	waitReady(t, vc)
}

// lostVolumeIsNoNewCluster empties etcd's volume while etcd is down.
func lostVolumeIsNoNewCluster(t *testing.T, vc *tenancyv1alpha1.VirtualCluster) {
	namespace := tenantOf(vc).ControlPlaneNamespace()
	kubelet.pause(namespace)
	kubelet.kill(t, namespace, controlplane.Etcd)
	data := filepath.Join(kubelet.dir, namespace, "etcd-0", "data")
	if err := os.Rename(data, data+".lost"); err != nil {
		t.Fatal(err)
	}
	kubelet.serve(namespace)
	waitCondition(t, vc, tenancyv1alpha1.ConditionReady, metav1.ConditionFalse, reasonWaiting)
	eventually(t, func(context.Context) error {
		if text := kubelet.log(namespace, controlplane.Etcd); !strings.Contains(text, "cannot fetch cluster info") {
			return fmt.Errorf("etcd says: %s", text)
		}
		return nil
	})
	// The volume is found again.
	kubelet.pause(namespace)
	if err := os.RemoveAll(data); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(data+".lost", data); err != nil {
		t.Fatal(err)
	}
	kubelet.serve(namespace)
	waitReady(t, vc)
	if err := tenantClient(t, vc, tenancy.AdminKubeconfigSecret).Get(t.Context(), client.ObjectKey{Namespace: "default", Name: "first"}, &corev1.Pod{}); err != nil {
		t.Errorf("the tenant's data: %v", err)
	}
}
