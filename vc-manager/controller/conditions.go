package controller

import (
	"context"
	"errors"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	tenancyv1alpha1 "github.com/bulkhead-dev/bulkhead/api/tenancy/v1alpha1"
	"github.com/bulkhead-dev/bulkhead/internal/tenancy"
	"github.com/bulkhead-dev/bulkhead/vc-manager/apply"
	"github.com/bulkhead-dev/bulkhead/vc-manager/certificates"
	"github.com/bulkhead-dev/bulkhead/vc-manager/controlplane"
)

// Reasons of conditions, besides those of package v1alpha1.
const (
	reasonReady            = "Ready"
	reasonWaiting          = "Waiting"
	reasonFailed           = "Failed"
	reasonAuthorityLost    = "AuthorityLost"
	reasonControlPlaneLost = "ControlPlaneLost"
	reasonTerminating      = "Terminating"
	reasonAwaitingAddress  = "AwaitingAddress"
)

// ours are the condition types that vc-manager writes, in the order in which they
// come true, Ready last.
var ours = []string{
	tenancyv1alpha1.ConditionNamespaceReady,
	tenancyv1alpha1.ConditionCertificatesReady,
	tenancyv1alpha1.ConditionEtcdReady,
	tenancyv1alpha1.ConditionAPIServerReady,
	tenancyv1alpha1.ConditionControllerManagerReady,
	tenancyv1alpha1.ConditionSchedulerReady,
	tenancyv1alpha1.ConditionBootstrapped,
	tenancyv1alpha1.ConditionReady,
}

// blockedError says why a step cannot be done now. It is shown to the user and
// tried again later; it is not a fault of vc-manager.
type blockedError struct {
	reason  string
	message string
	warn    bool // worth an event
}

func (e *blockedError) Error() string { return e.message }

func (p *pass) set(condition string, status metav1.ConditionStatus, reason, message string) {
	before := meta.FindStatusCondition(p.status.Conditions, condition)
	was := before != nil && before.Status == metav1.ConditionTrue
	meta.SetStatusCondition(&p.status.Conditions, metav1.Condition{
		Type: condition, Status: status, Reason: reason, Message: message, ObservedGeneration: p.vc.Generation,
	})
	if status == metav1.ConditionTrue && !was {
		p.metrics.reached(p.vc.UID, condition)
	}
}

// announceChange writes an event when the virtual cluster has become ready or has
// ceased to be.
func (p *pass) announceChange() {
	before := meta.IsStatusConditionTrue(p.vc.Status.Conditions, tenancyv1alpha1.ConditionReady)
	now := meta.FindStatusCondition(p.status.Conditions, tenancyv1alpha1.ConditionReady)
	if now == nil || before == (now.Status == metav1.ConditionTrue) {
		return
	}
	if before {
		p.Recorder.Eventf(p.vc, nil, corev1.EventTypeWarning, "NotReady", "Reconcile", "%s", now.Message)
	} else {
		p.Recorder.Eventf(p.vc, nil, corev1.EventTypeNormal, "Ready", "Reconcile", "%s", now.Message)
	}
}

func (p *pass) done(condition, message string) {
	p.set(condition, metav1.ConditionTrue, reasonReady, message)
}

func (p *pass) wait(condition, message string) {
	p.set(condition, metav1.ConditionFalse, reasonWaiting, message)
}

func (p *pass) isTrue(condition string) bool {
	return meta.IsStatusConditionTrue(p.status.Conditions, condition)
}

// stopped writes down why a step could not be done, and returns the error if it is
// one that should be logged and retried with a growing delay.
func (p *pass) stopped(ctx context.Context, condition string, err error) error {
	var (
		foreign *tenancy.ForeignError
		lost    *certificates.AuthorityLostError
		blocked *blockedError
	)
	switch {
	case errors.As(err, &foreign):
		p.set(condition, metav1.ConditionFalse, tenancyv1alpha1.ReasonNameTaken, foreign.Error())
		p.announce(corev1.EventTypeWarning, tenancyv1alpha1.ReasonNameTaken, foreign.Error())
		err = nil
	case errors.As(err, &lost):
		p.set(condition, metav1.ConditionFalse, reasonAuthorityLost, lost.Error())
		p.announce(corev1.EventTypeWarning, reasonAuthorityLost, lost.Error())
		err = nil
	case errors.As(err, &blocked):
		p.set(condition, metav1.ConditionFalse, blocked.reason, blocked.message)
		if blocked.warn {
			p.announce(corev1.EventTypeWarning, blocked.reason, blocked.message)
		}
		err = nil
	case ctx.Err() == nil && !p.isTrue(condition):
		// What was true stays so when a request fails: it is about our request, not
		// about the tenant's cluster.
		p.set(condition, metav1.ConditionFalse, reasonFailed, err.Error())
	}
	if condition != tenancyv1alpha1.ConditionReady {
		p.summarize()
	}
	return err
}

// summarize sets Ready from all others.
func (p *pass) summarize() {
	for _, condition := range ours[:len(ours)-1] {
		if condition == tenancyv1alpha1.ConditionSchedulerReady && !controlplane.SchedulerWanted(p.input) {
			continue
		}
		present := meta.FindStatusCondition(p.status.Conditions, condition)
		if present == nil {
			p.set(condition, metav1.ConditionUnknown, reasonWaiting, "not looked at yet")
			present = meta.FindStatusCondition(p.status.Conditions, condition)
		}
		if present.Status != metav1.ConditionTrue {
			p.set(tenancyv1alpha1.ConditionReady, metav1.ConditionFalse, present.Reason, fmt.Sprintf("%s: %s", condition, present.Message))
			return
		}
	}
	switch {
	case p.exposure.url == "":
		p.set(tenancyv1alpha1.ConditionReady, metav1.ConditionFalse, reasonAwaitingAddress, p.exposure.waiting)
	case p.classErr != nil:
		p.set(tenancyv1alpha1.ConditionReady, metav1.ConditionTrue, tenancyv1alpha1.ReasonClassNotFound, p.classErr.Error())
	default:
		p.done(tenancyv1alpha1.ConditionReady, "the kubeconfig in secret "+p.status.ControlPlaneNamespace+"/"+tenancy.AdminKubeconfigSecret+" can be used")
	}
}

// announce writes an event unless the last one of its reason said the same.
func (p *pass) announce(eventType, reason, message string) {
	if p.known.announced[reason] == message {
		return
	}
	p.known.announced[reason] = message
	p.Recorder.Eventf(p.vc, nil, eventType, reason, "Reconcile", "%s", message)
}

// writeStatus stores the status if it changed. It applies our own conditions only,
// so that the syncer's are left alone.
func (p *pass) writeStatus(ctx context.Context) error {
	if equality.Semantic.DeepEqual(p.status, p.vc.Status) {
		return nil
	}
	if err := writeStatus(ctx, p.Client, p.vc, p.status); err != nil {
		return err
	}
	p.announceChange()
	return nil
}

func writeStatus(ctx context.Context, writer client.Client, vc *tenancyv1alpha1.VirtualCluster, status tenancyv1alpha1.VirtualClusterStatus) error {
	own := status.DeepCopy()
	own.Conditions = nil
	for _, condition := range ours {
		if present := meta.FindStatusCondition(status.Conditions, condition); present != nil {
			own.Conditions = append(own.Conditions, *present)
		}
	}
	content, err := runtime.DefaultUnstructuredConverter.ToUnstructured(own)
	if err != nil {
		return fmt.Errorf("encoding the status of %s: %w", client.ObjectKeyFromObject(vc), err)
	}
	configuration := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": tenancyv1alpha1.GroupVersion.String(), "kind": "VirtualCluster", "status": content,
	}}
	configuration.SetNamespace(vc.Namespace)
	configuration.SetName(vc.Name)
	configuration.SetUID(vc.UID)
	err = writer.Status().Apply(ctx, client.ApplyConfigurationFromUnstructured(configuration), client.FieldOwner(apply.FieldManager), client.ForceOwnership)
	if err != nil {
		return fmt.Errorf("writing the status of %s: %w", client.ObjectKeyFromObject(vc), err)
	}
	return nil
}
