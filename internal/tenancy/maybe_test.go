package tenancy

import "testing"

func TestMaybeTenantNamespace(t *testing.T) {
	tenant := Tenant{UID: "u", Namespace: "n", Name: "acme"}
	for name, want := range map[string]bool{
		tenant.SuperNamespace("default"): true, tenant.ControlPlaneNamespace(): true,
		"kube-system": false, "bulkhead-system": false, "vc": false, "": false, "xvc-a": false,
	} {
		if got := MaybeTenantNamespace(name); got != want {
			t.Errorf("MaybeTenantNamespace(%q) is %t", name, got)
		}
	}
}
