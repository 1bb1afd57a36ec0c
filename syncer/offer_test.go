package main

import (
	"context"
	"errors"
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	nodev1 "k8s.io/api/node/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	tenancyv1alpha1 "github.com/bulkhead-dev/bulkhead/api/tenancy/v1alpha1"
)

// Classes of the super cluster come up where the tenant's class lists them, without what
// is the platform's own matter; pods that name them go down with them, and to the
// super cluster's own admission.
func TestOfferedClasses(t *testing.T) {
	ctx := t.Context()
	never, preempt := corev1.PreemptNever, corev1.PreemptLowerPriority
	named := func(name string) metav1.ObjectMeta { return metav1.ObjectMeta{Name: name} }
	gold := func(value int32) *schedulingv1.PriorityClass {
		return &schedulingv1.PriorityClass{ObjectMeta: named("offer-gold"), Value: value, PreemptionPolicy: &never}
	}
	overhead := &nodev1.Overhead{PodFixed: corev1.ResourceList{corev1.ResourceMemory: quantity("64Mi")}}
	for _, object := range []client.Object{
		gold(1000),
		&schedulingv1.PriorityClass{ObjectMeta: named("offer-bully"), Value: 2000, PreemptionPolicy: &preempt},
		&nodev1.RuntimeClass{ObjectMeta: named("offer-gvisor"), Handler: "runsc", Overhead: overhead},
		&nodev1.RuntimeClass{ObjectMeta: named("offer-other"), Handler: "runc"},
		&networkingv1.IngressClass{ObjectMeta: named("offer-public"), Spec: networkingv1.IngressClassSpec{Controller: "example.com/ingress"}},
	} {
		must(t, super.Client.Create(ctx, object))
		t.Cleanup(func() { _ = super.Client.Delete(context.Background(), object) })
	}
	startSyncer(t)
	tn := newTenant(t, 0, func(c *tenancyv1alpha1.VirtualClusterClass) {
		c.Spec.RuntimeClasses = []string{"offer-gvisor"}
		c.Spec.PriorityClasses = []string{"offer-gold", "offer-bully"}
		c.Spec.IngressClasses = []string{"offer-public"}
	}).synced()
	t.Cleanup(func() {
		for _, object := range []client.Object{
			gold(0), &nodev1.RuntimeClass{ObjectMeta: named("offer-gvisor")}, &networkingv1.IngressClass{ObjectMeta: named("offer-public")},
		} {
			_ = tn.client.Delete(context.Background(), object)
		}
	})
	runtime := waitFor(t, tn.client, "", "offer-gvisor", &nodev1.RuntimeClass{}, nil)
	ingress := waitFor(t, tn.client, "", "offer-public", &networkingv1.IngressClass{}, nil)
	waitFor(t, tn.client, "", "offer-gold", &schedulingv1.PriorityClass{}, nil)
	if runtime.Handler == "runsc" || runtime.Overhead == nil || ingress.Spec.Controller == "example.com/ingress" {
		t.Errorf("the tenant sees %+v and %+v", runtime, ingress.Spec)
	}

	ns := tn.namespace("offer")
	pod := newPod(ns, "offered")
	pod.Spec.RuntimeClassName, pod.Spec.PriorityClassName = &runtime.Name, "offer-gold"
	must(t, tn.client.Create(ctx, pod))
	down := tn.superPod(pod)
	if down.Spec.RuntimeClassName == nil || *down.Spec.RuntimeClassName != runtime.Name || *down.Spec.Priority != 1000 || *down.Spec.PreemptionPolicy != never {
		t.Errorf("runtime class %v, priority %v, preemption %v", down.Spec.RuntimeClassName, *down.Spec.Priority, *down.Spec.PreemptionPolicy)
	}
	if memory := down.Spec.Overhead[corev1.ResourceMemory]; memory.String() != "64Mi" {
		t.Errorf("overhead %v", down.Spec.Overhead)
	}

	// One that is listed and preempts stays away, as what is not listed does.
	for name, object := range map[string]client.Object{"offer-bully": &schedulingv1.PriorityClass{}, "offer-other": &nodev1.RuntimeClass{}} {
		if err := tn.client.Get(ctx, client.ObjectKey{Name: name}, object); !apierrors.IsNotFound(err) {
			t.Errorf("the tenant sees %s: %v", name, err)
		}
	}
	own := &nodev1.RuntimeClass{ObjectMeta: named("offer-other"), Handler: "mine"}
	bully := &schedulingv1.PriorityClass{ObjectMeta: named("offer-bully"), Value: 1}
	for _, object := range []client.Object{own, bully} {
		must(t, tn.client.Create(ctx, object))
		t.Cleanup(func() { _ = tn.client.Delete(context.Background(), object) })
	}
	foreign, bullied := newPod(ns, "foreign"), newPod(ns, "bullied")
	foreign.Spec.RuntimeClassName, bullied.Spec.PriorityClassName = &own.Name, bully.Name
	must(t, tn.client.Create(ctx, bullied))
	must(t, tn.client.Create(ctx, foreign))
	tn.waitEvent(foreign, "RefusedByPlatform", "spec.runtimeClassName: the class of the virtual cluster does not offer this RuntimeClass")
	tn.waitEvent(bullied, "IgnoredByPlatform", "only with preemptionPolicy Never")
	if down := tn.superPod(bullied); *down.Spec.Priority != 0 {
		t.Errorf("priority %d", *down.Spec.Priority)
	}

	// What cannot change in place is made anew; what is offered no more goes.
	must(t, super.Client.Delete(ctx, gold(0)))
	waitGone(t, tn.client, "", "offer-gold", &schedulingv1.PriorityClass{})
	must(t, super.Client.Create(ctx, gold(3000)))
	waitFor(t, tn.client, "", "offer-gold", &schedulingv1.PriorityClass{}, func(c *schedulingv1.PriorityClass) error {
		if c.Value != 3000 {
			return fmt.Errorf("value %d", c.Value)
		}
		return nil
	})
	class := &tenancyv1alpha1.VirtualClusterClass{ObjectMeta: named(tn.Name)}
	change(t, class, func(c *tenancyv1alpha1.VirtualClusterClass) {
		c.Spec.RuntimeClasses, c.Spec.PriorityClasses, c.Spec.IngressClasses = nil, nil, nil
	})
	waitGone(t, tn.client, "", "offer-gvisor", &nodev1.RuntimeClass{})
	waitGone(t, tn.client, "", "offer-gold", &schedulingv1.PriorityClass{})
	waitGone(t, tn.client, "", "offer-public", &networkingv1.IngressClass{})
	waitFor(t, super.Client, down.Namespace, down.Name, down, func(p *corev1.Pod) error {
		if p.DeletionTimestamp != nil {
			return errors.New("a pod that runs was taken away")
		}
		return nil
	})
}
