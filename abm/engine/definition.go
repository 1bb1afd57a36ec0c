package engine

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/client-go/tools/events"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/bulkhead-dev/bulkhead/abm/service"
	abmv1alpha1 "github.com/bulkhead-dev/bulkhead/api/abm/v1alpha1"
)

// keptRevisions is how many revisions that nobody uses are kept besides the latest.
const keptRevisions = 5

// Definitions makes revisions of ServiceDefinitions, and removes those that nobody
// needs any more. Requests are names of services.
type Definitions struct {
	Client   client.Client
	Live     client.Reader
	Recorder events.EventRecorder
}

// Reconcile looks at one service's definition and revisions.
func (d *Definitions) Reconcile(ctx context.Context, request ctrl.Request) (ctrl.Result, error) {
	definition := &abmv1alpha1.ServiceDefinition{}
	err := d.Live.Get(ctx, client.ObjectKey{Name: request.Name}, definition)
	if client.IgnoreNotFound(err) != nil {
		return ctrl.Result{}, fmt.Errorf("reading ServiceDefinition %s: %w", request.Name, err)
	}
	latest := ""
	if err == nil {
		if latest, err = d.revise(ctx, definition); err != nil {
			return ctrl.Result{}, err
		}
	}
	return ctrl.Result{}, d.clean(ctx, request.Name, latest)
}

// RevisionName is the name of the revision that has the content.
func RevisionName(service string, spec []byte) string {
	sum := sha256.Sum256(spec)
	return service + "-" + hex.EncodeToString(sum[:])[:10]
}

// revise makes the revision of what a definition says now.
func (d *Definitions) revise(ctx context.Context, definition *abmv1alpha1.ServiceDefinition) (string, error) {
	before := definition.DeepCopy()
	accepted := metav1.Condition{Type: abmv1alpha1.ConditionAccepted, Status: metav1.ConditionTrue, Reason: "Accepted", ObservedGeneration: definition.Generation}
	if _, problems := service.Compile(ctx, &definition.Spec, field.NewPath("spec")); len(problems) > 0 {
		// The revision before stays on sale: a mistake closes no shop.
		accepted.Status, accepted.Reason, accepted.Message = metav1.ConditionFalse, "Invalid", shortened(problems.ToAggregate().Error())
	} else {
		data, err := json.Marshal(definition.Spec)
		if err != nil {
			return "", fmt.Errorf("encoding ServiceDefinition %s: %w", definition.Name, err)
		}
		name := RevisionName(definition.Name, data)
		revision := &abmv1alpha1.ServiceRevision{
			ObjectMeta:  metav1.ObjectMeta{Name: name, Labels: map[string]string{abmv1alpha1.LabelService: definition.Name}},
			ServiceName: definition.Name, Spec: runtime.RawExtension{Raw: data},
		}
		if err := d.Client.Create(ctx, revision); err != nil && !apierrors.IsAlreadyExists(err) {
			return "", fmt.Errorf("creating ServiceRevision %s: %w", name, err)
		}
		accepted.Message = "revision " + name
		definition.Status.LatestRevision = name
	}
	if meta.SetStatusCondition(&definition.Status.Conditions, accepted); !equality.Semantic.DeepEqual(before.Status, definition.Status) {
		if err := d.Client.Status().Patch(ctx, definition, client.MergeFrom(before)); client.IgnoreNotFound(err) != nil {
			return "", fmt.Errorf("writing the status of ServiceDefinition %s: %w", definition.Name, err)
		}
		if accepted.Status == metav1.ConditionFalse {
			d.Recorder.Eventf(definition, nil, corev1.EventTypeWarning, "Invalid", "Revise", "%s", accepted.Message)
		}
	}
	return definition.Status.LatestRevision, nil
}

// clean removes revisions that nobody uses: all but the latest ones, and all of a
// service that is not defined any more.
func (d *Definitions) clean(ctx context.Context, name, latest string) error {
	var revisions abmv1alpha1.ServiceRevisionList
	if err := d.Live.List(ctx, &revisions, client.MatchingLabels{abmv1alpha1.LabelService: name}); err != nil {
		return fmt.Errorf("listing the revisions of service %s: %w", name, err)
	}
	if len(revisions.Items) == 0 || latest != "" && len(revisions.Items) <= keptRevisions+1 {
		return nil
	}
	var instances abmv1alpha1.ServiceInstanceList
	if err := d.Live.List(ctx, &instances); err != nil {
		return fmt.Errorf("listing the instances of service %s: %w", name, err)
	}
	used := map[string]bool{latest: true}
	for _, instance := range instances.Items {
		used[instance.Spec.Revision] = true
		used[instance.Status.Revision] = true
		if latest == "" && instance.Spec.ServiceName == name && instance.Status.Revision == "" {
			// It may have chosen one that its status does not show yet.
			return nil
		}
	}
	unused := slices.DeleteFunc(revisions.Items, func(r abmv1alpha1.ServiceRevision) bool { return used[r.Name] || r.ServiceName != name })
	slices.SortFunc(unused, func(a, b abmv1alpha1.ServiceRevision) int {
		return cmp.Or(b.CreationTimestamp.Compare(a.CreationTimestamp.Time), cmp.Compare(a.Name, b.Name))
	})
	keep := keptRevisions
	if latest == "" {
		keep = 0
	}
	for i := keep; i < len(unused); i++ {
		uid := unused[i].UID
		if err := d.Client.Delete(ctx, &unused[i], client.Preconditions{UID: &uid}); client.IgnoreNotFound(err) != nil {
			return fmt.Errorf("removing ServiceRevision %s: %w", unused[i].Name, err)
		}
	}
	return nil
}
