package podspec

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
)

func TestDNS(t *testing.T) {
	value := func(text string) *string { return &text }
	own := &corev1.PodDNSConfig{
		Nameservers: []string{"9.9.9.9", "10.96.0.10", "8.8.8.8", "1.1.1.1"}, Searches: []string{"example.com", "cluster.local"},
		Options: []corev1.PodDNSConfigOption{{Name: "ndots", Value: value("2")}, {Name: "edns0"}},
	}
	cluster := []string{"web.svc.cluster.local", "svc.cluster.local", "cluster.local"}
	for name, tc := range map[string]struct {
		policy corev1.DNSPolicy
		config *corev1.PodDNSConfig
		want   corev1.PodSpec
	}{
		"cluster first": {corev1.DNSClusterFirst, nil, corev1.PodSpec{DNSPolicy: corev1.DNSNone, DNSConfig: &corev1.PodDNSConfig{
			Nameservers: []string{"10.96.0.10"}, Searches: cluster, Options: []corev1.PodDNSConfigOption{{Name: "ndots", Value: value("5")}}}}},
		"merged with the pod's": {corev1.DNSClusterFirst, own, corev1.PodSpec{DNSPolicy: corev1.DNSNone, DNSConfig: &corev1.PodDNSConfig{
			Nameservers: []string{"10.96.0.10", "9.9.9.9", "8.8.8.8"}, Searches: append(cluster, "example.com"), Options: own.Options}}},
		"host network makes no difference": {corev1.DNSClusterFirstWithHostNet, nil, corev1.PodSpec{DNSPolicy: corev1.DNSNone, DNSConfig: &corev1.PodDNSConfig{
			Nameservers: []string{"10.96.0.10"}, Searches: cluster, Options: []corev1.PodDNSConfigOption{{Name: "ndots", Value: value("5")}}}}},
		"none":    {corev1.DNSNone, own, corev1.PodSpec{DNSPolicy: corev1.DNSNone, DNSConfig: own}},
		"default": {corev1.DNSDefault, nil, corev1.PodSpec{DNSPolicy: corev1.DNSDefault}},
	} {
		pod := tenantPod()
		pod.Spec.DNSPolicy, pod.Spec.DNSConfig = tc.policy, tc.config
		super, _ := Translate(input(pod))
		if diff := cmp.Diff(tc.want, corev1.PodSpec{DNSPolicy: super.Spec.DNSPolicy, DNSConfig: super.Spec.DNSConfig}); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

func TestHostname(t *testing.T) {
	yes, own := true, "mine"
	long := strings.Repeat("a", 60)
	for name, tc := range map[string]struct {
		spec     corev1.PodSpec
		podName  string
		want     string // empty for none
		findings int
	}{
		"no subdomain":          {corev1.PodSpec{Hostname: "web-0"}, "front", "", 0},
		"subdomain":             {corev1.PodSpec{Hostname: "web-0", Subdomain: "web"}, "front", "web-0", 0},
		"by the pod's name":     {corev1.PodSpec{Subdomain: "web"}, "front", "front", 0},
		"cut as the kubelet":    {corev1.PodSpec{Subdomain: "web"}, long + "a.-b", long + "a", 0},
		"full name":             {corev1.PodSpec{Hostname: "web-0", Subdomain: "web", SetHostnameAsFQDN: &yes}, "front", "web-0.web.web.svc.cluster.local", 0},
		"full name is too long": {corev1.PodSpec{Hostname: long, Subdomain: "web", SetHostnameAsFQDN: &yes}, "front", long, 1},
		"the tenant's own":      {corev1.PodSpec{Subdomain: "web", HostnameOverride: &own}, "front", "mine", 0},
	} {
		pod := tenantPod()
		tc.spec.Containers = pod.Spec.Containers
		pod.Spec, pod.Name = tc.spec, tc.podName
		super, findings := Translate(input(pod))
		got := ""
		if super.Spec.HostnameOverride != nil {
			got = *super.Spec.HostnameOverride
		}
		if got != tc.want || len(findings) != tc.findings || super.Spec.SetHostnameAsFQDN != nil || super.Spec.Subdomain != tc.spec.Subdomain {
			t.Errorf("%s: host name %q, findings %v", name, got, findings)
		}
	}
}
