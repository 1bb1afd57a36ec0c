package kinds

import (
	"context"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// memory is a cluster without an apiserver: it keeps what it is given, whether or not
// that is valid. What real apiservers say is tried in the syncer's own tests.
type memory struct {
	client.Client
	// side begins the UIDs that it gives.
	side    string
	objects map[reflect.Type]map[types.NamespacedName]client.Object
	indexes map[reflect.Type]map[string]client.IndexerFunc
}

func newMemory(side string) *memory {
	return &memory{side: side, objects: map[reflect.Type]map[types.NamespacedName]client.Object{}, indexes: map[reflect.Type]map[string]client.IndexerFunc{}}
}

func kindOf(object any) reflect.Type { return reflect.TypeOf(object).Elem() }

func resourceOf(kind reflect.Type) schema.GroupResource {
	return schema.GroupResource{Resource: strings.ToLower(kind.Name())}
}

// put keeps an object as it is, with a UID if it has none.
func (m *memory) put(object client.Object) {
	kind := kindOf(object)
	if m.objects[kind] == nil {
		m.objects[kind] = map[types.NamespacedName]client.Object{}
	}
	if object.GetUID() == "" {
		object.SetUID(types.UID(m.side + "-" + strings.ToLower(kind.Name()) + "-" + object.GetName()))
	}
	object.SetResourceVersion("1")
	m.objects[kind][client.ObjectKeyFromObject(object)] = object.DeepCopyObject().(client.Object)
}

// sorted are all objects of a kind.
func (m *memory) sorted(kind reflect.Type) []client.Object {
	var all []client.Object
	for _, object := range m.objects[kind] {
		all = append(all, object)
	}
	slices.SortFunc(all, func(a, b client.Object) int {
		return strings.Compare(a.GetNamespace()+"/"+a.GetName(), b.GetNamespace()+"/"+b.GetName())
	})
	return all
}

func (m *memory) IndexField(_ context.Context, object client.Object, field string, index client.IndexerFunc) error {
	if m.indexes[kindOf(object)] == nil {
		m.indexes[kindOf(object)] = map[string]client.IndexerFunc{}
	}
	m.indexes[kindOf(object)][field] = index
	return nil
}

func (m *memory) Get(_ context.Context, key client.ObjectKey, into client.Object, _ ...client.GetOption) error {
	object, found := m.objects[kindOf(into)][key]
	if !found {
		return apierrors.NewNotFound(resourceOf(kindOf(into)), key.Name)
	}
	reflect.ValueOf(into).Elem().Set(reflect.ValueOf(object.DeepCopyObject()).Elem())
	return nil
}

func (m *memory) List(_ context.Context, into client.ObjectList, options ...client.ListOption) error {
	var o client.ListOptions
	o.ApplyOptions(options)
	items, err := meta.GetItemsPtr(into)
	if err != nil {
		return err
	}
	kind := reflect.TypeOf(items).Elem().Elem()
	var found []runtime.Object
	for _, object := range m.sorted(kind) {
		if (o.Namespace == "" || o.Namespace == object.GetNamespace()) && m.matches(kind, object, o) {
			found = append(found, object.DeepCopyObject())
		}
	}
	return meta.SetList(into, found)
}

func (m *memory) matches(kind reflect.Type, object client.Object, o client.ListOptions) bool {
	if o.LabelSelector != nil {
		panic("no kind lists by labels")
	}
	if o.FieldSelector == nil {
		return true
	}
	for _, requirement := range o.FieldSelector.Requirements() {
		index := m.indexes[kind][requirement.Field]
		if index == nil {
			panic(fmt.Sprintf("%s has no index %s", kind, requirement.Field))
		}
		if !slices.Contains(index(object), requirement.Value) {
			return false
		}
	}
	return true
}

func (m *memory) Create(_ context.Context, object client.Object, _ ...client.CreateOption) error {
	if _, found := m.objects[kindOf(object)][client.ObjectKeyFromObject(object)]; found {
		return apierrors.NewAlreadyExists(resourceOf(kindOf(object)), object.GetName())
	}
	m.put(object)
	return nil
}

// Patch keeps the changed object, which the callers of these tests make whole.
func (m *memory) Patch(_ context.Context, object client.Object, _ client.Patch, _ ...client.PatchOption) error {
	m.put(object)
	return nil
}

func (m *memory) Delete(_ context.Context, object client.Object, _ ...client.DeleteOption) error {
	delete(m.objects[kindOf(object)], client.ObjectKeyFromObject(object))
	return nil
}

func (m *memory) Status() client.SubResourceWriter { return part{memory: m} }

func (m *memory) SubResource(string) client.SubResourceClient { return part{memory: m} }

// part is a subresource: a status, a binding or a token.
type part struct {
	client.SubResourceClient
	memory *memory
}

func (p part) Create(_ context.Context, object, given client.Object, _ ...client.SubResourceCreateOption) error {
	switch given := given.(type) {
	case *corev1.Binding:
		pod := object.DeepCopyObject().(*corev1.Pod)
		pod.Spec.NodeName = given.Target.Name
		pod.Status.Conditions = append(pod.Status.Conditions, corev1.PodCondition{Type: corev1.PodScheduled, Status: corev1.ConditionTrue})
		p.memory.put(pod)
	case *authenticationv1.TokenRequest:
		given.Status = authenticationv1.TokenRequestStatus{Token: "token of " + object.GetName(), ExpirationTimestamp: metav1.NewTime(time.Now().Add(time.Hour))}
	}
	return nil
}

func (p part) Patch(ctx context.Context, object client.Object, patch client.Patch, _ ...client.SubResourcePatchOption) error {
	return p.memory.Patch(ctx, object, patch)
}
