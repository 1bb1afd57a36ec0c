package main

import (
	"errors"
	"fmt"
	"testing"

	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	corev1 "k8s.io/api/core/v1"

	"github.com/bulkhead-dev/bulkhead/internal/tenancy"
	"github.com/bulkhead-dev/bulkhead/internal/testenv"
)

var fencePolicies = []string{tenancy.FenceDeny, tenancy.FenceIngress, tenancy.FenceEgress, tenancy.FenceAlways}

func newPolicy(namespace, name, app string, types ...networkingv1.PolicyType) *networkingv1.NetworkPolicy {
	return &networkingv1.NetworkPolicy{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name},
		Spec:       networkingv1.NetworkPolicySpec{PodSelector: metav1.LabelSelector{MatchLabels: map[string]string{"app": app}}, PolicyTypes: types},
	}
}

// A super namespace has its fence before the first pod, and keeps it.
func TestFenceComesFirstAndStays(t *testing.T) {
	ctx := t.Context()
	startSyncer(t)
	tn := newTenant(t, 0, nil).synced()
	pod := newPod(tn.namespace("fenced"), "web")
	must(t, tn.client.Create(ctx, pod))
	down := tn.superPod(pod)
	created := map[string]*networkingv1.NetworkPolicy{}
	for _, name := range fencePolicies {
		policy := &networkingv1.NetworkPolicy{}
		if err := super.Client.Get(ctx, client.ObjectKey{Namespace: down.Namespace, Name: name}, policy); err != nil {
			t.Fatalf("the pod is there, and its fence is not: %v", err)
		}
		if err := tenancy.CheckOwned(policy, tn.Tenant, tenancy.ManagedBySyncer, name); err != nil {
			t.Error(err)
		}
		if policy.CreationTimestamp.After(down.CreationTimestamp.Time) {
			t.Errorf("%s came after the pod", name)
		}
		created[name] = policy
	}
	open := created[tenancy.FenceDeny].DeepCopy()
	testenv.Change(t, super.Client, open, func() {
		open.Spec = networkingv1.NetworkPolicySpec{Ingress: []networkingv1.NetworkPolicyIngressRule{{}}}
	})
	must(t, super.Client.Delete(ctx, created[tenancy.FenceEgress]))
	waitFor(t, super.Client, down.Namespace, tenancy.FenceDeny, &networkingv1.NetworkPolicy{}, func(p *networkingv1.NetworkPolicy) error {
		if len(p.Spec.Ingress) != 0 || len(p.Spec.PolicyTypes) != 2 {
			return fmt.Errorf("spec %+v", p.Spec)
		}
		return nil
	})
	waitFor(t, super.Client, down.Namespace, tenancy.FenceEgress, &networkingv1.NetworkPolicy{}, func(p *networkingv1.NetworkPolicy) error {
		if p.UID == created[tenancy.FenceEgress].UID {
			return errors.New("it is the old one")
		}
		return nil
	})
}

// A tenant's own policies go down, and the pods they select are told apart from the
// moment they are made.
func TestNetworkPolicies(t *testing.T) {
	ctx := t.Context()
	startSyncer(t)
	tn := newTenant(t, 0, nil).synced()
	ns := tn.namespace("policies")
	superNS := tn.SuperNamespace(ns)
	first := newPod(ns, "web")
	must(t, tn.client.Create(ctx, first))
	labelled := func(name string, in, out string) {
		t.Helper()
		waitFor(t, super.Client, superNS, name, &corev1.Pod{}, func(p *corev1.Pod) error {
			if p.Labels[tenancy.LabelIngressIsolated] != in || p.Labels[tenancy.LabelEgressIsolated] != out {
				return fmt.Errorf("labels %v", p.Labels)
			}
			return nil
		})
	}
	tn.superPod(first)
	labelled("web", "", "")

	// Called like one of the fence's own, which it must not replace.
	policy := newPolicy(ns, tenancy.FenceDeny, "web", networkingv1.PolicyTypeIngress)
	policy.Spec.Ingress = []networkingv1.NetworkPolicyIngressRule{{From: []networkingv1.NetworkPolicyPeer{
		{NamespaceSelector: &metav1.LabelSelector{}}, {IPBlock: &networkingv1.IPBlock{CIDR: "0.0.0.0/0"}},
	}}}
	must(t, tn.client.Create(ctx, policy))
	down := waitFor(t, super.Client, superNS, tenancy.FenceDeny+"-tenant", &networkingv1.NetworkPolicy{}, nil)
	if got := down.Spec.Ingress[0].From[0].NamespaceSelector.MatchLabels[tenancy.LabelTenant]; got != string(tn.UID) {
		t.Errorf("the policy is about namespaces of %q", got)
	}
	labelled("web", "true", "")

	// At creation.
	second := newPod(ns, "other")
	second.Labels = map[string]string{"app": "web"}
	must(t, tn.client.Create(ctx, second))
	if made := tn.superPod(second); made.Labels[tenancy.LabelIngressIsolated] != "true" {
		t.Errorf("made with labels %v", made.Labels)
	}

	testenv.Change(t, tn.client, policy, func() {
		policy.Spec.PolicyTypes = []networkingv1.PolicyType{networkingv1.PolicyTypeEgress}
		policy.Spec.Ingress = nil
	})
	labelled("web", "", "true")
	labelled("other", "", "true")
	tn.relabel(second, map[string]string{"app": "db"})
	labelled("other", "", "")
	must(t, tn.client.Delete(ctx, policy))
	labelled("web", "", "")
	waitGone(t, super.Client, superNS, tenancy.FenceDeny+"-tenant", &networkingv1.NetworkPolicy{})

	// What is refused or narrowed is told to its author; what was to be closed is.
	refused := newPolicy(ns, "refused", "web", networkingv1.PolicyTypeIngress)
	refused.Spec.PodSelector.MatchExpressions = []metav1.LabelSelectorRequirement{{Key: tenancy.LabelIngressIsolated, Operator: metav1.LabelSelectorOpDoesNotExist}}
	must(t, tn.client.Create(ctx, refused))
	tn.waitEvent(refused, "RefusedByPlatform", "the platform's own")
	labelled("web", "true", "")
	if err := super.Client.Get(ctx, client.ObjectKey{Namespace: superNS, Name: "refused"}, &networkingv1.NetworkPolicy{}); err == nil {
		t.Error("a refused policy went down")
	}
	narrowed := newPolicy(ns, "narrowed", "web", networkingv1.PolicyTypeEgress)
	narrowed.Spec.Egress = []networkingv1.NetworkPolicyEgressRule{{To: []networkingv1.NetworkPolicyPeer{{IPBlock: &networkingv1.IPBlock{CIDR: "169.254.169.254/32"}}}}}
	must(t, tn.client.Create(ctx, narrowed))
	tn.waitEvent(narrowed, "IgnoredByPlatform", "spec.egress[0].to[0].ipBlock")
	waitFor(t, super.Client, superNS, "narrowed", &networkingv1.NetworkPolicy{}, func(p *networkingv1.NetworkPolicy) error {
		if len(p.Spec.Egress) != 0 {
			return fmt.Errorf("egress %+v", p.Spec.Egress)
		}
		return nil
	})
}
