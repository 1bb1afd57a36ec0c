package engine

import (
	"context"
	"fmt"

	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"

	abmv1alpha1 "github.com/bulkhead-dev/bulkhead/api/abm/v1alpha1"
)

// recordName is that of a step's record. Neither instances nor steps have dots in
// their names.
func recordName(instance, step string) string { return instance + "." + step }

// listRecords reads an instance's ledger, by step.
func (r *Reconciler) listRecords(ctx context.Context, instance *abmv1alpha1.ServiceInstance) (map[string]*abmv1alpha1.StepRecord, error) {
	var list abmv1alpha1.StepRecordList
	if err := r.Live.List(ctx, &list, client.InNamespace(instance.Namespace), client.MatchingLabels{abmv1alpha1.LabelInstanceUID: string(instance.UID)}); err != nil {
		return nil, fmt.Errorf("reading the ledger of instance %s/%s: %w", instance.Namespace, instance.Name, err)
	}
	records := map[string]*abmv1alpha1.StepRecord{}
	for i := range list.Items {
		if record := &list.Items[i]; record.Instance.UID == instance.UID {
			records[record.Step] = record
		}
	}
	return records, nil
}

// newRecord is an empty record of a step.
func (p *pass) newRecord(step string) *abmv1alpha1.StepRecord {
	return &abmv1alpha1.StepRecord{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: p.instance.Namespace, Name: recordName(p.instance.Name, step),
			Labels: map[string]string{
				abmv1alpha1.LabelInstanceUID: string(p.instance.UID), abmv1alpha1.LabelInstance: p.instance.Name,
				abmv1alpha1.LabelService: p.instance.Spec.ServiceName, abmv1alpha1.LabelStep: step,
			},
			Finalizers: []string{abmv1alpha1.Finalizer},
		},
		Instance: abmv1alpha1.InstanceReference{Name: p.instance.Name, UID: p.instance.UID},
		Step:     step,
	}
}

// store writes a record where it differs from what is stored. Nothing is done for a
// step before its intent is stored, and a record that somebody else changed is an
// error: the next pass reads it anew.
func (p *pass) store(ctx context.Context, record, before *abmv1alpha1.StepRecord) error {
	if before == nil {
		if err := p.Client.Create(ctx, record); err != nil {
			return fmt.Errorf("writing record %s: %w", record.Name, err)
		}
		p.records[record.Step] = record
		return nil
	}
	if equality.Semantic.DeepEqual(record, before) {
		return nil
	}
	if err := p.Client.Update(ctx, record); err != nil {
		return fmt.Errorf("writing record %s: %w", record.Name, err)
	}
	return nil
}

// strike removes the record of a step that is taken back.
func (p *pass) strike(ctx context.Context, record *abmv1alpha1.StepRecord) error {
	if record.DeletionTimestamp.IsZero() {
		uid := record.UID
		if err := p.Client.Delete(ctx, record, client.Preconditions{UID: &uid}); client.IgnoreNotFound(err) != nil {
			return fmt.Errorf("removing record %s: %w", record.Name, err)
		}
		if err := p.Live.Get(ctx, client.ObjectKeyFromObject(record), record); err != nil {
			if apierrors.IsNotFound(err) {
				delete(p.records, record.Step)
				return nil
			}
			return fmt.Errorf("removing record %s: %w", record.Name, err)
		}
	}
	patch := client.MergeFromWithOptions(record.DeepCopy(), client.MergeFromWithOptimisticLock{})
	controllerutil.RemoveFinalizer(record, abmv1alpha1.Finalizer)
	if err := p.Client.Patch(ctx, record, patch); client.IgnoreNotFound(err) != nil {
		return fmt.Errorf("removing record %s: %w", record.Name, err)
	}
	delete(p.records, record.Step)
	return nil
}
