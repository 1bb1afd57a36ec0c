package nft_test

import (
	"testing"
)

const denyAll = `
metadata: {name: deny}
spec: {podSelector: {}, policyTypes: [Ingress, Egress]}`

// The rules of NetworkPolicies, by packets. "a > b" passes, "a x b" is dropped.
func TestPolicies(t *testing.T) {
	f := newField(t)
	for _, tc := range []struct {
		name   string
		policy string
		flows  []string
	}{
		{"none", "", []string{
			"a > b tcp/80", "a > c tcp/80", "a > x udp/53", "x > a tcp/80", "a > world tcp/80", "world > a tcp/80",
			"a > node-1 tcp/80", "a > node-2 tcp/80", "node-1 > a tcp/80", "node-2 > a tcp/80", "a > metadata tcp/80",
		}},
		{"default deny", denyAll, []string{
			"a x b tcp/80", "a x c udp/53", "x x a tcp/80", "a x x tcp/80", "world x a tcp/80", "a x world tcp/80",
			"a x node-1 tcp/80", "a x node-2 udp/53", "a x metadata tcp/80", "node-2 x a tcp/80",
			"node-1 > a tcp/80", "node-1 > b udp/80", "node-2 > c tcp/80", // probes
			"x > world tcp/80", "world > x tcp/80",
		}},
		{"deny ingress only", `
metadata: {name: deny}
spec: {podSelector: {matchLabels: {app: a}}, policyTypes: [Ingress]}`, []string{
			"b x a tcp/80", "c x a tcp/80", "world x a tcp/80", "a > b tcp/80", "a > world tcp/80", "b > c tcp/80",
		}},
		{"allow all ingress over deny", denyAll + `
---
metadata: {name: allow}
spec: {podSelector: {matchLabels: {app: a}}, ingress: [{}]}`, []string{
			"x > a tcp/80", "world > a udp/53", "b x a tcp/80", "x x b tcp/80", "a x x tcp/80",
		}},
		{"from pods", `
metadata: {name: allow}
spec: {podSelector: {matchLabels: {app: a}}, ingress: [{from: [{podSelector: {matchLabels: {app: c}}}]}]}`, []string{
			"c > a tcp/80", "b x a tcp/80", "x x a tcp/80", "world x a tcp/80",
		}},
		{"from a namespace", `
metadata: {name: allow}
spec: {podSelector: {matchLabels: {app: a}}, ingress: [{from: [{namespaceSelector: {matchLabels: {team: blue}}}]}]}`, []string{
			"x > a tcp/80", "b x a tcp/80", "c x a udp/53",
		}},
		{"from pods of a namespace", `
metadata: {name: allow}
spec: {podSelector: {matchLabels: {app: a}}, ingress: [{from: [{namespaceSelector: {}, podSelector: {matchExpressions: [{key: app, operator: In, values: [b, x]}]}}]}]}`, []string{
			"x > a tcp/80", "b > a tcp/80", "c x a tcp/80", "world x a tcp/80",
		}},
		{"from a block", `
metadata: {name: allow}
spec: {podSelector: {matchLabels: {app: a}}, ingress: [{from: [{ipBlock: {cidr: 203.0.113.0/24}}, {ipBlock: {cidr: "2001:db8::/32"}}]}]}`, []string{
			"world > a tcp/80", "b x a tcp/80", "c x a tcp/80",
		}},
		{"everything but a block", `
metadata: {name: allow}
spec: {podSelector: {matchLabels: {app: a}}, policyTypes: [Egress], egress: [{to: [
  {ipBlock: {cidr: 0.0.0.0/0, except: [10.0.0.0/8, 172.16.0.0/12, 169.254.0.0/16]}}, {ipBlock: {cidr: "::/0", except: ["fc00::/7", "fe80::/10"]}}]}]}`, []string{
			"a > world tcp/80", "a x metadata tcp/80", "a x b tcp/80", "a x c tcp/80", "a x node-1 tcp/80", "a x node-2 tcp/80", "b > a tcp/80",
		}},
		{"ports", `
metadata: {name: allow}
spec: {podSelector: {matchLabels: {app: a}}, ingress: [{ports: [{port: 80}, {port: 53, protocol: UDP}]}]}`, []string{
			"b > a tcp/80", "b x a tcp/81", "b > a udp/53", "b x a udp/80", "world > a tcp/80",
		}},
		{"a range of ports from pods", `
metadata: {name: allow}
spec: {podSelector: {matchLabels: {app: a}}, ingress: [{from: [{podSelector: {matchLabels: {app: b}}}], ports: [{port: 80, endPort: 443}]}]}`, []string{
			"b > a tcp/80", "b > a tcp/81", "b > a tcp/443", "b x a tcp/8080", "b x a udp/80", "c x a tcp/80",
		}},
		{"a port's name", `
metadata: {name: allow}
spec: {podSelector: {matchLabels: {app: a}}, ingress: [{ports: [{port: web}]}]}`, []string{
			"b > a tcp/8080", "c > a tcp/8080", "b x a tcp/80",
		}},
		{"a port's name, out", `
metadata: {name: allow}
spec: {podSelector: {matchLabels: {app: a}}, policyTypes: [Egress], egress: [{to: [{podSelector: {}}], ports: [{port: web}, {port: dns, protocol: UDP}]}]}`, []string{
			"a > c tcp/8080", "a > b udp/53", "a x b tcp/80", "a x x tcp/8080", "a x world tcp/8080",
		}},
		{"a protocol", `
metadata: {name: allow}
spec: {podSelector: {matchLabels: {app: a}}, ingress: [{ports: [{protocol: UDP}]}]}`, []string{
			"b > a udp/53", "b > a udp/80", "b x a tcp/80",
		}},
		{"egress to pods", `
metadata: {name: allow}
spec: {podSelector: {matchLabels: {app: a}}, policyTypes: [Egress], egress: [{to: [{podSelector: {matchLabels: {app: c}}}], ports: [{port: 80}]}]}`, []string{
			"a > c tcp/80", "a x c tcp/81", "a x b tcp/80", "a x world tcp/80", "a x node-1 tcp/80", "b > a tcp/80",
		}},
		{"both ends have to agree", `
metadata: {name: out}
spec: {podSelector: {matchLabels: {app: a}}, policyTypes: [Egress], egress: [{to: [{podSelector: {}}]}]}
---
metadata: {name: in}
spec: {podSelector: {matchLabels: {app: b}}, ingress: [{from: [{podSelector: {matchLabels: {app: c}}}]}]}`, []string{
			"a x b tcp/80", "a > c tcp/80", "c > b tcp/80", "x x b tcp/80",
		}},
		{"rules add up", `
metadata: {name: first}
spec: {podSelector: {matchLabels: {app: a}}, ingress: [{from: [{podSelector: {matchLabels: {app: b}}}]}]}
---
metadata: {name: second}
spec: {podSelector: {}, ingress: [{from: [{podSelector: {matchLabels: {app: c}}}], ports: [{port: 81}]}, {from: [{namespaceSelector: {matchLabels: {team: blue}}}], ports: [{port: 443}]}]}`, []string{
			"b > a tcp/80", "c > a tcp/81", "c x a tcp/80", "x > a tcp/443", "x x a tcp/81", "c > b tcp/81", "a x b tcp/80",
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f := f.with(t, tc.policy)
			for _, flow := range tc.flows {
				f.check(flow)
			}
			for _, n := range f.nodes {
				drift, err := n.kernel.Verify()
				check(t, err)
				if len(drift) > 0 {
					t.Errorf("%s: %q", n.name, drift)
				}
			}
			f.forget()
		})
	}
}
