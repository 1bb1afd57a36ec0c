package main

import (
	"crypto/x509"
	"net/http"
	"strings"
	"testing"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/bulkhead-dev/bulkhead/abm/rbac"
	abmv1alpha1 "github.com/bulkhead-dev/bulkhead/api/abm/v1alpha1"
)

// Who does not know the path gets no answer, and the certificate is the authority's
// that the configuration names.
func checkWebhookClosed(t *testing.T, admin client.Client, o options) {
	configuration := &admissionregistrationv1.ValidatingWebhookConfiguration{}
	if err := admin.Get(t.Context(), client.ObjectKey{Name: rbac.WebhookConfiguration}, configuration); err != nil {
		t.Fatal(err)
	}
	trust := x509.NewCertPool()
	if !trust.AppendCertsFromPEM(configuration.Webhooks[0].ClientConfig.CABundle) {
		t.Fatal("no authority is published")
	}
	for _, path := range []string{"/", definitionsPath, instancesPath, "/x" + definitionsPath} {
		if err := expect("https://"+o.webhookAddress+path, trust, http.StatusNotFound); err != nil {
			t.Error(err)
		}
	}
	for _, hook := range configuration.Webhooks {
		// It is there, and wants a review.
		if err := expect(*hook.ClientConfig.URL, trust, http.StatusOK); err != nil {
			t.Error(err)
		}
	}
	if err := expect("http://"+o.webhookAddress+"/", nil, http.StatusBadRequest); err != nil {
		t.Error(err)
	}
}

func checkDefinitions(t *testing.T, admin client.Client) {
	for name, tc := range map[string]struct{ old, new, says string }{
		// By the webhook.
		"circle":       {"steps:\n  - name: greet\n", "order: Graph\n  steps:\n  - name: greet\n    needs: [greet]\n", "spec.steps[0].needs: Invalid value: \"greet needs greet\""},
		"expression":   {"${params.greeting}", "${params.nope}", "spec.steps[0].manifests.objects[0].template.data.greeting"},
		"kind":         {"[{kind: ConfigMap}]", "[{kind: Secret}]", "spec.access.super opens"},
		"cluster-wide": {"[{kind: ConfigMap}]", "[{kind: ConfigMap}, {kind: Namespace}]", "spec.access.super[1]: Forbidden"},
		"schema":       {"maxLength: 20", "maxLength: -1", "spec.parameterSchema"},
		// By the API server itself.
		"two types": {"approval: {question: 'go on?'}", "{approval: {question: x}, wait: {until: x, object: {apiVersion: v1, kind: X, name: x}}}", "exactly one of manifests, wait, http and approval"},
		"no type":   {"  - name: ask\n    approval: {question: 'go on?'}", "  - name: ask", "exactly one of"},
		"condition": {"- name: greet\n", "- name: greet\n    condition: Ready\n", "are ABM's own"},
		"no plan":   {"plans: [{name: small}]", "plans: []", "spec.plans"},
		"long name": {"{name: greeter}", "{name: " + strings.Repeat("x", 51) + "}", "50 characters"},
	} {
		t.Run(name, func(t *testing.T) {
			text := strings.Replace(definitionText, tc.old, tc.new, 1)
			if name == "two types" {
				text = strings.Replace(definitionText, "    approval: {question: 'go on?'}", "    approval: {question: x}\n    wait: {until: x, object: {apiVersion: v1, kind: X, name: x}}", 1)
			}
			if text == definitionText {
				t.Fatal("nothing is changed")
			}
			bad := object(t, text)
			if name != "long name" {
				bad.SetName("bad")
			}
			if err := admin.Create(t.Context(), bad); !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), tc.says) {
				t.Errorf("%v, want %q", err, tc.says)
			}
		})
	}
	revision := &abmv1alpha1.ServiceRevisionList{}
	if err := admin.List(t.Context(), revision); err != nil || len(revision.Items) != 1 {
		t.Fatalf("%d revisions, %v", len(revision.Items), err)
	}
	revision.Items[0].Spec = runtime.RawExtension{Raw: []byte(`{"a":1}`)}
	if err := admin.Update(t.Context(), &revision.Items[0]); !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), "never changes") {
		t.Errorf("changing a revision: %v", err)
	}
}

func checkInstances(t *testing.T, admin client.Client) {
	for name, tc := range map[string]struct{ old, new, says string }{
		"no such service": {"serviceName: greeter", "serviceName: nope", "spec.serviceName: Not found"},
		"no such plan":    {"planName: small", "planName: huge", "spec.planName: Unsupported value"},
		"too long":        {"greeting: hi", "greeting: " + strings.Repeat("h", 21), "spec.parameters.greeting: Too long"},
		"wrong type":      {"greeting: hi", "greeting: 1", "spec.parameters.greeting: Invalid value"},
		"unknown":         {"greeting: hi", "image: evil", "spec.parameters.image: Forbidden"},
		"no revision":     {"planName: small", "planName: small, revision: nope", "spec.revision: Not found"},
		"dot in the name": {"name: acme", "name: acme.x", "no dot"},
		"foreign hand":    {"planName: small", "planName: small, interventions: [{id: '1', step: ask, action: Approve, by: somebody}]", "spec.interventions[0].by"},
		"no such step":    {"planName: small", "planName: small, interventions: [{id: '1', step: nope, action: Retry, by: testenv-admin}]", "spec.interventions[0].step: Not found"},
	} {
		t.Run(name, func(t *testing.T) {
			err := admin.Create(t.Context(), object(t, strings.Replace(instanceText, tc.old, tc.new, 1)))
			if !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), tc.says) {
				t.Errorf("%v, want %q", err, tc.says)
			}
		})
	}
}
