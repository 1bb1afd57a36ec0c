package engine

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	apimeta "k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"

	"github.com/bulkhead-dev/bulkhead/abm/cluster"
	"github.com/bulkhead-dev/bulkhead/abm/step"
	abmv1alpha1 "github.com/bulkhead-dev/bulkhead/api/abm/v1alpha1"
)

// rightsDelay is the time that authorizers are given to learn of a change.
const rightsDelay = 300 * time.Millisecond

// verbs are what ABM does with objects of an instance.
var verbs = []string{"get", "list", "create", "patch", "delete"}

// rightsName is that of an instance's Role and RoleBinding.
func rightsName(instance string) string { return "abm-" + instance }

// grant gives the account that ABM acts as for the instance the rights to the kinds
// that its definition opens and to those that stand in its ledger, in its namespace
// and nowhere else. It tells whether that changed anything.
func (p *pass) grant(ctx context.Context, opened []abmv1alpha1.Kind) (changed bool, err error) {
	rules, err := p.rules(opened)
	if err != nil {
		return false, err
	}
	meta := metav1.ObjectMeta{
		Namespace: p.instance.Namespace, Name: rightsName(p.instance.Name),
		Labels: map[string]string{
			abmv1alpha1.LabelInstanceUID: string(p.instance.UID), abmv1alpha1.LabelInstance: p.instance.Name,
			abmv1alpha1.LabelService: p.instance.Spec.ServiceName,
		},
		// Where the whole namespace is deleted, they must outlive what they are for.
		Finalizers: []string{abmv1alpha1.FinalizerAccess},
	}
	role := &rbacv1.Role{ObjectMeta: *meta.DeepCopy(), Rules: rules}
	binding := &rbacv1.RoleBinding{
		ObjectMeta: *meta.DeepCopy(),
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: meta.Name},
		Subjects:   []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Namespace: p.Clusters.AccountNamespace, Name: cluster.Account(p.instance.UID)}},
	}
	for _, wanted := range []client.Object{role, binding} {
		different, err := p.ensureRight(ctx, wanted)
		if err != nil {
			return false, err
		}
		changed = changed || different
	}
	return changed, nil
}

func (p *pass) ensureRight(ctx context.Context, wanted client.Object) (changed bool, err error) {
	present := wanted.DeepCopyObject().(client.Object)
	err = p.Live.Get(ctx, client.ObjectKeyFromObject(wanted), present)
	if apierrors.IsNotFound(err) {
		if err := p.Client.Create(ctx, wanted); err != nil {
			return false, fmt.Errorf("granting the rights of instance %s/%s: %w", p.instance.Namespace, p.instance.Name, err)
		}
		return true, nil
	}
	if err != nil {
		return false, fmt.Errorf("reading the rights of instance %s/%s: %w", p.instance.Namespace, p.instance.Name, err)
	}
	if present.GetLabels()[abmv1alpha1.LabelInstanceUID] != string(p.instance.UID) {
		return false, &step.ForeignError{Object: fmt.Sprintf("%T %s", wanted, wanted.GetName())}
	}
	if !present.GetDeletionTimestamp().IsZero() {
		// It holds for as long as its finalizer does.
		return false, nil
	}
	before := present.DeepCopyObject().(client.Object)
	switch object := present.(type) {
	case *rbacv1.Role:
		object.Rules = wanted.(*rbacv1.Role).Rules
	case *rbacv1.RoleBinding:
		object.Subjects = wanted.(*rbacv1.RoleBinding).Subjects
	}
	controllerutil.AddFinalizer(present, abmv1alpha1.FinalizerAccess)
	if equality.Semantic.DeepEqual(before, present) {
		return false, nil
	}
	if err := p.Client.Update(ctx, present); err != nil {
		return false, fmt.Errorf("changing the rights of instance %s/%s: %w", p.instance.Namespace, p.instance.Name, err)
	}
	return true, nil
}

// rules are the rights to kinds, one rule for each API group.
func (p *pass) rules(opened []abmv1alpha1.Kind) ([]rbacv1.PolicyRule, error) {
	kinds := map[abmv1alpha1.Kind]bool{}
	for _, kind := range opened {
		kinds[kind] = true
	}
	for _, record := range p.records {
		if record.Target != nil {
			continue
		}
		for _, object := range record.Objects {
			kinds[abmv1alpha1.Kind{Group: schema.FromAPIVersionAndKind(object.APIVersion, object.Kind).Group, Kind: object.Kind}] = true
		}
		if record.Call != nil && (record.Call.CA != nil || record.Call.Authorization != nil) {
			kinds[abmv1alpha1.Kind{Kind: "Secret"}] = true
		}
	}
	resources := map[string][]string{}
	for kind := range kinds {
		mapping, err := p.Clusters.Mapper.RESTMapping(schema.GroupKind{Group: kind.Group, Kind: kind.Kind})
		if err != nil {
			if len(opened) == 0 {
				// Objects went with their kind.
				continue
			}
			return nil, fmt.Errorf("finding kind %s of group %q, which the definition opens: %w", kind.Kind, kind.Group, err)
		}
		if mapping.Scope.Name() != apimeta.RESTScopeNameNamespace {
			if len(opened) == 0 {
				continue // never made
			}
			return nil, fmt.Errorf("kind %s of group %q is cluster-wide: a service touches nothing in the super cluster but the instance's namespace", kind.Kind, kind.Group)
		}
		resources[kind.Group] = append(resources[kind.Group], mapping.Resource.Resource)
	}
	rules := []rbacv1.PolicyRule{}
	for group, names := range resources {
		slices.Sort(names)
		rules = append(rules, rbacv1.PolicyRule{APIGroups: []string{group}, Resources: slices.Compact(names), Verbs: slices.Clone(verbs)})
	}
	slices.SortFunc(rules, func(a, b rbacv1.PolicyRule) int {
		return cmp.Compare(strings.Join(a.APIGroups, ","), strings.Join(b.APIGroups, ","))
	})
	return rules, nil
}

// revoke takes the rights of an instance away.
func (p *pass) revoke(ctx context.Context) error {
	key := client.ObjectKey{Namespace: p.instance.Namespace, Name: rightsName(p.instance.Name)}
	for _, right := range []client.Object{&rbacv1.RoleBinding{}, &rbacv1.Role{}} {
		err := p.Live.Get(ctx, key, right)
		if apierrors.IsNotFound(err) || err == nil && right.GetLabels()[abmv1alpha1.LabelInstanceUID] != string(p.instance.UID) {
			continue
		}
		if err != nil {
			return fmt.Errorf("reading the rights of instance %s/%s: %w", p.instance.Namespace, p.instance.Name, err)
		}
		uid := right.GetUID()
		if right.GetDeletionTimestamp().IsZero() {
			if err := p.Client.Delete(ctx, right, client.Preconditions{UID: &uid}); client.IgnoreNotFound(err) != nil {
				return fmt.Errorf("revoking the rights of instance %s/%s: %w", p.instance.Namespace, p.instance.Name, err)
			}
		}
		patch := client.RawPatch("application/merge-patch+json", fmt.Appendf(nil, `{"metadata":{"uid":%q,"finalizers":null}}`, uid))
		if err := p.Client.Patch(ctx, right, patch); client.IgnoreNotFound(err) != nil {
			return fmt.Errorf("revoking the rights of instance %s/%s: %w", p.instance.Namespace, p.instance.Name, err)
		}
	}
	return nil
}
