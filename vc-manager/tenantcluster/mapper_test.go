package tenantcluster

import (
	"net/netip"
	"testing"

	"github.com/bulkhead-dev/bulkhead/vc-manager/bootstrap"
)

// What the mapper does not know cannot be applied in any tenant's cluster.
func TestMapperKnowsWhatIsApplied(t *testing.T) {
	objects := bootstrap.Objects(bootstrap.Input{
		MetricsServer: netip.MustParseAddr("192.0.2.1"),
		DNS:           bootstrap.DNS{Address: netip.MustParseAddr("10.96.0.10"), Domain: "cluster.local", Image: "coredns"},
	})
	if len(objects) < 15 {
		t.Fatalf("%d objects only", len(objects))
	}
	known := mapper()
	for _, object := range objects {
		kind := object.GetObjectKind().GroupVersionKind()
		mapping, err := known.RESTMapping(kind.GroupKind(), kind.Version)
		if err != nil {
			t.Errorf("%s: %v", object.GetName(), err)
			continue
		}
		if namespaced := mapping.Scope.Name() == "namespace"; namespaced != (object.GetNamespace() != "") {
			t.Errorf("%s %s is in namespace %q, and its kind namespaced: %v", kind.Kind, object.GetName(), object.GetNamespace(), namespaced)
		}
	}
}
