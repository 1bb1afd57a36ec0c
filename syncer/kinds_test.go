package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	tenancyv1alpha1 "github.com/bulkhead-dev/bulkhead/api/tenancy/v1alpha1"
	"github.com/bulkhead-dev/bulkhead/internal/tenancy"
	"github.com/bulkhead-dev/bulkhead/internal/testenv"
)

// All twelve kinds, each in its direction, around one pod.
func TestTwelveKinds(t *testing.T) {
	ctx := t.Context()
	class := &storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: "twelve"}, Provisioner: "example.com/none", Parameters: map[string]string{"secret": "x"}}
	must(t, super.Client.Create(ctx, class))
	t.Cleanup(func() { _ = super.Client.Delete(context.Background(), class) })
	startSyncer(t)
	tn := newTenant(t, 0, func(c *tenancyv1alpha1.VirtualClusterClass) { c.Spec.StorageClasses = []string{"twelve"} }).synced()
	node := newNode(t, "node-twelve")
	ns := tn.namespace("twelve")
	superNS := tn.SuperNamespace(ns)

	// StorageClass, up.
	up := waitFor(t, tn.client, "", "twelve", &storagev1.StorageClass{}, nil)
	if up.Provisioner != tenancy.OpaqueDriver || len(up.Parameters) != 0 {
		t.Errorf("the tenant sees provisioner %s, parameters %v", up.Provisioner, up.Parameters)
	}

	config := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "config"}, Data: map[string]string{"k": "1"}}
	unused := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "unused"}}
	secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "secret"}, Data: map[string][]byte{"k": []byte("s")}}
	claim := &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "data"}, Spec: corev1.PersistentVolumeClaimSpec{
		AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}, StorageClassName: &class.Name,
		Resources: corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: quantity("1Gi")}},
	}}
	service := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "web"}, Spec: corev1.ServiceSpec{
		Selector: map[string]string{"app": "web"}, Ports: []corev1.ServicePort{{Port: 80}}, ExternalIPs: []string{"203.0.113.9"},
	}}
	manual := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "manual"}, Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 80}}}}
	endpoints := &corev1.Endpoints{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "manual"}, Subsets: []corev1.EndpointSubset{{
		Addresses: []corev1.EndpointAddress{{IP: "198.51.100.1"}}, Ports: []corev1.EndpointPort{{Port: 80}},
	}}}
	balancer := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "lb"}, Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeLoadBalancer, Ports: []corev1.ServicePort{{Port: 80}}}}
	for _, object := range []client.Object{config, unused, secret, claim, service, manual, endpoints, balancer} {
		must(t, tn.client.Create(ctx, object))
	}
	pod := newPod(ns, "web")
	pod.Spec.Containers[0].EnvFrom = []corev1.EnvFromSource{{ConfigMapRef: &corev1.ConfigMapEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: "config"}}}}
	pod.Spec.Volumes = []corev1.Volume{
		{Name: "secret", VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "secret"}}},
		{Name: "data", VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "data"}}},
	}
	must(t, tn.client.Create(ctx, pod))

	// Namespace, Pod, ServiceAccount, ConfigMap, Secret, down.
	down := tn.superPod(pod)
	namespace := waitFor(t, super.Client, "", superNS, &corev1.Namespace{}, nil)
	if namespace.Labels["pod-security.kubernetes.io/enforce"] != "baseline" {
		t.Errorf("labels of the namespace %v", namespace.Labels)
	}
	account := waitFor(t, super.Client, superNS, "default-tenant", &corev1.ServiceAccount{}, nil)
	if account.AutomountServiceAccountToken == nil || *account.AutomountServiceAccountToken {
		t.Error("the super cluster would mount its own token")
	}
	waitFor(t, super.Client, superNS, "config", &corev1.ConfigMap{}, nil)
	waitFor(t, super.Client, superNS, "secret", &corev1.Secret{}, nil)
	waitFor(t, super.Client, superNS, "kube-root-ca.crt-tenant", &corev1.ConfigMap{}, func(c *corev1.ConfigMap) error {
		if c.Data["ca.crt"] != string(tn.cluster.CA.Cert) {
			return errors.New("it is not the CA of the tenant's cluster")
		}
		return nil
	})
	tn.checkToken(pod, down)

	// Service and Endpoints, down.
	headless := waitFor(t, super.Client, superNS, "web", &corev1.Service{}, nil)
	if headless.Spec.ClusterIP != corev1.ClusterIPNone || headless.Annotations[tenancy.AnnotationClusterIPs] != service.Spec.ClusterIP || len(headless.Spec.ExternalIPs) > 0 {
		t.Errorf("service %+v %v", headless.Spec, headless.Annotations)
	}
	tn.waitEvent(service, "IgnoredByPlatform", "spec.externalIPs")
	waitFor(t, super.Client, superNS, "manual", &corev1.Endpoints{}, func(e *corev1.Endpoints) error {
		if len(e.Subsets) != 1 || e.Subsets[0].Addresses[0].IP != "198.51.100.1" {
			return fmt.Errorf("subsets %+v", e.Subsets)
		}
		return nil
	})
	balanced := waitFor(t, super.Client, superNS, "lb", &corev1.Service{}, nil)
	testenv.ChangeStatus(t, super.Client, balanced, func() {
		balanced.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: "198.51.100.99"}}
	})
	waitFor(t, tn.client, ns, "lb", &corev1.Service{}, func(s *corev1.Service) error {
		if len(s.Status.LoadBalancer.Ingress) != 1 || s.Status.LoadBalancer.Ingress[0].IP != "198.51.100.99" {
			return fmt.Errorf("status %+v", s.Status)
		}
		return nil
	})

	// PersistentVolumeClaim down, PersistentVolume up, bound by the tenant's own controller.
	superClaim := waitFor(t, super.Client, superNS, "data", &corev1.PersistentVolumeClaim{}, nil)
	volume := &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: "pv-twelve"}, Spec: corev1.PersistentVolumeSpec{
		Capacity: superClaim.Spec.Resources.Requests, AccessModes: superClaim.Spec.AccessModes, StorageClassName: class.Name,
		PersistentVolumeReclaimPolicy: corev1.PersistentVolumeReclaimRetain,
		PersistentVolumeSource:        corev1.PersistentVolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: "/srv/x"}},
		ClaimRef:                      &corev1.ObjectReference{Namespace: superNS, Name: "data", UID: superClaim.UID},
	}}
	must(t, super.Client.Create(ctx, volume))
	t.Cleanup(func() { _ = super.Client.Delete(context.Background(), volume) })
	waitFor(t, tn.client, ns, "data", &corev1.PersistentVolumeClaim{}, func(c *corev1.PersistentVolumeClaim) error {
		if size := c.Status.Capacity[corev1.ResourceStorage]; c.Status.Phase != corev1.ClaimBound || c.Spec.VolumeName != "pv-twelve" || size.String() != "1Gi" {
			return fmt.Errorf("status %+v, volume %s", c.Status, c.Spec.VolumeName)
		}
		return nil
	})
	virtual := waitFor(t, tn.client, "", "pv-twelve", &corev1.PersistentVolume{}, nil)
	if virtual.Spec.HostPath != nil || virtual.Spec.CSI.VolumeHandle != string(volume.UID) {
		t.Errorf("the tenant sees volume source %+v", virtual.Spec.PersistentVolumeSource)
	}

	// Node and Event, up.
	schedule(t, down, node.Name)
	waitFor(t, tn.client, "", node.Name, &corev1.Node{}, nil)
	must(t, super.Client.Create(ctx, &corev1.Event{
		ObjectMeta:     metav1.ObjectMeta{Namespace: superNS, Name: "web.1"},
		InvolvedObject: corev1.ObjectReference{APIVersion: "v1", Kind: "Pod", Namespace: superNS, Name: "web", UID: down.UID},
		Reason:         "Pulled", Message: "pulled for " + superNS + "/web", Type: corev1.EventTypeNormal, Count: 1, LastTimestamp: metav1.Now(),
	}))
	tn.waitEvent(pod, "Pulled", "pulled for twelve/web")

	// Changes go down; what is added by others stays.
	testenv.Change(t, tn.client, config, func() { config.Data["k"] = "2" })
	waitFor(t, super.Client, superNS, "config", &corev1.ConfigMap{}, func(c *corev1.ConfigMap) error {
		if c.Data["k"] != "2" {
			return fmt.Errorf("data %v", c.Data)
		}
		return nil
	})
	tn.relabel(pod, map[string]string{"tier": "x"})
	waitFor(t, super.Client, superNS, "web", &corev1.Pod{}, func(p *corev1.Pod) error {
		if p.Labels["tier"] != "x" || p.Labels["app"] != "" || p.Labels[tenancy.LabelTenant] == "" {
			return fmt.Errorf("labels %v", p.Labels)
		}
		return nil
	})
	if err := super.Client.Get(ctx, client.ObjectKey{Namespace: superNS, Name: "unused"}, &corev1.ConfigMap{}); err == nil {
		t.Error("a ConfigMap that no pod refers to went down")
	}

	// What no pod refers to any more goes; the rest goes with the namespace.
	must(t, tn.client.Delete(ctx, pod, client.GracePeriodSeconds(1)))
	waitFor(t, super.Client, superNS, "web", down, func(p *corev1.Pod) error {
		if p.DeletionTimestamp == nil {
			return errors.New("it is not being deleted")
		}
		return nil
	})
	endPod(t, down)
	waitGone(t, super.Client, superNS, "config", &corev1.ConfigMap{})
	waitGone(t, super.Client, superNS, "secret", &corev1.Secret{})
	waitGone(t, super.Client, superNS, "tokens-"+string(pod.UID), &corev1.Secret{})
	must(t, tn.client.Delete(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: ns}}))
	waitGone(t, super.Client, "", superNS, &corev1.Namespace{})
}

// checkToken makes sure that the super pod gets a token that the tenant's own
// apiserver takes for that very pod.
func (tn *tenant) checkToken(pod, down *corev1.Pod) {
	tn.t.Helper()
	secret := waitFor(tn.t, super.Client, down.Namespace, "tokens-"+string(pod.UID), &corev1.Secret{}, func(s *corev1.Secret) error {
		if len(s.Data) != 1 || len(s.OwnerReferences) != 1 || s.OwnerReferences[0].UID != down.UID {
			return fmt.Errorf("%d tokens, owners %v", len(s.Data), s.OwnerReferences)
		}
		return nil
	})
	for _, token := range secret.Data {
		review := &authenticationv1.TokenReview{Spec: authenticationv1.TokenReviewSpec{Token: string(token)}}
		must(tn.t, tn.client.Create(tn.t.Context(), review))
		user := review.Status.User
		if !review.Status.Authenticated || user.Username != "system:serviceaccount:"+pod.Namespace+":default" ||
			!slices.Contains(user.Extra["authentication.kubernetes.io/pod-uid"], string(pod.UID)) {
			tn.t.Errorf("the tenant's apiserver says %+v", review.Status)
		}
	}
}

func (tn *tenant) relabel(pod *corev1.Pod, labels map[string]string) {
	tn.t.Helper()
	live := pod.DeepCopy()
	testenv.Change(tn.t, tn.client, live, func() { live.Labels = labels })
}
