package translation

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"

	tenancyv1alpha1 "github.com/bulkhead-dev/bulkhead/api/tenancy/v1alpha1"
	"github.com/bulkhead-dev/bulkhead/internal/tenancy"
)

func TestNewTenant(t *testing.T) {
	vc := &tenancyv1alpha1.VirtualCluster{
		ObjectMeta: metav1.ObjectMeta{Namespace: "team", Name: "demo", UID: "u"},
		Spec:       tenancyv1alpha1.VirtualClusterSpec{ServiceCIDR: "10.96.0.0/16", ClusterDomain: "cluster.local"},
	}
	class := &tenancyv1alpha1.VirtualClusterClass{Spec: tenancyv1alpha1.VirtualClusterClassSpec{PodSecurity: "baseline", StorageClasses: []string{"fast"}}}
	tenant, err := NewTenant(vc, class)
	if err != nil || tenant.DNSAddress != "10.96.0.10" || tenant.String() != "team/demo" {
		t.Errorf("%+v, %v", tenant, err)
	}
	again, _ := NewTenant(vc, class)
	if !tenant.Equal(again) {
		t.Error("a tenant differs from itself")
	}
	class.Spec.PodSecurity = "restricted"
	if other, _ := NewTenant(vc, class); tenant.Equal(other) {
		t.Error("another level makes no difference")
	}
	vc.Spec.ServiceCIDR = "fd00:1::/112"
	if six, err := NewTenant(vc, class); err != nil || six.DNSAddress != "fd00:1::a" {
		t.Errorf("%+v, %v", six, err)
	}
	vc.Spec.ServiceCIDR = "nonsense"
	if _, err := NewTenant(vc, class); err == nil {
		t.Error("nonsense is a service range")
	}
}

func TestOffersStorageClass(t *testing.T) {
	none, some := Tenant{}, Tenant{StorageClasses: []string{"fast"}}
	if !none.OffersStorageClass("x", true) || none.OffersStorageClass("x", false) || !some.OffersStorageClass("fast", false) || some.OffersStorageClass("x", true) {
		t.Error("wrong offers")
	}
}

func TestLabelsAndAnnotations(t *testing.T) {
	object := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{
		// Labels under kubernetes.io go down too (the ancestor dropped them all: virtualcluster.md 1.5).
		// What ABM has made in the tenant's cluster bears its marks, and is not refused for them.
		Labels:      map[string]string{"app.kubernetes.io/name": "x", tenancy.LabelManagedBy: "forged", "abm.bulkhead.dev/step": "one"},
		Annotations: map[string]string{"a": "1", "no": "2", "x.bulkhead.dev/y": "3"},
	}}
	labels, findings := Labels(object)
	if diff := cmp.Diff(map[string]string{"app.kubernetes.io/name": "x"}, labels); diff != "" || len(findings) != 1 || !findings[0].Refused {
		t.Errorf("%v %s", findings, diff)
	}
	annotations, findings := Annotations(object, func(key string) string {
		if key == "no" {
			return "a rule"
		}
		return ""
	})
	if diff := cmp.Diff(map[string]string{"a": "1"}, annotations); diff != "" || len(findings) != 2 {
		t.Errorf("%v %s", findings, diff)
	}
	if labels, findings := Labels(&corev1.Pod{}); labels != nil || findings != nil {
		t.Error("something from nothing")
	}
}

func TestMessage(t *testing.T) {
	tenant := Tenant{Tenant: tenancy.Tenant{UID: "u", Name: "demo"}}
	super := tenant.SuperNamespace("web")
	message := NewMessage(tenant, "web", "super-uid", "tenant-uid")
	// The ancestor cut the prefix off and was wrong for cut names (virtualcluster.md 1.4 c).
	long := strings.Repeat("n", 63)
	for in, want := range map[string]string{
		"": "",
		"Successfully assigned " + super + "/front to n1":                    "Successfully assigned web/front to n1",
		"back-off restarting container=c pod=front_" + super + "(super-uid)": "back-off restarting container=c pod=front_web(tenant-uid)",
		`configmap "kube-root-ca.crt-tenant" not found`:                      `configmap "kube-root-ca.crt" not found`,
	} {
		if got := message.Clean(in); got != want {
			t.Errorf("%q became %q", in, got)
		}
	}
	if got := NewMessage(tenant, long, "", "").Clean("pod " + tenant.SuperNamespace(long) + "/x"); got != "pod "+long+"/x" {
		t.Error(got)
	}
}

func FuzzNamespaceLabelKey(f *testing.F) {
	f.Add("team", "example.com/team")
	f.Fuzz(func(t *testing.T, a, b string) {
		one, two := NamespaceLabelKey(a), NamespaceLabelKey(b)
		if problems := validation.IsQualifiedName(one); len(problems) > 0 {
			t.Error(problems)
		}
		if (a == b) != (one == two) {
			t.Errorf("%q and %q become %s and %s", a, b, one, two)
		}
		if !tenancy.Reserved(one) {
			t.Errorf("%s is not ours: a tenant could set it on a pod", one)
		}
	})
}

func FuzzMessage(f *testing.F) {
	f.Add("web", "pod x in vc-demo")
	f.Fuzz(func(t *testing.T, namespace, text string) {
		tenant := Tenant{Tenant: tenancy.Tenant{UID: "u", Name: "demo"}}
		super := tenant.SuperNamespace(namespace)
		if got := NewMessage(tenant, namespace, "", "").Clean(text + super); strings.Contains(got, super) && !strings.Contains(namespace, super) {
			t.Errorf("%q shows the super namespace", got)
		}
	})
}
