package main

import (
	"context"
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	tenancyv1alpha1 "github.com/bulkhead-dev/bulkhead/api/tenancy/v1alpha1"
	"github.com/bulkhead-dev/bulkhead/internal/tenancy"
	"github.com/bulkhead-dev/bulkhead/internal/testenv"
)

// A refused pod says why where its author looks, takes nothing of its own down, and
// goes down once the class permits it.
func TestRefusedPod(t *testing.T) {
	startSyncer(t)
	tn := newTenant(t, 0, nil).synced()
	ctx := t.Context()
	ns := tn.namespace("refused")
	must(t, tn.client.Create(ctx, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "mine"}}))
	yes := true
	privileged := newPod(ns, "privileged")
	privileged.Spec.Containers[0].SecurityContext = &corev1.SecurityContext{Privileged: &yes}
	privileged.Spec.ImagePullSecrets = []corev1.LocalObjectReference{{Name: "mine"}}
	forged := newPod(ns, "forged")
	forged.Annotations = map[string]string{tenancy.AnnotationUID: "other"}
	placed := newPod(ns, "placed")
	placed.Spec.NodeName = "somewhere"
	odd := newPod(ns, "odd")
	odd.Spec.PriorityClassName = "system-cluster-critical"
	for _, pod := range []*corev1.Pod{privileged, forged, placed, odd} {
		must(t, client.IgnoreAlreadyExists(tn.client.Create(ctx, pod)))
	}
	tn.waitEvent(privileged, "RefusedByPlatform", "pod security standard baseline: privileged")
	tn.waitEvent(forged, "RefusedByPlatform", "metadata.annotations["+tenancy.AnnotationUID+"]")
	tn.waitEvent(placed, "RefusedByPlatform", "spec.nodeName")
	tn.waitEvent(odd, "IgnoredByPlatform", "spec.priorityClassName")
	tn.superPod(odd)
	superNS := tn.SuperNamespace(ns)
	for _, name := range []string{"privileged", "forged", "placed"} {
		if err := super.Client.Get(ctx, client.ObjectKey{Namespace: superNS, Name: name}, &corev1.Pod{}); !apierrors.IsNotFound(err) {
			t.Errorf("pod %s is in the super cluster: %v", name, err)
		}
	}
	if err := super.Client.Get(ctx, client.ObjectKey{Namespace: superNS, Name: "mine"}, &corev1.Secret{}); !apierrors.IsNotFound(err) {
		t.Errorf("the Secret of a refused pod is in the super cluster: %v", err)
	}

	class := &tenancyv1alpha1.VirtualClusterClass{ObjectMeta: metav1.ObjectMeta{Name: tn.Name}}
	testenv.Change(t, super.Client, class, func() { class.Spec.PodSecurity = tenancyv1alpha1.PodSecurityPrivileged })
	tn.superPod(privileged)
	waitFor(t, super.Client, superNS, "mine", &corev1.Secret{}, nil)
}

// What is in the way and not ours is neither adopted nor changed; the tenant is
// told, and it goes on by itself when the obstacle has gone.
func TestForeignObjectsAreNotAdopted(t *testing.T) {
	startSyncer(t)
	tn := newTenant(t, 0, nil).synced()
	ctx := t.Context()
	ns := tn.namespace("foreign")
	superNS := tn.SuperNamespace(ns)
	foreign := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: superNS}}
	must(t, super.Client.Create(ctx, foreign))
	pod := newPod(ns, "web")
	must(t, tn.client.Create(ctx, pod))
	tn.waitEvent(pod, "NameTaken", superNS)
	must(t, super.Client.Get(ctx, client.ObjectKeyFromObject(foreign), foreign))
	if len(foreign.Annotations) > 0 || foreign.Labels[tenancy.LabelTenant] != "" {
		t.Errorf("the foreign namespace was marked: %+v", foreign.ObjectMeta)
	}
	must(t, super.Client.Delete(ctx, foreign))
	tn.superPod(pod)

	// The same for an object in the super namespace, and for one of another tenant.
	for name, labels := range map[string]map[string]string{
		"plain": nil, "others": {tenancy.LabelTenant: "another", tenancy.LabelManagedBy: tenancy.ManagedBySyncer},
	} {
		object := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: superNS, Name: name, Labels: labels}, Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 1}}}}
		must(t, super.Client.Create(ctx, object))
		service := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name}, Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 80}}}}
		must(t, tn.client.Create(ctx, service))
		tn.waitEvent(service, "NameTaken", name)
		must(t, tn.client.Delete(ctx, service))
		live := &corev1.Service{}
		must(t, super.Client.Get(ctx, client.ObjectKeyFromObject(object), live))
		if live.UID != object.UID || live.Spec.Ports[0].Port != 1 || live.DeletionTimestamp != nil {
			t.Errorf("%s was changed: %+v", name, live)
		}
	}
}

// What the super cluster does not accept is told in the tenant's words, tried again,
// and goes through once the cause has gone.
func TestNotAcceptedBySuperCluster(t *testing.T) {
	startSyncer(t)
	tn := newTenant(t, 0, nil).synced()
	ctx := t.Context()
	ns := tn.namespace("quota")
	superNS := tn.SuperNamespace(ns)
	first := newPod(ns, "first")
	must(t, tn.client.Create(ctx, first))
	tn.superPod(first)
	quota := &corev1.ResourceQuota{ObjectMeta: metav1.ObjectMeta{Namespace: superNS, Name: "q"}, Spec: corev1.ResourceQuotaSpec{Hard: corev1.ResourceList{corev1.ResourcePods: quantity("1")}}}
	must(t, super.Client.Create(ctx, quota))
	waitFor(t, super.Client, superNS, "q", quota, func(q *corev1.ResourceQuota) error {
		if used := q.Status.Used[corev1.ResourcePods]; used.String() != "1" {
			return fmt.Errorf("used %v", q.Status.Used)
		}
		return nil
	})
	second := newPod(ns, "second")
	must(t, tn.client.Create(ctx, second))
	event := tn.waitEvent(second, "NotAcceptedByPlatform", "exceeded quota")
	if strings.Contains(event.Message, superNS) {
		t.Errorf("the tenant reads the super namespace's name: %s", event.Message)
	}
	must(t, super.Client.Delete(ctx, quota))
	tn.superPod(second)
}

// Two tenants with the same names run side by side; deleting one takes all that
// carries its UID, and nothing else.
func TestSameNamesInTwoTenants(t *testing.T) {
	startSyncer(t)
	one, two := newTenant(t, 0, nil).synced(), newTenant(t, 1, nil).synced()
	ctx := t.Context()
	node := newNode(t, "node-same")
	downs := map[*tenant]*corev1.Pod{}
	for _, tn := range []*tenant{one, two} {
		ns := tn.namespace("same")
		must(t, tn.client.Create(ctx, &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "web"}, Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 80}}}}))
		pod := newPod(ns, "web")
		if tn == two {
			downs[tn] = tn.runBound(pod, node.Name)
			continue
		}
		must(t, tn.client.Create(ctx, pod))
		downs[tn] = tn.superPod(pod) // no kubelet has to end it
	}
	vc := &tenancyv1alpha1.VirtualCluster{ObjectMeta: metav1.ObjectMeta{Namespace: one.Namespace, Name: one.Name}}
	must(t, super.Client.Delete(ctx, vc))
	waitGone(t, super.Client, one.Namespace, one.Name, vc)
	for _, list := range []client.ObjectList{
		&corev1.NamespaceList{}, &corev1.PodList{}, &corev1.ServiceList{}, &corev1.SecretList{}, &corev1.ConfigMapList{},
		&corev1.ServiceAccountList{}, &corev1.EndpointsList{}, &corev1.PersistentVolumeClaimList{},
	} {
		must(t, super.Client.List(ctx, list, client.MatchingLabels{tenancy.LabelTenant: string(one.UID), tenancy.LabelManagedBy: tenancy.ManagedBySyncer}))
		if count := countOf(t, list); count > 0 {
			t.Errorf("%d objects of the deleted tenant are left in %T", count, list)
		}
	}
	if live := waitFor(t, super.Client, downs[two].Namespace, "web", &corev1.Pod{}, nil); live.UID != downs[two].UID || live.DeletionTimestamp != nil {
		t.Error("the other tenant's pod was touched")
	}
	waitFor(t, two.client, "same", "web", &corev1.Pod{}, func(p *corev1.Pod) error {
		if p.DeletionTimestamp != nil || p.Status.Phase != corev1.PodRunning {
			return fmt.Errorf("%+v", p.Status)
		}
		return nil
	})
	_ = one.client.Delete(context.Background(), newPod("same", "web"), client.GracePeriodSeconds(0))
}
