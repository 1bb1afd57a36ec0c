package nft_test

import (
	"fmt"
	"net/netip"
	"runtime"
	"testing"

	"github.com/vishvananda/netns"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/bulkhead-dev/bulkhead/fence/nft"
	"github.com/bulkhead-dev/bulkhead/fence/policy"
)

// crowd is a cluster of 50 tenants with 200 pods each, of which 100 are local.
func crowd() *policy.Model {
	m := policy.New()
	for tenant := range 50 {
		namespace := fmt.Sprintf("vc-%d", tenant)
		m.SetNamespace(namespace, map[string]string{"tenant": namespace})
		own := []networkingv1.NetworkPolicyPeer{
			{NamespaceSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"tenant": namespace}}},
			{IPBlock: &networkingv1.IPBlock{CIDR: "0.0.0.0/0", Except: []string{"10.0.0.0/8"}}},
		}
		m.SetPolicy(&networkingv1.NetworkPolicy{
			ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "fence"},
			Spec: networkingv1.NetworkPolicySpec{
				PolicyTypes: []networkingv1.PolicyType{networkingv1.PolicyTypeIngress, networkingv1.PolicyTypeEgress},
				Ingress:     []networkingv1.NetworkPolicyIngressRule{{From: own}}, Egress: []networkingv1.NetworkPolicyEgressRule{{To: own}},
			},
		})
		for i := range 200 {
			m.SetPod(crowded(tenant, i, i < 2))
		}
	}
	return m
}

func crowded(tenant, i int, local bool) policy.Pod {
	return policy.Pod{
		NamespacedName: types.NamespacedName{Namespace: fmt.Sprintf("vc-%d", tenant), Name: fmt.Sprint(i)},
		Addresses:      []netip.Addr{netip.AddrFrom4([4]byte{10, byte(tenant), 1, byte(i)})}, Local: local,
	}
}

func benchNamespace(b *testing.B) netns.NsHandle {
	b.Helper()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	own, err := netns.Get()
	if err != nil {
		b.Fatal(err)
	}
	defer own.Close()
	ns, err := netns.New()
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { ns.Close() })
	if err := netns.Set(own); err != nil {
		b.Fatal(err)
	}
	return ns
}

// BenchmarkPod is a pod that comes or goes among 10,000.
func BenchmarkPod(b *testing.B) {
	m, kernel := crowd(), nft.New(int(benchNamespace(b)))
	if _, err := kernel.Apply(m.Table()); err != nil {
		b.Fatal(err)
	}
	for i := 0; b.Loop(); i++ {
		if pod := crowded(7, 250, true); i%2 == 0 {
			m.SetPod(pod)
		} else {
			m.DeletePod(pod.NamespacedName)
		}
		if _, err := kernel.Apply(m.Table()); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkReplace is a start of the program among 10,000 pods.
func BenchmarkReplace(b *testing.B) {
	m, kernel := crowd(), nft.New(int(benchNamespace(b)))
	for b.Loop() {
		if err := kernel.Replace(m.Table()); err != nil {
			b.Fatal(err)
		}
	}
}
