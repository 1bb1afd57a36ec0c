package networkpolicy

import (
	"fmt"
	"net/netip"

	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/bulkhead-dev/bulkhead/internal/tenancy"
	"github.com/bulkhead-dev/bulkhead/internal/tenantnetwork"
	"github.com/bulkhead-dev/bulkhead/syncer/translation"
)

// fields lists what is known of a policy, so that a field of a newer API is noticed.
var fields = translation.NewAllowList[networkingv1.NetworkPolicySpec]("spec.", translation.Fields{
	"podSelector":                        translation.Pass,
	"policyTypes":                        translation.Pass,
	"ingress[].ports":                    translation.Handled,
	"ingress[].from[].podSelector":       translation.Handled,
	"ingress[].from[].namespaceSelector": translation.Handled,
	"ingress[].from[].ipBlock":           translation.Handled,
	"egress[].ports":                     translation.Handled,
	"egress[].to[].podSelector":          translation.Handled,
	"egress[].to[].namespaceSelector":    translation.Handled,
	"egress[].to[].ipBlock":              translation.Handled,
})

const (
	ruleReserved = "label %s is the platform's own"
	ruleBlock    = "only addresses outside of the platform's networks can be named; use a podSelector for pods"
)

// Translate returns the policy as it is created in the super cluster, without name,
// namespace and marks. It never lets pass more than the fence does: anything becomes
// anything that the fence lets pass, namespaces are the tenant's alone, and blocks
// lose what is denied.
func Translate(tenant translation.Tenant, networks tenantnetwork.Networks, policy *networkingv1.NetworkPolicy) (*networkingv1.NetworkPolicy, []translation.Finding) {
	in := policy.Spec.DeepCopy()
	_, findings := fields.Copy(*in)
	t := &translator{tenant: tenant, networks: networks, findings: findings}
	t.selector("spec.podSelector", &in.PodSelector)
	out := networkingv1.NetworkPolicySpec{PodSelector: in.PodSelector, PolicyTypes: in.PolicyTypes}
	for i, rule := range in.Ingress {
		field := fmt.Sprintf("spec.ingress[%d].from", i)
		if peers := t.peers(field, rule.From, networks.Inward, networks.BlockInward); len(peers) > 0 {
			out.Ingress = append(out.Ingress, networkingv1.NetworkPolicyIngressRule{Ports: rule.Ports, From: peers})
		}
	}
	for i, rule := range in.Egress {
		field := fmt.Sprintf("spec.egress[%d].to", i)
		if peers := t.peers(field, rule.To, networks.Outward, networks.BlockOutward); len(peers) > 0 {
			out.Egress = append(out.Egress, networkingv1.NetworkPolicyEgressRule{Ports: rule.Ports, To: peers})
		}
	}
	return &networkingv1.NetworkPolicy{Spec: out}, t.findings
}

// translator is the work on one policy.
type translator struct {
	tenant   translation.Tenant
	networks tenantnetwork.Networks
	findings []translation.Finding
}

// peers are those of one rule. Without any the rule is left out: in the API no peers
// mean all of them.
func (t *translator) peers(field string, in []networkingv1.NetworkPolicyPeer, outside func() []networkingv1.NetworkPolicyPeer,
	block func(netip.Prefix, []netip.Prefix) []networkingv1.NetworkPolicyPeer,
) []networkingv1.NetworkPolicyPeer {
	if len(in) == 0 {
		return append([]networkingv1.NetworkPolicyPeer{{NamespaceSelector: ownNamespaces(t.tenant.Tenant)}}, outside()...)
	}
	var out []networkingv1.NetworkPolicyPeer
	for i, peer := range in {
		at := fmt.Sprintf("%s[%d]", field, i)
		if peer.IPBlock != nil {
			out = append(out, t.block(at+".ipBlock", peer.IPBlock, block)...)
			continue
		}
		if peer.PodSelector == nil && peer.NamespaceSelector == nil {
			t.findings = append(t.findings, translation.Ignore(at, "names no peer that is known"))
			continue
		}
		to := networkingv1.NetworkPolicyPeer{PodSelector: peer.PodSelector}
		t.selector(at+".podSelector", peer.PodSelector)
		if peer.NamespaceSelector != nil {
			to.NamespaceSelector = translation.NamespaceSelector(t.tenant, peer.NamespaceSelector)
		}
		out = append(out, to)
	}
	return out
}

func (t *translator) block(field string, in *networkingv1.IPBlock, block func(netip.Prefix, []netip.Prefix) []networkingv1.NetworkPolicyPeer) []networkingv1.NetworkPolicyPeer {
	network, ok := parse(in.CIDR)
	if !ok {
		t.findings = append(t.findings, translation.Refuse(field+".cidr", "not a network"))
		return nil
	}
	var except []netip.Prefix
	for _, text := range in.Except {
		part, ok := parse(text)
		if !ok {
			t.findings = append(t.findings, translation.Refuse(field+".except", "not a network"))
			return nil
		}
		except = append(except, part)
	}
	peers := block(network, except)
	if len(peers) == 0 {
		t.findings = append(t.findings, translation.Ignore(field, ruleBlock))
	}
	return peers
}

func parse(text string) (netip.Prefix, bool) {
	prefix, err := netip.ParsePrefix(text)
	if err != nil || prefix.Addr().Is4In6() {
		return netip.Prefix{}, false
	}
	return prefix.Masked(), true
}

// selector refuses one that asks for our marks.
func (t *translator) selector(field string, in *metav1.LabelSelector) {
	if in == nil {
		return
	}
	refuse := func(key string) {
		if tenancy.Reserved(key) {
			t.findings = append(t.findings, translation.Refuse(field, fmt.Sprintf(ruleReserved, key)))
		}
	}
	for key := range in.MatchLabels {
		refuse(key)
	}
	for _, requirement := range in.MatchExpressions {
		refuse(requirement.Key)
	}
}
