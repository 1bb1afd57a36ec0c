package kinds

import (
	"encoding/json"
	"errors"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/randfill"

	tenancyv1alpha1 "github.com/bulkhead-dev/bulkhead/api/tenancy/v1alpha1"
	"github.com/bulkhead-dev/bulkhead/internal/tenancy"
	"github.com/bulkhead-dev/bulkhead/internal/tenantnetwork"
	"github.com/bulkhead-dev/bulkhead/syncer/engine"
)

// stranger is in the names of all that another tenant has.
const stranger = "xanthippe"

// One target for each kind. Whatever an object holds, handling
// it never panics; what it makes in the super cluster is this tenant's, by its namespace
// and marks; nothing of another tenant gets into its cluster; and when it is handled, a
// comparison finds nothing left to do.

func FuzzNamespaces(f *testing.F)             { fuzzKind(f, "namespaces") }
func FuzzPods(f *testing.F)                   { fuzzKind(f, "pods") }
func FuzzServices(f *testing.F)               { fuzzKind(f, "services") }
func FuzzEndpoints(f *testing.F)              { fuzzKind(f, "endpoints") }
func FuzzEndpointSlices(f *testing.F)         { fuzzKind(f, "endpointslices") }
func FuzzSecrets(f *testing.F)                { fuzzKind(f, "secrets") }
func FuzzConfigMaps(f *testing.F)             { fuzzKind(f, "configmaps") }
func FuzzServiceAccounts(f *testing.F)        { fuzzKind(f, "serviceaccounts") }
func FuzzPersistentVolumeClaims(f *testing.F) { fuzzKind(f, "persistentvolumeclaims") }
func FuzzNetworkPolicies(f *testing.F)        { fuzzKind(f, "networkpolicies") }
func FuzzNodes(f *testing.F)                  { fuzzKind(f, "nodes") }
func FuzzLeases(f *testing.F)                 { fuzzKind(f, "leases") }
func FuzzPersistentVolumes(f *testing.F)      { fuzzKind(f, "persistentvolumes") }
func FuzzStorageClasses(f *testing.F)         { fuzzKind(f, "storageclasses") }
func FuzzRuntimeClasses(f *testing.F)         { fuzzKind(f, "runtimeclasses") }
func FuzzPriorityClasses(f *testing.F)        { fuzzKind(f, "priorityclasses") }
func FuzzIngressClasses(f *testing.F)         { fuzzKind(f, "ingressclasses") }
func FuzzEvents(f *testing.F)                 { fuzzKind(f, "events") }

// offers everything, so that what is offered is tried.
var offers = tenancyv1alpha1.VirtualClusterClassSpec{
	PodSecurity: tenancyv1alpha1.PodSecurityPrivileged, StorageClasses: []string{"x"}, RuntimeClasses: []string{"x"},
	PriorityClasses: []string{"x"}, IngressClasses: []string{"x"},
	Nodes: tenancyv1alpha1.NodesSpec{Mode: tenancyv1alpha1.NodesSelected, Selector: &metav1.LabelSelector{}},
}

func fuzzKind(f *testing.F, resource string) {
	upward := map[string]bool{}
	all := All(tenantnetwork.Networks{})
	for i, kind := range all {
		upward[kind.Resource()] = i >= slices.IndexFunc(all, func(k engine.Kind) bool { return k.Resource() == "nodes" })
	}
	for _, seed := range []string{"", "bytes that become an object", "others"} {
		f.Add([]byte(seed), []byte("before"))
	}
	f.Fuzz(func(t *testing.T, now, before []byte) {
		b := newBench(t, offers)
		strangers(b.super)
		side := b.tenant
		if upward[resource] {
			side = b.super
		}
		own := side.snapshot()
		key := engine.Key{Resource: resource}
		// The same object twice: as it was, which was handled, and as it is.
		for _, data := range [][]byte{before, now} {
			object := filled(t, resource, data)
			b.frame(object, &key)
			side.put(object)
			given := object.DeepCopyObject()
			b.try(t, key)
			if kept, found := side.objects[kindOf(object)][client.ObjectKeyFromObject(object)]; found && !upward[resource] && !reflect.DeepEqual(specOf(t, given), specOf(t, kept)) {
				t.Errorf("the tenant's object was changed, and not only its status: %v", kept)
			}
		}
		b.check(t, own)
	})
}

// filled makes an object of bytes.
func filled(t *testing.T, resource string, data []byte) client.Object {
	t.Helper()
	for gvk, kind := range scheme().AllKnownTypes() {
		object, is := reflect.New(kind).Interface().(client.Object)
		plural, _ := meta.UnsafeGuessKindToResource(gvk)
		if !is || plural.Resource != resource || gvk.Version != "v1" || strings.HasPrefix(gvk.Group, "events.") {
			continue
		}
		randfill.NewFromGoFuzz(data).NilChance(0.3).NumElements(0, 3).MaxDepth(12).Fill(object)
		return object
	}
	t.Fatalf("there is no kind %s", resource)
	return nil
}

// frame gives an object the identity that an apiserver would, and what it refers to.
func (b *bench) frame(object client.Object, key *engine.Key) {
	labels, annotations := object.GetLabels(), object.GetAnnotations()
	maps.DeleteFunc(labels, func(key, _ string) bool { return tenancy.Reserved(key) })
	meta, _ := meta.Accessor(object)
	reflect.ValueOf(meta).Elem().FieldByName("ObjectMeta").Set(reflect.ValueOf(metav1.ObjectMeta{Name: "x", UID: "framed", Labels: labels, Annotations: annotations}))
	key.Name = "x"
	superNamespace := b.Tenant().SuperNamespace("web")
	switch object := object.(type) {
	case *corev1.Node:
	case *corev1.Namespace:
		object.Name, key.Name = "web", "web"
	case *corev1.PersistentVolume:
		if object.Spec.ClaimRef != nil {
			object.Spec.ClaimRef.Namespace = superNamespace
		}
	case *corev1.Event:
		object.Namespace, key.Namespace = superNamespace, "web"
	default:
		namespaced := map[string]bool{"storageclasses": false, "runtimeclasses": false, "priorityclasses": false, "ingressclasses": false}
		if _, cluster := namespaced[key.Resource]; !cluster {
			object.SetNamespace("web")
			key.Namespace = "web"
		}
		if key.Resource == "leases" {
			object.SetNamespace(corev1.NamespaceNodeLease)
			key.Namespace = corev1.NamespaceNodeLease
		}
	}
	if pod, is := object.(*corev1.Pod); is {
		pod.Status, pod.Spec.NodeName = corev1.PodStatus{}, ""
	}
}

// strangers are another tenant's, with the labels that a fault might confuse.
func strangers(super *memory) {
	other := tenancy.Tenant{UID: stranger + "-uid", Namespace: stranger, Name: stranger}
	for _, object := range []client.Object{
		&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: other.SuperNamespace("web")}},
		&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: other.SuperNamespace("web"), Name: "x"}, Spec: corev1.PodSpec{NodeName: "x"}},
		&corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: other.SuperNamespace("web"), Name: "x"}},
	} {
		tenancy.Mark(object, other, tenancy.ManagedBySyncer, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "web", Name: "x", UID: stranger}})
		super.put(object)
	}
}

// try handles a key and compares.
func (b *bench) try(t *testing.T, key engine.Key) {
	t.Helper()
	if key.Resource == "namespaces" {
		if err := b.Ensure(t.Context(), key); err != nil {
			t.Fatal(err)
		}
	}
	err := b.settle(key)
	var wait *engine.WaitError
	if err != nil && !errors.As(err, &wait) {
		t.Error(err)
	}
}

// check looks at all that has come.
func (b *bench) check(t *testing.T, own map[client.Object]bool) {
	t.Helper()
	of := b.Tenant().Tenant
	for kind := range b.super.objects {
		for _, object := range b.super.sorted(kind) {
			if own[object] || object.GetUID() == "framed" || strings.Contains(string(object.GetUID()), stranger) || strings.Contains(object.GetNamespace()+object.GetName(), stranger) {
				continue
			}
			origin, marked := tenancy.OriginOf(object)
			at := object.GetNamespace()
			if kind == kindOf(&corev1.Namespace{}) {
				at = object.GetName()
			}
			if !marked || origin.Tenant != of.UID || at != of.SuperNamespace("web") {
				t.Errorf("%s %s/%s is of %+v", kind, object.GetNamespace(), object.GetName(), origin)
			}
		}
	}
	for kind := range b.tenant.objects {
		for _, object := range b.tenant.sorted(kind) {
			text, err := json.Marshal(object)
			if err != nil {
				t.Fatal(err)
			}
			if strings.Contains(string(text), stranger) || strings.Contains(string(text), of.SuperNamespace("web")) {
				t.Errorf("the tenant reads of others, or of the super cluster: %s", text)
			}
		}
	}
}

// specOf is an object without what the syncer writes into it.
func specOf(t *testing.T, object any) map[string]any {
	t.Helper()
	text, err := json.Marshal(object)
	if err != nil {
		t.Fatal(err)
	}
	fields := map[string]any{}
	if err := json.Unmarshal(text, &fields); err != nil {
		t.Fatal(err)
	}
	delete(fields, "status")
	delete(fields["metadata"].(map[string]any), "resourceVersion")
	return fields
}
