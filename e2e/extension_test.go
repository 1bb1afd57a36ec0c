//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/bulkhead-dev/bulkhead/internal/pki"
)

// webhook runs an admission webhook in the tenant's own pod: the tenant's
// apiserver calls it through its Service.
func webhook(t *testing.T, tn *tenant) {
	ca, err := pki.NewCA("webhook")
	if err != nil {
		t.Fatal(err)
	}
	pair, err := ca.Issue(pki.Leaf{CommonName: "webhook", Hosts: []string{"webhook.default.svc"}, Usage: pki.Server})
	if err != nil {
		t.Fatal(err)
	}
	if err := tn.client.Create(t.Context(), &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "webhook"}, Type: corev1.SecretTypeTLS,
		Data: map[string][]byte{corev1.TLSCertKey: pair.Cert, corev1.TLSPrivateKeyKey: pair.Key},
	}); err != nil {
		t.Fatal(err)
	}
	tn.apply(t, "webhook.yaml")
	tn.kubectl(t, "wait", "--for=condition=Ready", "pod/webhook", "--timeout=2m")
	if err := tn.client.Create(t.Context(), &admissionv1.ValidatingWebhookConfiguration{
		ObjectMeta: metav1.ObjectMeta{Name: "guard"},
		Webhooks: []admissionv1.ValidatingWebhook{{
			Name:                    "guard.example.com",
			NamespaceSelector:       &metav1.LabelSelector{MatchLabels: map[string]string{"guarded": "yes"}},
			AdmissionReviewVersions: []string{"v1"},
			SideEffects:             ptr.To(admissionv1.SideEffectClassNone),
			FailurePolicy:           ptr.To(admissionv1.Fail),
			ClientConfig: admissionv1.WebhookClientConfig{
				CABundle: ca.Cert,
				Service:  &admissionv1.ServiceReference{Namespace: "default", Name: "webhook", Path: ptr.To("/always-deny")},
			},
			Rules: []admissionv1.RuleWithOperations{{
				Operations: []admissionv1.OperationType{admissionv1.Create},
				Rule:       admissionv1.Rule{APIGroups: []string{""}, APIVersions: []string{"v1"}, Resources: []string{"secrets"}},
			}},
		}},
	}); err != nil {
		t.Fatal(err)
	}
	eventually(t, time.Minute, "the webhook denies", func(ctx context.Context) error {
		out, err := tn.tryKubectl(ctx, "create", "secret", "generic", "x", "-n", "guarded", "--dry-run=server")
		if err == nil || !strings.Contains(out, "this webhook denies all requests") {
			return fmt.Errorf("creating a guarded Secret: %w: %s", err, out)
		}
		return nil
	})
	tn.kubectl(t, "delete", "validatingwebhookconfiguration", "guard")
}

// aggregatedAPI runs an API server of the tenant's own behind the tenant's apiserver.
func aggregatedAPI(t *testing.T, tn *tenant) {
	tn.apply(t, "aggregated.yaml")
	tn.kubectl(t, "rollout", "status", "deployment/wardle", "-n", "wardle", "--timeout=3m")
	tn.kubectl(t, "wait", "--for=condition=Available", "apiservice/v1alpha1.wardle.example.com", "--timeout=1m")
	tn.apply(t, "flunder.yaml")
	if out := tn.kubectl(t, "get", "flunders", "mine", "-o", "name"); !strings.HasSuffix(out, "flunder.wardle.example.com/mine\n") { // below a warning
		t.Errorf("the aggregated API gives %q", out)
	}
	// And the Service by the apiserver's own proxy.
	if out := tn.kubectl(t, "get", "--raw", "/api/v1/namespaces/default/services/echo:http/proxy/hostname"); out == "" {
		t.Error("the service proxy answers nothing")
	}
	tn.kubectl(t, "delete", "apiservice", "v1alpha1.wardle.example.com")
}
