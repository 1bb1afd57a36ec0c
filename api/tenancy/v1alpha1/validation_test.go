package v1alpha1_test

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/bulkhead-dev/bulkhead/api/tenancy/v1alpha1"
	"github.com/bulkhead-dev/bulkhead/internal/testenv"
)

// cluster is a real API server with our CRDs: what it lets in is what counts.
var cluster *testenv.Cluster

func TestMain(m *testing.M) { os.Exit(testMain(m)) }

func testMain(m *testing.M) int {
	dir, err := os.MkdirTemp("", "api-test-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	if cluster, err = testenv.Start(context.Background(), dir, testenv.Options{CRDs: true}); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer cluster.Stop()
	return m.Run()
}

// object is a VirtualCluster or VirtualClusterClass with a spec as a user writes it.
func object(t *testing.T, kind, name, spec string) *unstructured.Unstructured {
	t.Helper()
	content := map[string]any{}
	if err := yaml.Unmarshal([]byte(spec), &content); err != nil {
		t.Fatal(err)
	}
	u := &unstructured.Unstructured{Object: map[string]any{"apiVersion": v1alpha1.GroupVersion.String(), "kind": kind}}
	if len(content) > 0 {
		u.Object["spec"] = content
	}
	if kind == "VirtualCluster" {
		u.SetNamespace("default")
	}
	u.SetName(name)
	u.SetGenerateName("t-")
	return u
}

// check compares an answer with what shall be in its message; empty means accepted.
func check(t *testing.T, err error, want string) {
	t.Helper()
	switch {
	case want == "" && err != nil:
		t.Errorf("refused: %v", err)
	case want != "" && err == nil:
		t.Errorf("accepted, want a refusal that says %q", want)
	case want != "" && !strings.Contains(err.Error(), want):
		t.Errorf("refused with %q, want it to say %q", err, want)
	}
}

func TestVirtualClusterDefaults(t *testing.T) {
	vc := object(t, "VirtualCluster", "", "")
	if err := cluster.Client.Create(t.Context(), vc); err != nil {
		t.Fatal(err)
	}
	want := map[string]any{"className": "default", "serviceCIDR": "10.96.0.0/16", "clusterDomain": "cluster.local"}
	if diff := cmp.Diff(want, vc.Object["spec"]); diff != "" {
		t.Error(diff)
	}
}

func TestVirtualClusterClassDefaults(t *testing.T) {
	class := object(t, "VirtualClusterClass", "", "")
	if err := cluster.Client.Create(t.Context(), class); err != nil {
		t.Fatal(err)
	}
	want := map[string]any{
		"kind": "Dedicated", "podSecurity": "baseline",
		"etcd":      map[string]any{"storage": map[string]any{"size": "2Gi"}},
		"apiServer": map[string]any{}, "controllerManager": map[string]any{}, "scheduler": map[string]any{}, "metricsServer": map[string]any{},
		"exposure": map[string]any{"type": "LoadBalancer"},
		"nodes":    map[string]any{"mode": "onDemand"}, "scheduling": "super",
		"syncer": map[string]any{"weight": int64(10)},
	}
	if diff := cmp.Diff(want, class.Object["spec"]); diff != "" {
		t.Error(diff)
	}
}

// A class that a Go program leaves empty has the same defaults.
func TestDefaultsOfATypedClient(t *testing.T) {
	class := &v1alpha1.VirtualClusterClass{ObjectMeta: metav1.ObjectMeta{GenerateName: "t-"}}
	if err := cluster.Client.Create(t.Context(), class); err != nil {
		t.Fatal(err)
	}
	if size := class.Spec.Etcd.Storage.Size; size.String() != "2Gi" {
		t.Errorf("etcd has a volume of %s", size.String())
	}
	if class.Spec.Exposure.Type != v1alpha1.ExposeLoadBalancer || class.Spec.PodSecurity != v1alpha1.PodSecurityBaseline {
		t.Errorf("%+v", class.Spec)
	}
}

func TestVirtualClusterValidation(t *testing.T) {
	for name, tc := range map[string]struct{ name, spec, want string }{
		"63 characters":           {strings.Repeat("n", 63), "", ""},
		"64 characters":           {strings.Repeat("n", 64), "", "63 characters at most"},
		"dots in the name":        {"a.b", "", ""},
		"another class":           {"", "className: gold", ""},
		"no class":                {"", `className: ""`, "className"},
		"IPv6":                    {"", "serviceCIDR: fd00::/112", ""},
		"IPv6, too wide":          {"", "serviceCIDR: fd00::/64", "between /108 and /120"},
		"too wide":                {"", "serviceCIDR: 10.0.0.0/8", "between /12 and /24"},
		"too narrow":              {"", "serviceCIDR: 10.0.0.0/28", "between /12 and /24"},
		"an address in a network": {"", "serviceCIDR: 10.96.0.1/16", "must be a network in CIDR notation"},
		"no network":              {"", "serviceCIDR: hello", "must be a network in CIDR notation"},
		"two networks":            {"", `serviceCIDR: "10.96.0.0/16,fd00::/112"`, "must be a network in CIDR notation"},
		"another domain":          {"", "clusterDomain: demo.example.org", ""},
		"a domain in capitals":    {"", "clusterDomain: Example.org", "clusterDomain"},
		"a domain with a dot":     {"", "clusterDomain: cluster.local.", "clusterDomain"},
		"further names":           {"", `extraSANs: [api.example.org, "*.example.org", 10.0.0.1, "2001:db8::1"]`, ""},
		"a URL as a name":         {"", `extraSANs: ["https://api.example.org"]`, "extraSANs"},
		"a name with a space":     {"", `extraSANs: ["api example"]`, "extraSANs"},
		"a name twice":            {"", `extraSANs: [a, a]`, "Duplicate"},
	} {
		t.Run(name, func(t *testing.T) {
			check(t, cluster.Client.Create(t.Context(), object(t, "VirtualCluster", tc.name, tc.spec)), tc.want)
		})
	}
}

func TestVirtualClusterClassValidation(t *testing.T) {
	for name, tc := range map[string]struct{ spec, want string }{
		"everything": {`
kind: Dedicated
etcd: {image: "mirror/etcd:1", resources: {requests: {cpu: "1"}}, storage: {storageClassName: fast, size: 10Gi}}
apiServer: {image: "mirror/a:1"}
metricsServer: {disabled: true}
exposure: {type: NodePort, host: demo.example.org, annotations: {a: b}}
podSecurity: restricted
runtimeClassName: kata
storageClasses: [fast, slow]
runtimeClasses: [gvisor]
priorityClasses: [gold]
ingressClasses: [public]
nodes: {mode: selected, selector: {matchLabels: {pool: tenants}, matchExpressions: [{key: zone, operator: In, values: [a, b]}]}}
scheduling: tenant
syncer: {weight: 100}`, ""},
		"all nodes":              {"nodes: {mode: selected, selector: {}}", ""},
		"selected by nothing":    {"nodes: {mode: selected}", "selector goes with mode selected"},
		"selector on demand":     {"nodes: {selector: {}}", "selector goes with mode selected"},
		"another mode":           {"nodes: {mode: all}", "Unsupported value"},
		"another scheduler":      {"scheduling: me", "Unsupported value"},
		"scheduled blindly":      {"scheduling: tenant", "needs nodes.mode selected"},
		"no weight":              {"syncer: {weight: 0}", "greater than or equal to 1"},
		"too much weight":        {"syncer: {weight: 101}", "less than or equal to 100"},
		"another kind":           {"kind: Shared", "Unsupported value"},
		"another level":          {"podSecurity: none", "Unsupported value"},
		"another exposure":       {"exposure: {type: ExternalName}", "Unsupported value"},
		"a host without its way": {"exposure: {type: LoadBalancer, host: demo.example.org}", "host goes with type NodePort"},
		"no size":                {`etcd: {storage: {size: "two"}}`, "size"},
		"a runtime class twice":  {"runtimeClasses: [a, a]", "Duplicate"},
		"an ingress class twice": {"ingressClasses: [a, a]", "Duplicate"},
		"a system's priority":    {"priorityClasses: [system-node-critical]", "not for tenants"},
		"a storage class twice":  {"storageClasses: [a, a]", "Duplicate"},
	} {
		t.Run(name, func(t *testing.T) {
			check(t, cluster.Client.Create(t.Context(), object(t, "VirtualClusterClass", "", tc.spec)), tc.want)
		})
	}
}

// What cannot be carried out later is refused, and the rest is not.
func TestChanges(t *testing.T) {
	for name, tc := range map[string]struct{ kind, before, after, want string }{
		"service CIDR":   {"VirtualCluster", "serviceCIDR: 10.96.0.0/16", "serviceCIDR: 10.97.0.0/16", "serviceCIDR cannot change"},
		"a default":      {"VirtualCluster", "", "serviceCIDR: 10.97.0.0/16", "serviceCIDR cannot change"},
		"class":          {"VirtualCluster", "className: a", "className: b", "className cannot change"},
		"cluster domain": {"VirtualCluster", "", "clusterDomain: a.b", "clusterDomain cannot change"},
		"further names":  {"VirtualCluster", "extraSANs: [a]", "extraSANs: [b, c]", ""},
		"images":         {"VirtualClusterClass", "apiServer: {image: a}", "apiServer: {image: b}", ""},
		"exposure":       {"VirtualClusterClass", "exposure: {type: ClusterIP}", "exposure: {type: LoadBalancer}", ""},
	} {
		t.Run(name, func(t *testing.T) {
			before := object(t, tc.kind, "", tc.before)
			if err := cluster.Client.Create(t.Context(), before); err != nil {
				t.Fatal(err)
			}
			patch := object(t, tc.kind, "", tc.after)
			patch.SetGenerateName("")
			text, err := patch.MarshalJSON()
			if err != nil {
				t.Fatal(err)
			}
			check(t, cluster.Client.Patch(t.Context(), before, client.RawPatch("application/merge-patch+json", text)), tc.want)
		})
	}
}

// Status is written by the platform's components only, through its own subresource.
func TestStatusIsASubresource(t *testing.T) {
	vc := object(t, "VirtualCluster", "", "")
	if err := unstructured.SetNestedField(vc.Object, "https://evil.example.org", "status", "endpoint"); err != nil {
		t.Fatal(err)
	}
	if err := cluster.Client.Create(t.Context(), vc); err != nil {
		t.Fatal(err)
	}
	if endpoint, _, _ := unstructured.NestedString(vc.Object, "status", "endpoint"); endpoint != "" {
		t.Errorf("a user set status.endpoint to %s", endpoint)
	}
}
