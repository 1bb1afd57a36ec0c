package policy

import (
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/randfill"
)

// fuzzed makes a policy that may say anything, with some parts that make sense.
func fuzzed(data []byte) *networkingv1.NetworkPolicy {
	in := &networkingv1.NetworkPolicy{}
	randfill.NewFromGoFuzz(data).NilChance(0.3).NumElements(0, 4).Funcs(
		func(block *networkingv1.IPBlock, c randfill.Continue) {
			some := append([]string{"", "1.2.3.4", "::ffff:10.0.0.0/104", "::ffff:0:0/64", "10.0.0.1/32"}, blocks...)
			block.CIDR = some[c.Intn(len(some))]
			for range c.Intn(4) {
				block.Except = append(block.Except, some[c.Intn(len(some))])
			}
		},
		func(kind *networkingv1.PolicyType, c randfill.Continue) {
			*kind = []networkingv1.PolicyType{"Ingress", "Egress", "Both"}[c.Intn(3)]
		},
		func(port *intstr.IntOrString, c randfill.Continue) {
			*port = []intstr.IntOrString{intstr.FromInt32(80), intstr.FromInt32(-1), intstr.FromInt32(70000), intstr.FromString("web"), intstr.FromString("")}[c.Intn(5)]
		},
	).Fill(in)
	in.Namespace = namespaceNames[0]
	return in
}
