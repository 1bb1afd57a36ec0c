package bootstrap

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	tenancyv1alpha1 "github.com/bulkhead-dev/bulkhead/api/tenancy/v1alpha1"
	"github.com/bulkhead-dev/bulkhead/internal/tenancy"
	"github.com/bulkhead-dev/bulkhead/syncer/podspec"
	"github.com/bulkhead-dev/bulkhead/syncer/translation"
)

// CoreDNS goes down to the super cluster as it is, in every class: what the syncer
// keeps back would be an event against a pod of ours.
func TestDNSGoesDownWhole(t *testing.T) {
	deployment := dnsDeployment(sample().DNS)
	// What the tenant's apiserver writes into every pod.
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: metav1.NamespaceSystem, Name: "coredns-x", Labels: deployment.Spec.Template.Labels}}
	deployment.Spec.Template.Spec.DeepCopyInto(&pod.Spec)
	pod.Spec.Priority, pod.Spec.PreemptionPolicy = ptr.To[int32](0), ptr.To(corev1.PreemptLowerPriority)
	pod.Spec.RestartPolicy, pod.Spec.SchedulerName = corev1.RestartPolicyAlways, corev1.DefaultSchedulerName
	for _, level := range []tenancyv1alpha1.PodSecurityLevel{
		tenancyv1alpha1.PodSecurityRestricted, tenancyv1alpha1.PodSecurityBaseline, tenancyv1alpha1.PodSecurityPrivileged,
	} {
		tenant := translation.Tenant{Tenant: tenancy.Tenant{UID: "uid", Namespace: "team", Name: "demo"}, PodSecurity: level, ClusterDomain: "cluster.local", DNSAddress: "10.96.0.10"}
		super, findings := podspec.Translate(podspec.Input{Tenant: tenant, Pod: pod, DNSAddress: "10.96.0.10"})
		if len(findings) > 0 {
			t.Errorf("%s: %v", level, findings)
		}
		want := pod.Spec.DeepCopy()
		// These the syncer sets by itself for every pod.
		want.Priority, want.PreemptionPolicy, want.SchedulerName = nil, nil, ""
		want.EnableServiceLinks, want.AutomountServiceAccountToken = super.Spec.EnableServiceLinks, super.Spec.AutomountServiceAccountToken
		want.ServiceAccountName = super.Spec.ServiceAccountName
		if diff := cmp.Diff(*want, super.Spec); diff != "" {
			t.Errorf("%s: what goes down differs (-tenant +super):\n%s", level, diff)
		}
		if super.Spec.DNSPolicy != corev1.DNSDefault {
			t.Errorf("%s: DNS would ask %s", level, super.Spec.DNSPolicy)
		}
	}
}
