// Package apply brings objects in the super cluster to the state vc-manager wants,
// without ever touching one that is not its tenant's.
package apply

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/sync/errgroup"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/client-go/util/csaupgrade"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/bulkhead-dev/bulkhead/internal/tenancy"
)

// FieldManager names vc-manager in managed fields, in every cluster.
const FieldManager = "vc-manager"

// parallel bounds the requests of one All.
const parallel = 16

// Applier creates and changes objects of tenants.
type Applier struct {
	// Writer is the super cluster.
	Writer client.Writer
	// Live reads it without a cache.
	Live client.Reader
}

// All brings every object to the wanted state, several at a time, and returns what
// is stored, in the same order. An error of one keeps it from none of the others.
func (a *Applier) All(ctx context.Context, reader client.Reader, tenant tenancy.Tenant, wanted []client.Object) ([]client.Object, error) {
	stored := make([]client.Object, len(wanted))
	problems := make([]error, len(wanted))
	var group errgroup.Group
	group.SetLimit(parallel)
	for i, object := range wanted {
		group.Go(func() error {
			stored[i], problems[i] = a.One(ctx, reader, tenant, object)
			return nil
		})
	}
	_ = group.Wait()
	return stored, errors.Join(problems...)
}

// One brings an object to the wanted state and returns what is stored. What is
// there is read from reader, which may be a cache. An object of the name that is
// not the tenant's is a *tenancy.ForeignError.
func (a *Applier) One(ctx context.Context, reader client.Reader, tenant tenancy.Tenant, wanted client.Object) (client.Object, error) {
	name := Describe(wanted)
	present := empty(wanted)
	err := reader.Get(ctx, client.ObjectKeyFromObject(wanted), present)
	if apierrors.IsNotFound(err) {
		var created client.Object
		if created, err = a.Create(ctx, tenant, wanted); !apierrors.IsAlreadyExists(err) {
			return created, err
		}
		// The cache had not seen it yet.
		err = a.Live.Get(ctx, client.ObjectKeyFromObject(wanted), present)
	}
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", name, err)
	}
	if err := tenancy.CheckOwned(present, tenant, tenancy.ManagedByManager, name); err != nil {
		return nil, err
	}
	manifest, err := Manifest(wanted)
	if err != nil {
		return nil, err
	}
	if same, err := matches(present, manifest); err != nil || same {
		return present, err
	}
	return a.change(ctx, tenant, wanted, manifest)
}

// Create creates an object, and fails with AlreadyExists where there is one. It
// does not use server-side apply, which would take over whatever has the name.
func (a *Applier) Create(ctx context.Context, tenant tenancy.Tenant, wanted client.Object) (client.Object, error) {
	manifest, err := Manifest(wanted)
	if err != nil {
		return nil, err
	}
	created := wanted.DeepCopyObject().(client.Object)
	created.SetAnnotations(manifest.GetAnnotations())
	if err := a.Writer.Create(ctx, created, client.FieldOwner(FieldManager)); err != nil {
		return nil, fmt.Errorf("creating %s of %s: %w", Describe(wanted), tenant, err)
	}
	return created, nil
}

// change applies the manifest to the object that is there now, and to no other:
// the UID in it makes the server refuse if the object was replaced meanwhile.
func (a *Applier) change(ctx context.Context, tenant tenancy.Tenant, wanted client.Object, manifest *unstructured.Unstructured) (client.Object, error) {
	name := Describe(wanted)
	present := empty(wanted)
	if err := a.Live.Get(ctx, client.ObjectKeyFromObject(wanted), present); err != nil {
		return nil, fmt.Errorf("reading %s: %w", name, err)
	}
	if err := tenancy.CheckOwned(present, tenant, tenancy.ManagedByManager, name); err != nil {
		return nil, err
	}
	// What Create set is recorded as owned by an Update. Were it left at that, a field
	// that we cease to set would stay.
	patch, err := csaupgrade.UpgradeManagedFieldsPatch(present, sets.New(FieldManager), FieldManager)
	if err != nil {
		return nil, fmt.Errorf("reading the managed fields of %s: %w", name, err)
	}
	if patch != nil {
		if err := a.Writer.Patch(ctx, present, client.RawPatch(types.JSONPatchType, patch)); err != nil {
			return nil, fmt.Errorf("taking over the fields of %s: %w", name, err)
		}
	}
	manifest.SetUID(present.GetUID())
	if err := a.Writer.Apply(ctx, client.ApplyConfigurationFromUnstructured(manifest), client.FieldOwner(FieldManager), client.ForceOwnership); err != nil {
		return nil, fmt.Errorf("changing %s of %s: %w", name, tenant, err)
	}
	changed := empty(wanted)
	if err := unstructuredConverter.FromUnstructured(manifest.Object, changed); err != nil {
		return nil, fmt.Errorf("reading %s: %w", name, err)
	}
	return changed, nil
}

// Delete deletes the object if it exists and is the tenant's; it reports whether
// it is gone. The deletion names the UID that was looked at.
func (a *Applier) Delete(ctx context.Context, tenant tenancy.Tenant, object client.Object) (gone bool, err error) {
	name := Describe(object)
	present := empty(object)
	if err := a.Live.Get(ctx, client.ObjectKeyFromObject(object), present); err != nil {
		if apierrors.IsNotFound(err) {
			return true, nil
		}
		return false, fmt.Errorf("reading %s: %w", name, err)
	}
	if err := tenancy.CheckOwned(present, tenant, tenancy.ManagedByManager, name); err != nil {
		return false, err
	}
	uid := present.GetUID()
	err = a.Writer.Delete(ctx, present, client.Preconditions{UID: &uid}, client.PropagationPolicy("Background"))
	if err != nil && !apierrors.IsNotFound(err) {
		return false, fmt.Errorf("deleting %s of %s: %w", name, tenant, err)
	}
	return apierrors.IsNotFound(err), nil
}
