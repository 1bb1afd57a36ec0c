package kinds

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/apiutil"
	"sigs.k8s.io/yaml"

	tenancyv1alpha1 "github.com/bulkhead-dev/bulkhead/api/tenancy/v1alpha1"
	"github.com/bulkhead-dev/bulkhead/internal/tenancy"
	"github.com/bulkhead-dev/bulkhead/internal/tenantnetwork"
	"github.com/bulkhead-dev/bulkhead/internal/testenv"
	"github.com/bulkhead-dev/bulkhead/syncer/engine"
	"github.com/bulkhead-dev/bulkhead/syncer/translation"
)

// scheme is made once: that takes longer than a case.
var scheme = sync.OnceValue(testenv.Scheme)

var update = flag.Bool("update", false, "write the golden files anew")

// golden is a case: what is in both clusters, and the key that is handled. In
// testdata/KIND/CASE.yaml, with what comes of it in CASE.golden.yaml.
type golden struct {
	// Class of the virtual cluster.
	Class tenancyv1alpha1.VirtualClusterClassSpec `json:"class"`
	// Tenant and Super are objects; super-of-X stands for the super namespace of X.
	Tenant []json.RawMessage `json:"tenant"`
	Super  []json.RawMessage `json:"super"`
	// Before are keys, as "pods web/front", that are handled first.
	Before []string `json:"before"`
	// Place is the node on which all super pods run then.
	Place string `json:"place"`
	// Handle is the namespace and name of what is handled; Ensure makes it, as pods do.
	Handle string `json:"handle"`
	Ensure bool   `json:"ensure"`
	// Show are further kinds whose changes are in the golden file.
	Show []string `json:"show"`
}

// bench is a pair of clusters in memory.
type bench struct {
	engine.Pair
	tenant, super *memory
}

func newBench(t *testing.T, class tenancyv1alpha1.VirtualClusterClassSpec) *bench {
	t.Helper()
	vc := &tenancyv1alpha1.VirtualCluster{
		ObjectMeta: metav1.ObjectMeta{Namespace: "team", Name: "demo", UID: "vc-uid"},
		Spec:       tenancyv1alpha1.VirtualClusterSpec{ServiceCIDR: "10.96.0.0/16", ClusterDomain: "cluster.local"},
	}
	of, err := translation.NewTenant(vc, &tenancyv1alpha1.VirtualClusterClass{Spec: class})
	if err != nil {
		t.Fatal(err)
	}
	networks := tenantnetwork.Networks{Denied: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}}
	b := &bench{tenant: newMemory("tenant"), super: newMemory("super")}
	if b.Pair, err = engine.Between(t.Context(), scheme(), All(networks), of, b.super, b.tenant); err != nil {
		t.Fatal(err)
	}
	for _, object := range []client.Object{
		&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "web", Labels: map[string]string{"team": "a"}}},
		&corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "kubernetes"}, Spec: corev1.ServiceSpec{ClusterIP: "10.96.0.1", Ports: []corev1.ServicePort{{Name: "https", Port: 443}}}},
		&corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "web", Name: "default"}},
	} {
		b.tenant.put(object)
	}
	return b
}

// settle handles a key until nothing of it is left to do.
func (b *bench) settle(key engine.Key) error {
	for range 6 {
		_, err := b.Handle(key)
		difference, problem := b.Compare(context.Background(), key)
		if err != nil || problem != nil || difference == nil {
			return errors.Join(err, problem)
		}
	}
	return fmt.Errorf("handling %s changes something each time", key)
}

func TestGolden(t *testing.T) {
	files, err := filepath.Glob("testdata/*/*.yaml")
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for _, file := range files {
		if strings.HasSuffix(file, ".golden.yaml") {
			continue
		}
		resource := filepath.Base(filepath.Dir(file))
		seen[resource] = true
		t.Run(strings.TrimSuffix(strings.TrimPrefix(file, "testdata/"), ".yaml"), func(t *testing.T) { testGolden(t, resource, file) })
	}
	for _, kind := range All(tenantnetwork.Networks{}) {
		if !seen[kind.Resource()] {
			t.Errorf("no golden file of %s", kind.Resource())
		}
	}
}

func testGolden(t *testing.T, resource, file string) {
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	of := tenancy.Tenant{UID: "vc-uid", Namespace: "team", Name: "demo"}
	text = regexp.MustCompile(`super-of-[a-z-]+`).ReplaceAllFunc(text, func(name []byte) []byte {
		return []byte(of.SuperNamespace(strings.TrimPrefix(string(name), "super-of-")))
	})
	in := golden{}
	if err := yaml.UnmarshalStrict(text, &in); err != nil {
		t.Fatal(err)
	}
	if in.Class.PodSecurity == "" {
		in.Class.PodSecurity = tenancyv1alpha1.PodSecurityBaseline
	}
	b := newBench(t, in.Class)
	b.read(t, b.tenant, in.Tenant)
	b.read(t, b.super, in.Super)
	for _, before := range in.Before {
		kind, at, _ := strings.Cut(before, " ")
		if err := b.settle(keyOf(kind, at)); err != nil {
			t.Fatalf("%s: %v", before, err)
		}
	}
	if in.Place != "" {
		b.place(in.Place)
	}
	key := keyOf(resource, in.Handle)
	superBefore, tenantBefore := b.super.snapshot(), b.tenant.snapshot()
	if in.Ensure {
		if err := b.Ensure(t.Context(), key); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.settle(key); err != nil {
		t.Fatal(err)
	}
	show := append(in.Show, resource)
	if resource != "events" {
		show = append(show, "events")
	}
	got := append(b.super.changes(t, show, superBefore), b.tenant.changes(t, show, tenantBefore)...)
	path := strings.TrimSuffix(file, ".yaml") + ".golden.yaml"
	if *update {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Errorf("run with -update if that is as it should be (-want +got):\n%s", diff)
	}
}

// place does what the super cluster's scheduler and kubelet do.
func (b *bench) place(node string) {
	for _, object := range b.super.sorted(kindOf(&corev1.Pod{})) {
		pod := object.DeepCopyObject().(*corev1.Pod)
		pod.Spec.NodeName = node
		pod.Status.Phase, pod.Status.PodIP, pod.Status.PodIPs = corev1.PodRunning, "10.1.2.3", []corev1.PodIP{{IP: "10.1.2.3"}}
		pod.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodScheduled, Status: corev1.ConditionTrue}}
		b.super.put(pod)
	}
}

// expiry of a token is some time from now.
var expiry = regexp.MustCompile(`"expires":"[^"]*"`)

func keyOf(resource, at string) engine.Key {
	namespace, name, found := strings.Cut(at, "/")
	if !found {
		namespace, name = "", at
	}
	return engine.Key{Resource: resource, Namespace: namespace, Name: name}
}

func (b *bench) read(t *testing.T, into *memory, objects []json.RawMessage) {
	t.Helper()
	decoder := serializer.NewCodecFactory(scheme()).UniversalDeserializer()
	for _, text := range objects {
		object, _, err := decoder.Decode(text, nil, nil)
		if err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		into.put(object.(client.Object))
	}
}

func (m *memory) snapshot() map[client.Object]bool {
	kept := map[client.Object]bool{}
	for _, objects := range m.objects {
		for _, object := range objects {
			kept[object] = true // put never changes an object, it keeps another
		}
	}
	return kept
}

// changes are the objects of some kinds that have come or changed, as YAML.
func (m *memory) changes(t *testing.T, resources []string, before map[client.Object]bool) []byte {
	t.Helper()
	var out bytes.Buffer
	for _, resource := range resources {
		for kind := range m.objects {
			gvk, err := apiutil.GVKForObject(reflect.New(kind).Interface().(client.Object), scheme())
			if err != nil {
				t.Fatal(err)
			}
			if plural, _ := meta.UnsafeGuessKindToResource(gvk); plural.Resource != resource {
				continue
			}
			for _, object := range m.sorted(kind) {
				if before[object] {
					continue
				}
				object = object.DeepCopyObject().(client.Object)
				object.GetObjectKind().SetGroupVersionKind(gvk)
				object.SetResourceVersion("")
				if event, is := object.(*corev1.Event); is && m.side == "tenant" && event.Source.Component == "bulkhead-syncer" {
					event.FirstTimestamp, event.LastTimestamp = metav1.Time{}, metav1.Time{}
				}
				text, err := yaml.Marshal(object)
				if err != nil {
					t.Fatal(err)
				}
				fmt.Fprintf(&out, "# in the %s cluster\n%s---\n", m.side, expiry.ReplaceAll(text, []byte(`"expires":"later"`)))
			}
		}
	}
	return out.Bytes()
}
