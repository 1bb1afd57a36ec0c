package tenancy

import (
	"errors"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation"
)

func TestNamesThatCollideOnceJoinedStayApart(t *testing.T) {
	long := strings.Repeat("n", 63)
	seen := map[string]string{}
	for _, pair := range [][2]string{
		{"a", "b-c"}, {"a-b", "c"}, {"a-b-c", ""}, {"foo", "bar-default"}, {"foo-bar", "default"},
		{"a", long}, {"a", long[:62]}, {long, "a"}, {long, long}, {"a.b", "c"},
	} {
		tenant := Tenant{UID: types.UID("uid-of-" + pair[0]), Namespace: "tenants", Name: pair[0]}
		name := tenant.SuperNamespace(pair[1])
		if other, taken := seen[name]; taken {
			t.Errorf("%v and %s share the name %s", pair, other, name)
		}
		seen[name] = strings.Join(pair[:], " + ")
	}
}

// Names are a pure function, injective over tenants and namespaces, and always
// valid: the property behind D1, tried on random input.
func TestSuperNamespaceProperties(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	const letters = "abc-"
	word := func(n int) string {
		text := make([]byte, 1+random.IntN(n))
		for i := range text {
			text[i] = letters[random.IntN(len(letters))]
		}
		return strings.Trim("x"+string(text)+"x", "-")
	}
	seen := map[string][2]string{}
	for range 20000 {
		tenant := Tenant{UID: types.UID(word(4)), Name: word(60)}
		namespace := word(60)
		name := tenant.SuperNamespace(namespace)
		if problems := validation.IsDNS1123Label(name); len(problems) > 0 {
			t.Fatalf("%q of %v: %v", name, tenant, problems)
		}
		key := [2]string{string(tenant.UID), namespace}
		// The readable part comes from the tenant's name, which its UID implies.
		hash := name[len(name)-hashLength:]
		if other, taken := seen[hash]; taken && other != key {
			t.Fatalf("%v and %v share %s", key, other, hash)
		}
		seen[hash] = key
		if name == tenant.ControlPlaneNamespace() {
			t.Fatalf("%v: a tenant namespace took the control plane's name %s", tenant, name)
		}
	}
}

func FuzzSuperNamespace(f *testing.F) {
	f.Add("uid", "a-b", "c")
	f.Add("", strings.Repeat("a.", 100), strings.Repeat("-", 70))
	f.Fuzz(func(t *testing.T, uid, name, namespace string) {
		if len(validation.IsDNS1123Subdomain(name)) > 0 || len(validation.IsDNS1123Label(namespace)) > 0 {
			t.Skip() // the API server lets no such names in
		}
		got := Tenant{UID: types.UID(uid), Name: name}.SuperNamespace(namespace)
		if problems := validation.IsDNS1123Label(got); len(problems) > 0 {
			t.Fatalf("%q: %v", got, problems)
		}
	})
}

func TestEscapedNamesAreInjective(t *testing.T) {
	names := []string{"kube-root-ca.crt", "kube-root-ca.crt-tenant", "kube-root-ca.crt-tenant-tenant", "kube-root-caXcrt", "default", "default-tenant", "default-", "app", "fence-deny", "fence-deny-tenant", "fence-always", "fence-x"}
	for _, mapping := range []struct{ to, back func(string) string }{
		{SuperConfigMap, TenantConfigMap}, {SuperServiceAccount, TenantServiceAccount}, {SuperNetworkPolicy, TenantNetworkPolicy},
	} {
		seen := map[string]string{}
		for _, name := range names {
			super := mapping.to(name)
			if other, taken := seen[super]; taken {
				t.Errorf("%s and %s both become %s", name, other, super)
			}
			seen[super] = name
			if back := mapping.back(super); back != name {
				t.Errorf("%s became %s and came back as %s", name, super, back)
			}
		}
	}
	if SuperConfigMap("kube-root-ca.crt") == "kube-root-ca.crt" || SuperServiceAccount("default") == "default" || SuperNetworkPolicy(FenceDeny) == FenceDeny {
		t.Error("a name of the super cluster's own was not escaped")
	}
}

func TestMarkAndOrigin(t *testing.T) {
	tenant := Tenant{UID: "vc-uid", Namespace: "team", Name: "demo"}
	object := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "web", Name: "front", UID: "pod-uid"}}
	super := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{
		Labels:      map[string]string{"app": "front", LabelTenant: "forged"},
		Annotations: map[string]string{AnnotationUID: "forged"},
	}}
	Mark(super, tenant, ManagedBySyncer, object)
	origin, ok := OriginOf(super)
	if want := (Origin{Tenant: "vc-uid", Namespace: "web", Name: "front", UID: "pod-uid"}); !ok || origin != want {
		t.Errorf("origin %+v, %v", origin, ok)
	}
	if diff := cmp.Diff("front", super.Labels["app"]); diff != "" {
		t.Error(diff)
	}
	if _, ok := OriginOf(object); ok {
		t.Error("an unmarked object has an origin")
	}
}

func TestCheckOwned(t *testing.T) {
	tenant := Tenant{UID: "vc-uid", Namespace: "team", Name: "demo"}
	for name, tc := range map[string]struct {
		labels map[string]string
		owned  bool
	}{
		"ours":              {map[string]string{LabelTenant: "vc-uid", LabelManagedBy: ManagedBySyncer}, true},
		"unmarked":          {nil, false},
		"another tenant's":  {map[string]string{LabelTenant: "other", LabelManagedBy: ManagedBySyncer}, false},
		"another component": {map[string]string{LabelTenant: "vc-uid", LabelManagedBy: ManagedByManager}, false},
	} {
		err := CheckOwned(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Labels: tc.labels}}, tenant, ManagedBySyncer, "namespace x")
		var foreign *ForeignError
		if tc.owned != (err == nil) || (err != nil && !errors.As(err, &foreign)) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestReserved(t *testing.T) {
	for key, want := range map[string]bool{
		"tenancy.bulkhead.dev/uid": true, "bulkhead.dev/x": true, "a.b.bulkhead.dev/x": true,
		"app": false, "notbulkhead.dev/x": false, "tenancy.bulkhead.dev": false, "app.kubernetes.io/name": false,
	} {
		if got := Reserved(key); got != want {
			t.Errorf("Reserved(%q) = %v", key, got)
		}
	}
}
