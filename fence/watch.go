package main

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	toolscache "k8s.io/client-go/tools/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/bulkhead-dev/bulkhead/fence/links"
	"github.com/bulkhead-dev/bulkhead/fence/policy"
)

// watch has the model follow the super cluster, and returns when it knows all of it:
// what is in the kernel from before stays in force until then.
func (a *agent) watch(ctx context.Context) error {
	var filled []toolscache.InformerSynced
	for _, follow := range []struct {
		object   client.Object
		set, end func(object any)
	}{
		{&corev1.Namespace{}, a.setNamespace, a.deleteNamespace},
		{&corev1.Node{}, a.setNode, func(any) {}},
		{&networkingv1.NetworkPolicy{}, a.setPolicy, a.deletePolicy},
		{&corev1.Pod{}, a.setPod, a.deletePod},
	} {
		informer, err := a.manager.GetCache().GetInformer(ctx, follow.object)
		if err != nil {
			return fmt.Errorf("watching %T: %w", follow.object, err)
		}
		under := func(f func(object any)) func(any) {
			return func(object any) {
				if missed, ok := object.(toolscache.DeletedFinalStateUnknown); ok {
					object = missed.Obj
				}
				a.mu.Lock()
				f(object)
				a.mu.Unlock()
				a.touch()
			}
		}
		set, end := under(follow.set), under(follow.end)
		registration, err := informer.AddEventHandler(toolscache.ResourceEventHandlerFuncs{
			AddFunc: set, DeleteFunc: end, UpdateFunc: func(_, object any) { set(object) },
		})
		if err != nil {
			return fmt.Errorf("watching %T: %w", follow.object, err)
		}
		filled = append(filled, registration.HasSynced)
	}
	if !toolscache.WaitForCacheSync(ctx.Done(), filled...) {
		return ctx.Err()
	}
	return nil
}

func (a *agent) setNamespace(object any) {
	if namespace, ok := object.(*corev1.Namespace); ok {
		a.model.SetNamespace(namespace.Name, namespace.Labels)
	}
}

func (a *agent) deleteNamespace(object any) {
	if namespace, ok := object.(*corev1.Namespace); ok {
		a.model.DeleteNamespace(namespace.Name)
	}
}

// setPod follows a pod, which has no addresses before it runs and after it has ended.
func (a *agent) setPod(object any) {
	pod, ok := object.(*corev1.Pod)
	if !ok {
		return
	}
	name := client.ObjectKeyFromObject(pod)
	if known, has := policy.NewPod(pod, a.nodeName, a.announced.of(pod)); has {
		a.model.SetPod(known)
	} else {
		a.model.DeletePod(name)
	}
}

func (a *agent) deletePod(object any) {
	if pod, ok := object.(*corev1.Pod); ok {
		a.announced.forget(pod)
		a.model.DeletePod(client.ObjectKeyFromObject(pod))
	}
}

// setPolicy follows a policy, and remembers what of it cannot be enforced.
func (a *agent) setPolicy(object any) {
	p, ok := object.(*networkingv1.NetworkPolicy)
	if !ok {
		return
	}
	name := client.ObjectKeyFromObject(p)
	text := strings.Join(a.model.SetPolicy(p), "; ")
	before := a.problems[name]
	switch {
	case text == "":
		delete(a.problems, name)
	case before == nil || before.text != text || before.policy.UID != p.UID:
		a.problems[name] = &problem{policy: p, text: text}
	}
}

func (a *agent) deletePolicy(object any) {
	if p, ok := object.(*networkingv1.NetworkPolicy); ok {
		delete(a.problems, client.ObjectKeyFromObject(p))
		a.model.DeletePolicy(client.ObjectKeyFromObject(p))
	}
}

// problem is what of a policy cannot be enforced.
type problem struct {
	policy *networkingv1.NetworkPolicy
	text   string
	told   bool
}

// tellProblems tells the authors of policies, once, where they concern a pod of this
// node.
func (a *agent) tellProblems() {
	for name, p := range a.problems {
		if !p.told && a.model.Selects(name) {
			p.told = true
			a.recorder.Eventf(p.policy, nil, corev1.EventTypeWarning, "NotEnforced", "Enforce", "what the fence does not understand lets nothing pass: %s", p.text)
		}
	}
}

// setNode reads which addresses are given to this node's pods.
func (a *agent) setNode(object any) {
	node, ok := object.(*corev1.Node)
	if !ok {
		return
	}
	networks := a.networksGiven
	if len(networks) == 0 {
		for _, text := range node.Spec.PodCIDRs {
			if network, err := netip.ParsePrefix(text); err == nil {
				networks = append(networks, network.Masked())
			}
		}
	}
	if !slices.Equal(networks, a.networks) {
		a.networks = networks
		a.model.SetPodNetworks(networks)
	}
}

// watchLinks asks for the interfaces to be looked at whenever they change. What the
// kernel could not tell is found when its rules are verified.
func (a *agent) watchLinks(ctx context.Context) {
	for ctx.Err() == nil {
		if err := links.Watch(ctx, a.namespace, a.touch); err != nil {
			a.log.Error(err, "watching the node's interfaces; trying again")
		}
		a.touch()
		select {
		case <-ctx.Done():
		case <-time.After(time.Second):
		}
	}
}
