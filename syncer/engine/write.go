package engine

import (
	"context"
	"errors"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/apiutil"

	"github.com/bulkhead-dev/bulkhead/internal/tenancy"
	"github.com/bulkhead-dev/bulkhead/syncer/translation"
)

func (e *Engine) gvkOf(object client.Object) (schema.GroupVersionKind, error) {
	gvk, err := apiutil.GVKForObject(object, e.scheme)
	if err != nil {
		return gvk, fmt.Errorf("finding the kind of %T: %w", object, err)
	}
	return gvk, nil
}

// foreignError returns the *tenancy.ForeignError in err, or nil.
func foreignError(err error) *tenancy.ForeignError {
	var foreign *tenancy.ForeignError
	if errors.As(err, &foreign) {
		return foreign
	}
	return nil
}

// create makes a super object. Where one of that name exists that the cache did not
// show, it is read, and returned if it is this key's; s.early says so then.
func (s *Sync[T]) create(ctx context.Context, desired T) (T, error) {
	var none T
	s.countWrite(s.kind.Name, "super", "create")
	err := s.SuperClient().Create(ctx, desired)
	switch {
	case err == nil:
		return desired, nil
	case apierrors.IsAlreadyExists(err):
		live, err := Get[T](ctx, s.SuperClient(), desired.GetNamespace(), desired.GetName())
		switch {
		case err != nil:
			return none, err
		case !present(live):
			return none, Wait("%s to be gone", s.Key)
		}
		if err := s.checkOwned(live); err != nil {
			return none, err
		}
		if origin, _ := tenancy.OriginOf(live); origin.UID != s.Tenant.GetUID() {
			return none, Wait("%s of the same name to go", s.Key)
		}
		s.early = true
		return live, nil
	}
	s.refusedBySuper(ctx, err)
	return none, fmt.Errorf("creating %s in the super cluster: %w", s.Key, err)
}

func (s *Sync[T]) patchSuper(ctx context.Context, changed T) error {
	s.countWrite(s.kind.Name, "super", "patch")
	err := s.SuperClient().Patch(ctx, changed, client.MergeFromWithOptions(s.Super, client.MergeFromWithOptimisticLock{}))
	if err != nil {
		s.refusedBySuper(ctx, err)
		return fmt.Errorf("changing %s in the super cluster: %w", s.Key, err)
	}
	s.Super = changed
	return nil
}

// refusedBySuper tells the tenant that the super cluster does not take its object,
// in the tenant's own words.
func (s *Sync[T]) refusedBySuper(ctx context.Context, err error) {
	if !RefusesObject(err) {
		return
	}
	message := translation.NewMessage(s.Link.Tenant(), s.Key.Namespace, "", "")
	s.Event(ctx, s.Tenant, corev1.EventTypeWarning, ReasonNotAccepted, "the platform does not accept it now: "+message.Clean(err.Error()))
}

// DeleteSuper deletes the super object, and no other of its name. Before that it
// makes sure, by asking the tenant's apiserver itself, that its object is gone or
// another one: a cache may show the past.
func (s *Sync[T]) DeleteSuper(ctx context.Context, options ...client.DeleteOption) error {
	if err := s.checkOwned(s.Super); err != nil {
		return err
	}
	if s.Super.GetDeletionTimestamp() != nil && len(options) == 0 {
		return nil
	}
	if !present(s.Tenant) {
		live, err := Get[T](ctx, s.TenantClient(), s.Key.Namespace, s.Key.Name)
		if err != nil {
			return err
		}
		if origin, _ := tenancy.OriginOf(s.Super); present(live) && live.GetUID() == origin.UID && (s.kind.Cached == nil || s.kind.Cached(live)) {
			return Wait("the cache to show %s", s.Key)
		}
	}
	s.countWrite(s.kind.Name, "super", "delete")
	s.log.V(1).Info("deleting in the super cluster", "key", s.Key, "uid", s.Super.GetUID())
	return deleteObject(ctx, s.SuperClient(), s.Super, s.Key, "super", options...)
}

// deleteObject deletes an object unless there is another of its name by now.
func deleteObject(ctx context.Context, c client.Client, object client.Object, key Key, side string, options ...client.DeleteOption) error {
	uid := object.GetUID()
	options = append(options, client.Preconditions{UID: &uid})
	if err := c.Delete(ctx, object, options...); err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
		return fmt.Errorf("deleting %s in the %s cluster: %w", key, side, err)
	}
	return nil
}
