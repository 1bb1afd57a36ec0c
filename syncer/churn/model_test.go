//go:build churn

package churn

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/bulkhead-dev/bulkhead/internal/tenancy"
)

// fault is what is wrong with an object.
type fault string

const (
	lost       fault = "lost"       // it should be there
	duplicated fault = "duplicated" // there are several
	orphaned   fault = "orphaned"   // it should not be there
	wrong      fault = "wrong"      // it differs in the fields that are named
)

// finding is one object that is not as the model says.
type finding struct {
	Fault fault
	// Side is super or tenant: where the object is, or should be.
	Side, Kind, Tenant string
	// Object is namespace/name in the tenant's cluster.
	Object string
	Fields []string
	// Detail is for people: what is there instead.
	Detail string
}

func (f finding) String() string {
	text := fmt.Sprintf("%s in the %s cluster: %s %s of %s", f.Fault, f.Side, f.Kind, f.Object, f.Tenant)
	if len(f.Fields) > 0 {
		text += " " + strings.Join(f.Fields, " ")
	}
	if f.Detail != "" {
		text += " (" + f.Detail + ")"
	}
	return text
}

// view is a tenant as the model sees it.
type view struct {
	tenancy.Tenant
	*state
	// Pool is the value of label poolLabel of the super nodes that the tenant's class
	// offers; empty where nodes appear on demand.
	Pool string
}

// model compares the clusters. It is made anew for each comparison.
type model struct {
	super    *state
	tenant   view
	findings []finding
}

// check says what is wrong, given what all tenants and the super cluster hold.
func check(super *state, tenants []view) []finding {
	var all []finding
	live := map[types.UID]bool{}
	for _, tenant := range tenants {
		live[tenant.UID] = true
		m := &model{super: super, tenant: tenant}
		m.checkDown()
		m.checkUp()
		all = append(all, m.findings...)
	}
	for kind := range super.lists() {
		for _, object := range super.objects(kind) {
			uid := types.UID(object.GetLabels()[tenancy.LabelTenant])
			if object.GetLabels()[tenancy.LabelManagedBy] == tenancy.ManagedBySyncer && !live[uid] {
				all = append(all, finding{
					Fault: orphaned, Side: "super", Kind: kind, Tenant: "a tenant that is gone", Object: keyOf(object),
					Detail: object.GetAnnotations()[tenancy.AnnotationTenant] + " " + string(uid),
				})
			}
		}
	}
	slices.SortStableFunc(all, func(a, b finding) int { return cmp.Compare(a.String(), b.String()) })
	return all
}

func (m *model) report(what fault, side, kind, object, detail string, fields ...string) {
	m.findings = append(m.findings, finding{Fault: what, Side: side, Kind: kind, Tenant: m.tenant.Name, Object: object, Fields: fields, Detail: detail})
}

// want is an object that should or may be on the other side.
type want struct {
	// must: it has to be there. Otherwise it may be.
	must bool
	// from is the object that it stands for.
	from client.Object
	// at is where it is on the other side.
	at types.NamespacedName
	// fields compares what is there.
	fields func(d *differences, object client.Object)
}

// wants are by the key of the tenant's object.
type wants map[string]want

// down are the objects of a kind in the super cluster that stand for one of the tenant's.
func (m *model) down(kind string, expected wants) {
	found := map[string][]client.Object{}
	for _, object := range m.super.objects(kind) {
		if object.GetLabels()[tenancy.LabelTenant] != string(m.tenant.UID) || object.GetLabels()[tenancy.LabelManagedBy] != tenancy.ManagedBySyncer ||
			object.GetAnnotations()[tenancy.AnnotationFor] != "" {
			continue
		}
		origin, ok := tenancy.OriginOf(object)
		switch {
		case ok:
			key := join(origin.Namespace, origin.Name)
			found[key] = append(found[key], object)
		case kind != "endpoints": // the super cluster's controller copies a Service's labels to those it makes
			m.report(orphaned, "super", kind, keyOf(object), "it has no origin")
		}
	}
	for _, key := range slices.Sorted(maps.Keys(found)) {
		is, wanted := expected[key]
		switch {
		case !wanted:
			m.report(orphaned, "super", kind, key, keyOf(found[key][0]))
			continue
		case len(found[key]) > 1:
			m.report(duplicated, "super", kind, key, keyOf(found[key][0])+", "+keyOf(found[key][1]))
		}
		for _, object := range found[key] {
			if len(found[key]) == 1 || client.ObjectKeyFromObject(object) == is.at {
				m.compare("super", kind, key, is, object)
			}
		}
	}
	m.lost("super", kind, expected, func(key string) bool { return len(found[key]) > 0 })
}

// up are the objects of a kind in the tenant's cluster that the syncer has made.
func (m *model) up(kind string, expected wants) {
	found := map[string]bool{}
	for _, object := range m.tenant.objects(kind) {
		if object.GetLabels()[tenancy.LabelManagedBy] != tenancy.ManagedBySyncer {
			continue
		}
		key := keyOf(object)
		found[key] = true
		if is, wanted := expected[key]; wanted {
			m.compare("tenant", kind, key, is, object)
		} else {
			m.report(orphaned, "tenant", kind, key, "")
		}
	}
	m.lost("tenant", kind, expected, func(key string) bool { return found[key] })
}

func (m *model) lost(side, kind string, expected wants, found func(key string) bool) {
	for _, key := range slices.Sorted(maps.Keys(expected)) {
		if expected[key].must && !found(key) {
			m.report(lost, side, kind, key, "")
		}
	}
}

func (m *model) compare(side, kind, key string, is want, object client.Object) {
	d := &differences{}
	if side == "super" {
		origin, _ := tenancy.OriginOf(object)
		d.same("metadata.uid", is.from.GetUID(), origin.UID)
		d.same("metadata.name", is.at, client.ObjectKeyFromObject(object))
	}
	d.that("metadata.deletionTimestamp", object.GetDeletionTimestamp() == nil, "it is being deleted")
	if is.fields != nil {
		is.fields(d, object)
	}
	if len(d.fields) > 0 {
		m.report(wrong, side, kind, key, strings.Join(d.details, "; "), d.fields...)
	}
}

// differences are those between an object and what the model says of it.
type differences struct{ fields, details []string }

func (d *differences) that(field string, holds bool, detail string) {
	if !holds {
		d.fields, d.details = append(d.fields, field), append(d.details, detail)
	}
}

func (d *differences) same(field string, want, have any) {
	d.that(field, equality.Semantic.DeepEqual(want, have), fmt.Sprintf("%s: want %+v, have %+v", field, short(want), short(have)))
}

func short(value any) string {
	text := fmt.Sprintf("%+v", value)
	if len(text) > 300 {
		text = text[:300] + "..."
	}
	return text
}

// churnPrefix begins the keys of labels and annotations that come and go.
const churnPrefix = "churn.example/"

// labels: those of the tenant's object are there, and none that it has no more.
func (d *differences) carried(field string, tenant, super map[string]string) {
	for _, key := range slices.Sorted(maps.Keys(tenant)) {
		value, has := super[key]
		d.that(field+"["+key+"]", has && value == tenant[key], fmt.Sprintf("want %q, have %q", tenant[key], value))
	}
	for _, key := range slices.Sorted(maps.Keys(super)) {
		if _, has := tenant[key]; !has && strings.HasPrefix(key, churnPrefix) {
			d.that(field+"["+key+"]", false, "the tenant's has none")
		}
	}
}

func keyOf(object client.Object) string { return join(object.GetNamespace(), object.GetName()) }

func join(namespace, name string) string {
	if namespace == "" {
		return name
	}
	return namespace + "/" + name
}

// index finds objects of a namespace by key.
func index[T any](items []T) map[string]*T {
	all := make(map[string]*T, len(items))
	for i := range items {
		object := any(&items[i]).(client.Object)
		all[keyOf(object)] = &items[i]
	}
	return all
}

func (m *model) superKey(namespace, name string) types.NamespacedName {
	return types.NamespacedName{Namespace: m.tenant.SuperNamespace(namespace), Name: name}
}

// checkDown compares what goes down, and what comes up of its status.
func (m *model) checkDown() {
	pods := m.pods()
	expected := map[string]wants{
		"pods": pods, "services": m.services(), "endpoints": m.endpoints(), "persistentvolumeclaims": m.claims(), "networkpolicies": m.policies(),
		"configmaps": m.configMaps(pods), "secrets": m.secrets(pods), "serviceaccounts": m.serviceAccounts(pods),
	}
	expected["namespaces"] = m.namespaces(expected)
	for _, kind := range slices.Sorted(maps.Keys(expected)) {
		m.down(kind, expected[kind])
	}
	m.fences()
	m.tokens(pods)
	m.stuck()
}

// stuck objects are being deleted in the tenant's cluster, and nobody finishes it.
func (m *model) stuck() {
	used := map[string]bool{}
	for i := range m.tenant.Pods.Items {
		pod := &m.tenant.Pods.Items[i]
		for _, volume := range pod.Spec.Volumes {
			if volume.PersistentVolumeClaim != nil {
				used[join(pod.Namespace, volume.PersistentVolumeClaim.ClaimName)] = true
			}
		}
	}
	for _, kind := range slices.Sorted(maps.Keys(m.tenant.lists())) {
		for _, object := range m.tenant.objects(kind) {
			if _, claim := object.(*corev1.PersistentVolumeClaim); claim && used[keyOf(object)] {
				continue // until its pod is gone, as in any cluster
			}
			if object.GetDeletionTimestamp() != nil {
				m.report(wrong, "tenant", kind, keyOf(object), fmt.Sprintf("it is being deleted, finalizers %v", object.GetFinalizers()), "metadata.deletionTimestamp")
			}
		}
	}
}
