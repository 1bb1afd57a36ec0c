// Package admission refuses, where their author looks, definitions that cannot be
// carried out and purchases that do not fit their service. What OpenAPI and CEL in
// the CRDs can say is said there; here is what they cannot: whether a definition's
// graph has circles and its expressions compile, whether a buyer's parameters fit a
// schema that is itself an object, and who intervenes.
package admission

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"

	authorizationv1 "k8s.io/api/authorization/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/webhook/admission"

	admissionv1 "k8s.io/api/admission/v1"

	"github.com/bulkhead-dev/bulkhead/abm/service"
	abmv1alpha1 "github.com/bulkhead-dev/bulkhead/api/abm/v1alpha1"
)

// Definitions checks ServiceDefinitions.
type Definitions struct {
	// Mapper knows the super cluster's kinds.
	Mapper meta.RESTMapper
}

// Handle answers a request about one.
func (d *Definitions) Handle(ctx context.Context, request admission.Request) admission.Response {
	definition := &abmv1alpha1.ServiceDefinition{}
	if err := json.Unmarshal(request.Object.Raw, definition); err != nil {
		return admission.Errored(http.StatusBadRequest, fmt.Errorf("reading the ServiceDefinition: %w", err))
	}
	_, problems := service.Compile(ctx, &definition.Spec, field.NewPath("spec"))
	for i, kind := range definition.Spec.Access.Super {
		// A kind that is not there yet may come with another chart.
		mapping, err := d.Mapper.RESTMapping(schema.GroupKind{Group: kind.Group, Kind: kind.Kind})
		if err == nil && mapping.Scope.Name() != meta.RESTScopeNameNamespace {
			problems = append(problems, field.Forbidden(field.NewPath("spec", "access", "super").Index(i), "the kind is cluster-wide: a service touches nothing in the super cluster but the instance's namespace"))
		}
	}
	return answer("ServiceDefinition", request.Name, problems)
}

// Instances checks ServiceInstances.
type Instances struct {
	// Live reads the super cluster without a cache.
	Live client.Reader
	// Client asks who may do what.
	Client client.Client
}

// Handle answers a request about one.
func (i *Instances) Handle(ctx context.Context, request admission.Request) admission.Response {
	instance, old := &abmv1alpha1.ServiceInstance{}, (*abmv1alpha1.ServiceInstance)(nil)
	if err := json.Unmarshal(request.Object.Raw, instance); err != nil {
		return admission.Errored(http.StatusBadRequest, fmt.Errorf("reading the ServiceInstance: %w", err))
	}
	if request.Operation == admissionv1.Update {
		old = &abmv1alpha1.ServiceInstance{}
		if err := json.Unmarshal(request.OldObject.Raw, old); err != nil {
			return admission.Errored(http.StatusBadRequest, fmt.Errorf("reading the ServiceInstance as it was: %w", err))
		}
	}
	problems, err := i.checkInterventions(ctx, &request, instance, old)
	if err != nil {
		return admission.Errored(http.StatusInternalServerError, err)
	}
	// What is being released needs to fit nothing any more.
	if instance.DeletionTimestamp.IsZero() {
		wrong, err := i.checkPurchase(ctx, instance, old)
		if err != nil {
			return admission.Errored(http.StatusInternalServerError, err)
		}
		problems = append(problems, wrong...)
	}
	return answer("ServiceInstance", request.Name, problems)
}

func (i *Instances) checkPurchase(ctx context.Context, instance, old *abmv1alpha1.ServiceInstance) (field.ErrorList, error) {
	spec := field.NewPath("spec")
	name, at := instance.Spec.Revision, spec.Child("revision")
	if name == "" {
		name = instance.Status.Revision
	}
	if name == "" {
		at = spec.Child("serviceName")
		definition := &abmv1alpha1.ServiceDefinition{}
		err := i.Live.Get(ctx, client.ObjectKey{Name: instance.Spec.ServiceName}, definition)
		switch {
		case apierrors.IsNotFound(err):
			return field.ErrorList{field.NotFound(at, instance.Spec.ServiceName)}, nil
		case err != nil:
			return nil, fmt.Errorf("reading ServiceDefinition %s: %w", instance.Spec.ServiceName, err)
		case definition.Status.LatestRevision == "":
			return field.ErrorList{field.Invalid(at, instance.Spec.ServiceName, "the service is not on sale yet: it has no revision")}, nil
		}
		name = definition.Status.LatestRevision
	}
	revision := &abmv1alpha1.ServiceRevision{}
	if err := i.Live.Get(ctx, client.ObjectKey{Name: name}, revision); err != nil {
		if apierrors.IsNotFound(err) {
			return field.ErrorList{field.NotFound(at, name)}, nil
		}
		return nil, fmt.Errorf("reading ServiceRevision %s: %w", name, err)
	}
	if revision.ServiceName != instance.Spec.ServiceName {
		return field.ErrorList{field.Invalid(at, name, "is one of service "+revision.ServiceName)}, nil
	}
	compiled, err := service.Decode(ctx, revision)
	if err != nil {
		return nil, err
	}
	var problems field.ErrorList
	if old != nil {
		_, problems = compiled.Check(ctx, &instance.Spec, old.Spec.Parameters, spec)
	} else {
		_, problems = compiled.Check(ctx, &instance.Spec, nil, spec)
	}
	for n, intervention := range instance.Spec.Interventions {
		if _, found := compiled.Step(intervention.Step); !found && (old == nil || !slices.Contains(old.Spec.Interventions, intervention)) {
			problems = append(problems, field.NotFound(spec.Child("interventions").Index(n).Child("step"), intervention.Step))
		}
	}
	return problems, nil
}

// checkInterventions sees that each new intervention is by whoever makes the request,
// and that they may.
func (i *Instances) checkInterventions(ctx context.Context, request *admission.Request, instance, old *abmv1alpha1.ServiceInstance) (field.ErrorList, error) {
	var problems field.ErrorList
	for n, intervention := range instance.Spec.Interventions {
		if old != nil && slices.Contains(old.Spec.Interventions, intervention) {
			continue
		}
		path := field.NewPath("spec", "interventions").Index(n)
		if intervention.By != request.UserInfo.Username {
			problems = append(problems, field.Invalid(path.Child("by"), intervention.By, fmt.Sprintf("must be %q, who makes the request", request.UserInfo.Username)))
			continue
		}
		verb := map[abmv1alpha1.InterventionAction]string{abmv1alpha1.ActionApprove: "approve", abmv1alpha1.ActionSkip: "skip"}[intervention.Action]
		if verb == "" {
			continue
		}
		allowed, err := i.allowed(ctx, request, verb)
		if err != nil {
			return nil, err
		}
		if !allowed {
			problems = append(problems, field.Forbidden(path.Child("action"), fmt.Sprintf("%s may not %s serviceinstances in namespace %s", request.UserInfo.Username, verb, request.Namespace)))
		}
	}
	return problems, nil
}

func (i *Instances) allowed(ctx context.Context, request *admission.Request, verb string) (bool, error) {
	user := request.UserInfo
	review := &authorizationv1.SubjectAccessReview{Spec: authorizationv1.SubjectAccessReviewSpec{
		User: user.Username, Groups: user.Groups, UID: user.UID, Extra: map[string]authorizationv1.ExtraValue{},
		ResourceAttributes: &authorizationv1.ResourceAttributes{
			Group: abmv1alpha1.GroupVersion.Group, Version: abmv1alpha1.GroupVersion.Version, Resource: "serviceinstances",
			Namespace: request.Namespace, Name: request.Name, Verb: verb,
		},
	}}
	for key, values := range user.Extra {
		review.Spec.Extra[key] = authorizationv1.ExtraValue(values)
	}
	if err := i.Client.Create(ctx, review); err != nil {
		return false, fmt.Errorf("asking whether %s may %s serviceinstances: %w", user.Username, verb, err)
	}
	return review.Status.Allowed, nil
}

// answer lets a request pass, or refuses it as a kube-apiserver refuses what its own
// validation finds: with the path of each mistake.
func answer(kind, name string, problems field.ErrorList) admission.Response {
	if len(problems) == 0 {
		return admission.Allowed("")
	}
	refusal := apierrors.NewInvalid(schema.GroupKind{Group: abmv1alpha1.GroupVersion.Group, Kind: kind}, name, problems)
	status := refusal.Status()
	return admission.Response{AdmissionResponse: admissionv1.AdmissionResponse{Allowed: false, Result: &metav1.Status{
		Status: metav1.StatusFailure, Code: status.Code, Reason: status.Reason, Message: status.Message, Details: status.Details,
	}}}
}
