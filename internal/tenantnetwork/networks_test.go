package tenantnetwork

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	networkingv1 "k8s.io/api/networking/v1"
)

func networks(t testing.TB, text string) []netip.Prefix {
	t.Helper()
	list, err := ParseNetworks(text)
	if err != nil {
		t.Fatal(err)
	}
	return list
}

// text writes peers as "network-except-except".
func text(peers []networkingv1.NetworkPolicyPeer) string {
	var out []string
	for _, peer := range peers {
		out = append(out, strings.Join(append([]string{peer.IPBlock.CIDR}, peer.IPBlock.Except...), "-"))
	}
	return strings.Join(out, " ")
}

func TestParse(t *testing.T) {
	for in, complaint := range map[string]string{
		"": "", DefaultDenied: "", " 10.0.0.0/8, ::/0,": "",
		"10.0.0.1/8": "write 10.0.0.0/8", "10.0.0.0": "no network", "x": "no network", "::ffff:10.0.0.0/104": "inside a network",
	} {
		if _, err := ParseNetworks(in); (err == nil) != (complaint == "") || (err != nil && !strings.Contains(err.Error(), complaint)) {
			t.Errorf("%q: %v", in, err)
		}
	}
	for in, good := range map[string]bool{"": true, "10.0.0.1,fd00::1": true, "10.0.0.0/8": false, "fe80::1%eth0": false, "dns.example": false} {
		if _, err := ParseAddresses(in); (err == nil) != good {
			t.Errorf("%q: %v", in, err)
		}
	}
}

func TestBlocks(t *testing.T) {
	n := Networks{Denied: networks(t, "10.0.0.0/8,192.168.0.0/16,fc00::/7"), Pods: networks(t, "10.78.0.0/16"), Allowed: networks(t, "10.9.0.0/16")}
	for name, tc := range map[string]struct{ got, want string }{
		"outward":                 {text(n.Outward()), "0.0.0.0/0-10.0.0.0/8-192.168.0.0/16 10.9.0.0/16 ::/0-fc00::/7"},
		"inward":                  {text(n.Inward()), "0.0.0.0/0-10.78.0.0/16 ::/0"},
		"without pods' networks":  {text(Networks{Denied: n.Denied}.Inward()), "0.0.0.0/0-10.0.0.0/8-192.168.0.0/16 ::/0-fc00::/7"},
		"nothing set":             {text(Networks{}.Outward()), "0.0.0.0/0 ::/0"},
		"a public block":          {text(n.BlockOutward(netip.MustParsePrefix("203.0.113.0/24"), networks(t, "203.0.113.128/25"))), "203.0.113.0/24-203.0.113.128/25"},
		"a denied block":          {text(n.BlockOutward(netip.MustParsePrefix("10.1.0.0/16"), nil)), ""},
		"an allowed block":        {text(n.BlockOutward(netip.MustParsePrefix("10.9.1.0/24"), networks(t, "10.9.1.7/32"))), "10.9.1.0/24-10.9.1.7/32"},
		"around an allowed block": {text(n.BlockOutward(netip.MustParsePrefix("10.0.0.0/8"), networks(t, "10.9.0.0/24"))), "10.9.0.0/16-10.9.0.0/24"},
		"an excepted allowed one": {text(n.BlockOutward(netip.MustParsePrefix("10.0.0.0/8"), networks(t, "10.8.0.0/15"))), ""},
		"everything, inward":      {text(n.BlockInward(netip.MustParsePrefix("0.0.0.0/0"), networks(t, "10.0.0.0/8"))), "0.0.0.0/0-10.0.0.0/8"},
		"a pod, inward":           {text(n.BlockInward(netip.MustParsePrefix("10.78.1.5/32"), nil)), ""},
	} {
		if diff := cmp.Diff(tc.want, tc.got); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}

func TestOutside(t *testing.T) {
	n := Networks{Denied: networks(t, DefaultDenied), Pods: networks(t, "203.0.113.0/24,10.9.8.0/24"), Allowed: networks(t, "10.9.0.0/16")}
	for address, outside := range map[string]bool{
		"198.51.100.1": true, "2001:db8::1": true, "10.9.0.1": true,
		"10.8.0.1": false, "fd00::1": false, "203.0.113.7": false, "10.9.8.1": false,
	} {
		if n.Outside(netip.MustParseAddr(address)) != outside {
			t.Errorf("%s: outside is %v", address, !outside)
		}
	}
}

// An address is in the blocks if, and only if, it is in the network, not excepted,
// and not denied unless allowed. Exceptions are what the API takes: real parts.
func TestLess(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	prefix := func() netip.Prefix {
		bits := 24 + random.IntN(9)
		return netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 0, 0, byte(random.IntN(256))}), bits).Masked()
	}
	list := func() (out []netip.Prefix) {
		for range random.IntN(4) {
			out = append(out, prefix())
		}
		return out
	}
	in := func(list []netip.Prefix, a netip.Addr) bool {
		return slices.ContainsFunc(list, func(p netip.Prefix) bool { return p.Contains(a) })
	}
	for range 2000 {
		network, except, denied, allowed := prefix(), list(), list(), list()
		blocks := less(network, except, denied, allowed)
		for last := range 256 {
			address := netip.AddrFrom4([4]byte{10, 0, 0, byte(last)})
			want := network.Contains(address) && !in(except, address) && (!in(denied, address) || in(allowed, address))
			got := slices.ContainsFunc(blocks, func(b networkingv1.IPBlock) bool {
				return netip.MustParsePrefix(b.CIDR).Contains(address) && !in(networks(t, strings.Join(b.Except, ",")), address)
			})
			if got != want {
				t.Fatalf("%s less %v, denied %v, allowed %v: %+v, wrong about %s", network, except, denied, allowed, blocks, address)
			}
		}
		for _, block := range blocks {
			for _, part := range networks(t, strings.Join(block.Except, ",")) {
				outer := netip.MustParsePrefix(block.CIDR)
				if !outer.Contains(part.Addr()) || part.Bits() <= outer.Bits() {
					t.Fatalf("%s is no real part of %s", part, outer)
				}
			}
		}
	}
}
