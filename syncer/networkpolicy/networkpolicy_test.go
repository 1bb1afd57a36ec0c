package networkpolicy

import (
	"flag"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/randfill"
	"sigs.k8s.io/yaml"

	"github.com/bulkhead-dev/bulkhead/internal/tenancy"
	"github.com/bulkhead-dev/bulkhead/internal/tenantnetwork"
	"github.com/bulkhead-dev/bulkhead/syncer/translation"
)

var update = flag.Bool("update", false, "write the golden files anew")

var demo = translation.Tenant{Tenant: tenancy.Tenant{UID: "vc-uid", Namespace: "team", Name: "demo"}}

func networks(t testing.TB) tenantnetwork.Networks {
	t.Helper()
	read := func(text string) []netip.Prefix {
		list, err := tenantnetwork.ParseNetworks(text)
		if err != nil {
			t.Fatal(err)
		}
		return list
	}
	return tenantnetwork.Networks{
		Denied: read(tenantnetwork.DefaultDenied), Allowed: read("10.9.0.0/16"), Pods: read("10.78.0.0/16,fd78::/48"),
		Resolvers: []netip.Addr{netip.MustParseAddr("10.77.0.10"), netip.MustParseAddr("fd77::10")},
	}
}

func golden(t *testing.T, name string, objects ...any) {
	t.Helper()
	var documents []string
	for _, object := range objects {
		data, err := yaml.Marshal(object)
		if err != nil {
			t.Fatal(err)
		}
		documents = append(documents, string(data))
	}
	got := strings.Join(documents, "---\n")
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatalf("%v: run the test with -update", err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s:\n%s", name, diff)
	}
}

func TestFence(t *testing.T) {
	var objects []any
	for _, policy := range Fence(demo.Tenant, networks(t)) {
		objects = append(objects, policy)
		if tenancy.SuperNetworkPolicy(policy.Name) == policy.Name {
			t.Errorf("a tenant's policy may be called %s too", policy.Name)
		}
	}
	golden(t, "fence.golden.yaml", objects...)
}

func read(t *testing.T, name string) *networkingv1.NetworkPolicy {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	var policy networkingv1.NetworkPolicy
	if err := yaml.UnmarshalStrict(data, &policy); err != nil {
		t.Fatal(err)
	}
	return &policy
}

func TestTranslate(t *testing.T) {
	in := read(t, "policy.in.yaml")
	before := in.DeepCopy()
	out, findings := Translate(demo, networks(t), in)
	golden(t, "policy.golden.yaml", out)
	want := "spec.egress[1].to[0].ipBlock: " + ruleBlock
	if got := translation.Summary(findings, false); got != want || translation.Refused(findings) {
		t.Errorf("findings %v", findings)
	}
	if diff := cmp.Diff(before, in); diff != "" {
		t.Errorf("the input was changed: %s", diff)
	}
}

func TestTranslateRefuses(t *testing.T) {
	ours := map[string]string{tenancy.LabelEgressIsolated: "true"}
	for name, spec := range map[string]networkingv1.NetworkPolicySpec{
		"our labels": {PodSelector: metav1.LabelSelector{MatchLabels: ours}},
		"our labels in a peer": {Ingress: []networkingv1.NetworkPolicyIngressRule{{From: []networkingv1.NetworkPolicyPeer{
			{PodSelector: &metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{{Key: tenancy.LabelTenant, Operator: metav1.LabelSelectorOpExists}}}},
		}}}},
		"no network": {Ingress: []networkingv1.NetworkPolicyIngressRule{{From: []networkingv1.NetworkPolicyPeer{{IPBlock: &networkingv1.IPBlock{CIDR: "x"}}}}}},
		"no exception": {Egress: []networkingv1.NetworkPolicyEgressRule{{To: []networkingv1.NetworkPolicyPeer{
			{IPBlock: &networkingv1.IPBlock{CIDR: "0.0.0.0/0", Except: []string{"y"}}},
		}}}},
	} {
		if _, findings := Translate(demo, networks(t), &networkingv1.NetworkPolicy{Spec: spec}); !translation.Refused(findings) {
			t.Errorf("%s: %v", name, findings)
		}
	}
}

func TestIsolation(t *testing.T) {
	in, out := tenancy.LabelIngressIsolated, tenancy.LabelEgressIsolated
	policy := func(app string, types ...networkingv1.PolicyType) networkingv1.NetworkPolicy {
		return networkingv1.NetworkPolicy{Spec: networkingv1.NetworkPolicySpec{PodSelector: metav1.LabelSelector{MatchLabels: map[string]string{"app": app}}, PolicyTypes: types}}
	}
	withEgress := policy("web")
	withEgress.Spec.Egress = []networkingv1.NetworkPolicyEgressRule{{}}
	for name, tc := range map[string]struct {
		policies []networkingv1.NetworkPolicy
		want     []string
	}{
		"none":           {nil, nil},
		"of others":      {[]networkingv1.NetworkPolicy{policy("db", networkingv1.PolicyTypeIngress)}, nil},
		"ingress":        {[]networkingv1.NetworkPolicy{policy("web", networkingv1.PolicyTypeIngress)}, []string{in}},
		"egress":         {[]networkingv1.NetworkPolicy{policy("db"), policy("web", networkingv1.PolicyTypeEgress)}, []string{out}},
		"two":            {[]networkingv1.NetworkPolicy{policy("web", networkingv1.PolicyTypeIngress), policy("web", networkingv1.PolicyTypeEgress)}, []string{out, in}},
		"by default":     {[]networkingv1.NetworkPolicy{policy("web")}, []string{in}},
		"by its content": {[]networkingv1.NetworkPolicy{withEgress}, []string{out, in}},
	} {
		super := &metav1.ObjectMeta{Labels: map[string]string{"app": "web", in: "true", out: "true"}}
		Isolate(super, Isolation(map[string]string{"app": "web"}, tc.policies))
		want := map[string]string{"app": "web"}
		for _, label := range tc.want {
			want[label] = "true"
		}
		if diff := cmp.Diff(want, super.Labels); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
	bare := &metav1.ObjectMeta{}
	Isolate(bare, map[string]string{in: "true"})
	if bare.Labels[in] != "true" {
		t.Errorf("labels %v", bare.Labels)
	}
}

// Whatever a tenant writes, its policy lets pass no more than the fence does.
func FuzzTranslate(f *testing.F) {
	f.Add([]byte("bytes that become a policy"))
	f.Fuzz(func(t *testing.T, data []byte) {
		in := &networkingv1.NetworkPolicy{}
		blocks := []string{"0.0.0.0/0", "10.0.0.0/8", "10.78.1.5/32", "203.0.113.0/24", "10.9.0.0/20", "::/0", "fd78::/64", "8.0.0.0/6", "x"}
		randfill.NewFromGoFuzz(data).NilChance(0.3).NumElements(0, 3).Funcs(func(block *networkingv1.IPBlock, c randfill.Continue) {
			block.CIDR = blocks[c.Intn(len(blocks))]
			for range c.Intn(3) {
				block.Except = append(block.Except, blocks[c.Intn(len(blocks))])
			}
		}).Fill(in)
		before := in.DeepCopy()
		n := networks(t)
		out, findings := Translate(demo, n, in)
		if !reflect.DeepEqual(before, in) {
			t.Errorf("the input was changed: %s", cmp.Diff(before, in))
		}
		if translation.Refused(findings) {
			return
		}
		for _, rule := range out.Spec.Ingress {
			fenced(t, rule.From, n.Pods, nil)
		}
		for _, rule := range out.Spec.Egress {
			fenced(t, rule.To, n.Denied, n.Allowed)
		}
		Isolation(map[string]string{"a": "b"}, []networkingv1.NetworkPolicy{*in})
	})
}

// fenced makes sure that peers are the tenant's, or outside of what is denied.
func fenced(t *testing.T, peers []networkingv1.NetworkPolicyPeer, denied, allowed []netip.Prefix) {
	t.Helper()
	if len(peers) == 0 {
		t.Error("a rule without peers is for all")
	}
	for _, peer := range peers {
		switch {
		case peer.NamespaceSelector != nil:
			if peer.NamespaceSelector.MatchLabels[tenancy.LabelTenant] != "vc-uid" {
				t.Errorf("namespaces %v", peer.NamespaceSelector)
			}
		case peer.IPBlock != nil:
			block := netip.MustParsePrefix(peer.IPBlock.CIDR)
			within := func(p netip.Prefix) bool { return p.Bits() <= block.Bits() && p.Contains(block.Addr()) }
			if slices.ContainsFunc(allowed, within) {
				continue
			}
			for _, network := range denied {
				excepted := slices.ContainsFunc(peer.IPBlock.Except, func(text string) bool {
					except := netip.MustParsePrefix(text)
					return except.Bits() <= network.Bits() && except.Contains(network.Addr())
				})
				if network.Overlaps(block) && !excepted {
					t.Errorf("block %+v reaches %s", peer.IPBlock, network)
				}
			}
		case peer.PodSelector == nil:
			t.Error("a peer that is nobody")
		}
	}
}
