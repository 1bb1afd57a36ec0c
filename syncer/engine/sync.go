package engine

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/bulkhead-dev/bulkhead/internal/tenancy"
	"github.com/bulkhead-dev/bulkhead/syncer/translation"
)

// Sync is the handling of one key: both sides as they are now.
type Sync[T Object] struct {
	*Link
	Key Key
	// Tenant and Super are nil where there is no such object. They are not to be
	// changed: what they refer to is the caches', and what has changed is found by
	// comparing with them.
	Tenant, Super T
	kind          *Down[T]
	// early: Super is not from the cache, which has not shown it yet.
	early bool
}

// ours tells whether the super object is marked as one that stands for a tenant's
// object. The super cluster's own controllers copy labels, but not these marks:
// Endpoints have the labels of their Service.
func (s *Sync[T]) ours() bool {
	if !present(s.Super) {
		return false
	}
	_, ok := tenancy.OriginOf(s.Super)
	return ok
}

// standsFor tells whether the super object was made for this very tenant object,
// and not for one of the same name before it.
func (s *Sync[T]) standsFor() bool {
	origin, ok := tenancy.OriginOf(s.Super)
	return ok && origin.UID == s.Tenant.GetUID()
}

// checkOwned returns a *tenancy.ForeignError unless the super object is this key's.
func (s *Sync[T]) checkOwned(super T) error {
	tenant := s.Link.Tenant().Tenant
	at := s.kind.superKey(s.Link, s.Key)
	what := fmt.Sprintf("%s %s", s.kind.Name, at.Name)
	if err := tenancy.CheckOwned(super, tenant, tenancy.ManagedBySyncer, what); err != nil {
		return err
	}
	key, marked := s.kind.tenantKey(super)
	switch {
	case !marked:
		return &tenancy.ForeignError{Object: what, Owner: "the super cluster"}
	case key != s.Key:
		return &tenancy.ForeignError{Object: what, Owner: key.String()}
	}
	return nil
}

// CreateSuper makes the super object. It reports whether there is one now: not if
// the translation refuses the tenant's object, which it is then told.
func (s *Sync[T]) CreateSuper(ctx context.Context) (bool, error) {
	desired, found, err := s.translate(ctx)
	if err != nil {
		return false, err
	}
	s.report(ctx, found)
	if translation.Refused(found) {
		return false, nil
	}
	if s.Key.Namespace != "" {
		if err := s.Ensure(ctx, Key{Resource: "namespaces", Name: s.Key.Namespace}); err != nil {
			return false, err
		}
	}
	if s.kind.Prepare != nil {
		if err := s.kind.Prepare(ctx, s); err != nil {
			return false, err
		}
	}
	super, err := s.create(ctx, desired)
	if err != nil {
		return false, err
	}
	s.Super = super
	return true, nil
}

func (s *Sync[T]) translate(ctx context.Context) (T, []translation.Finding, error) {
	var none T
	desired, found, err := s.kind.Translate(ctx, s.Link, s.Tenant)
	if err != nil {
		return none, nil, fmt.Errorf("translating %s: %w", s.Key, err)
	}
	at := s.kind.superKey(s.Link, s.Key)
	desired.SetNamespace(at.Namespace)
	desired.SetName(at.Name)
	labels, annotations, more := s.metadata()
	own, extra := desired.GetLabels(), desired.GetAnnotations()
	desired.SetLabels(joined(labels, own))
	desired.SetAnnotations(joined(annotations, extra, carried(labels, annotations)))
	tenancy.Mark(desired, s.Link.Tenant().Tenant, tenancy.ManagedBySyncer, s.Tenant)
	return desired, append(found, more...), nil
}

func (s *Sync[T]) metadata() (labels, annotations map[string]string, found []translation.Finding) {
	if s.kind.Metadata != nil {
		return s.kind.Metadata(s.Tenant)
	}
	labels, found = translation.Labels(s.Tenant)
	return labels, nil, found
}

// UpdateSuper writes what has changed in the tenant's object onto the super object.
func (s *Sync[T]) UpdateSuper(ctx context.Context) error {
	if err := s.checkOwned(s.Super); err != nil {
		return err
	}
	if s.Super.GetDeletionTimestamp() != nil {
		return nil
	}
	changed := s.Super.DeepCopyObject().(T)
	var found []translation.Finding
	if s.kind.Update != nil {
		labels, annotations, more := s.metadata()
		mergeMetadata(changed, labels, annotations)
		found = append(s.kind.Update(s.Link, s.Tenant, changed), more...)
	} else {
		desired, more, err := s.translate(ctx)
		if err != nil {
			return err
		}
		if s.kind.Replace != nil && !translation.Refused(more) && s.kind.Replace(s.Super, desired) {
			return s.DeleteSuper(ctx) // its deletion comes as an event, and it is made anew
		}
		labels, annotations, _ := s.metadata()
		mergeMetadata(changed, labels, annotations)
		setOwn(changed, desired)
		if s.kind.Merge != nil {
			s.kind.Merge(changed, desired)
		}
		found = more
	}
	s.report(ctx, found)
	if translation.Refused(found) || same(s.Super, changed) {
		return nil
	}
	return s.patchSuper(ctx, changed)
}

// PushStatus writes the status that comes up onto the tenant's object.
func (s *Sync[T]) PushStatus(ctx context.Context) error {
	if s.kind.Status == nil || !present(s.Super) {
		return nil
	}
	changed := s.Tenant.DeepCopyObject().(T)
	s.kind.Status(s.Link, s.Super, changed)
	if same(s.Tenant, changed) {
		return nil
	}
	s.countWrite(s.kind.Name, "tenant", "status")
	err := s.TenantClient().Status().Patch(ctx, changed, client.MergeFromWithOptions(s.Tenant, client.MergeFromWithOptimisticLock{}))
	if err != nil {
		return fmt.Errorf("writing the status of %s in the tenant's cluster: %w", s.Key, err)
	}
	s.Tenant = changed
	return nil
}

// report tells the tenant what it does not get.
func (s *Sync[T]) report(ctx context.Context, found []translation.Finding) {
	if s.rehearsal != nil {
		return
	}
	h := handlingOf(ctx)
	if text := translation.Summary(found, true); text != "" {
		h.found(s.Key, text)
		findings.WithLabelValues(s.kind.Name, "refused").Inc()
		s.Event(ctx, s.Tenant, corev1.EventTypeWarning, ReasonRefused, text)
	}
	if text := translation.Summary(found, false); text != "" {
		h.found(s.Key, text)
		findings.WithLabelValues(s.kind.Name, "ignored").Inc()
		s.Event(ctx, s.Tenant, corev1.EventTypeWarning, ReasonIgnored, text)
	}
}
