package podspec

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"
)

// Limits of a resolv.conf that Kubernetes sets (k8s.io/kubernetes/pkg/apis/core/validation).
const (
	maxNameservers = 3
	maxSearches    = 32
	maxSearchChars = 2048
)

// dns makes ClusterFirst mean the tenant's cluster: its DNS Service and its names,
// which the super cluster's kubelet does not know (D7).
func (t *translator) dns() {
	t.out.DNSConfig = t.in.DNSConfig
	switch t.in.DNSPolicy {
	case corev1.DNSDefault, corev1.DNSNone:
		t.out.DNSPolicy = t.in.DNSPolicy
		return
	}
	t.out.DNSPolicy = corev1.DNSNone
	domain := t.Tenant.ClusterDomain
	ndots := "5"
	config := &corev1.PodDNSConfig{
		Nameservers: []string{t.DNSAddress},
		Searches:    []string{t.Pod.Namespace + ".svc." + domain, "svc." + domain, domain},
		Options:     []corev1.PodDNSConfigOption{{Name: "ndots", Value: &ndots}},
	}
	if own := t.in.DNSConfig; own != nil {
		config.Nameservers = firstOf(append(config.Nameservers, own.Nameservers...), maxNameservers, validation.DNS1123SubdomainMaxLength*maxNameservers)
		config.Searches = firstOf(append(config.Searches, own.Searches...), maxSearches, maxSearchChars)
		for _, option := range own.Options {
			config.Options = slices.DeleteFunc(config.Options, func(o corev1.PodDNSConfigOption) bool { return o.Name == option.Name })
			config.Options = append(config.Options, option)
		}
	}
	t.out.DNSConfig = config
}

// maxHostname is the longest name that a kubelet gives a host, in characters.
const maxHostname = 63

// hostname keeps the pod's name for itself free of the super cluster's. With a
// subdomain the kubelet writes a full name into /etc/hosts, made of its own
// cluster's domain and the super namespace: nothing that the tenant's DNS knows. A
// name that is given outright stands there alone. Super clusters before v1.35 do
// not know the field and show theirs.
func (t *translator) hostname() {
	if t.in.Subdomain == "" || t.in.HostnameOverride != nil {
		return
	}
	name := t.in.Hostname
	if name == "" {
		name = t.Pod.Name
	}
	if len(name) > maxHostname {
		name = strings.TrimRight(name[:maxHostname], "-.")
	}
	if asked := t.in.SetHostnameAsFQDN; asked != nil && *asked {
		full := strings.Join([]string{name, t.in.Subdomain, t.Pod.Namespace, "svc", t.Tenant.ClusterDomain}, ".")
		if len(full) > maxHostname {
			t.ignore("spec.setHostnameAsFQDN", fmt.Sprintf("%s has more than %d characters", full, maxHostname))
		} else {
			name = full
		}
	}
	t.out.HostnameOverride = &name
}

// firstOf drops repetitions, and what exceeds the limits, as the kubelet does.
func firstOf(in []string, count, chars int) []string {
	var out []string
	for _, text := range in {
		chars -= len(text) + 1
		if len(out) == count || chars < 0 {
			break
		}
		if !slices.Contains(out, text) {
			out = append(out, text)
		}
	}
	return out
}
