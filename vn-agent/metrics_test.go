package main

import (
	"io"
	"net/http"
	"strings"
	"testing"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/bulkhead-dev/bulkhead/internal/pki"
)

func TestMetricsNeedAuthorization(t *testing.T) {
	c, err := env.httpClient(pki.Pair{})
	if err != nil {
		t.Fatal(err)
	}
	get := func(token string) (int, string) {
		request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://"+env.metrics+"/metrics", nil)
		if err != nil {
			t.Fatal(err)
		}
		if token != "" {
			request.Header.Set("Authorization", "Bearer "+token)
		}
		response, err := c.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = response.Body.Close() }()
		body, err := io.ReadAll(response.Body)
		if err != nil {
			t.Fatal(err)
		}
		return response.StatusCode, string(body)
	}
	if status, _ := get(""); status != http.StatusUnauthorized {
		t.Errorf("without a token: %d", status)
	}
	// Delegated authentication takes a token that is none for a failed review.
	if status, _ := get(env.kubelet.token); status != http.StatusUnauthorized && status != http.StatusInternalServerError {
		t.Errorf("with some token: %d", status)
	}
	if status, _ := get(env.tokenFor(t, "vn-agent", nil)); status != http.StatusForbidden {
		t.Errorf("with a token that may not: %d", status)
	}
	ask(t, env.a.client, http.MethodGet, "/containerLogs/web/nowhere/app", nil)
	status, body := get(env.tokenFor(t, "prometheus", []string{"/metrics"}))
	if status != http.StatusOK {
		t.Fatalf("with a token that may: %d %s", status, body)
	}
	for _, want := range []string{`bulkhead_vn_agent_requests_total{code="404",endpoint="containerLogs",tenant="` + string(env.a.UID) + `"}`, "bulkhead_vn_agent_tenants 2"} {
		if !strings.Contains(body, want) {
			t.Errorf("no %s", want)
		}
	}
	for _, line := range strings.Split(body, "\n") {
		if strings.HasPrefix(line, "bulkhead_") && (strings.Contains(line, "nowhere") || strings.Contains(line, "web")) {
			t.Errorf("a tenant's names are in %s", line)
		}
	}
}

// tokenFor is a token of a ServiceAccount in the super cluster that may get these
// paths and nothing else.
func (e *environment) tokenFor(t *testing.T, name string, paths []string) string {
	t.Helper()
	account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "bulkhead-system", Name: name}}
	if err := client.IgnoreAlreadyExists(e.super.Client.Create(t.Context(), account)); err != nil {
		t.Fatal(err)
	}
	if len(paths) > 0 {
		for _, object := range []client.Object{
			&rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: name}, Rules: []rbacv1.PolicyRule{{NonResourceURLs: paths, Verbs: []string{"get"}}}},
			&rbacv1.ClusterRoleBinding{
				ObjectMeta: metav1.ObjectMeta{Name: name}, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: name},
				Subjects: []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Namespace: "bulkhead-system", Name: name}},
			},
		} {
			if err := e.super.Client.Create(t.Context(), object); err != nil {
				t.Fatal(err)
			}
		}
	}
	token, err := kubernetes.NewForConfigOrDie(e.super.Config).CoreV1().ServiceAccounts("bulkhead-system").CreateToken(t.Context(), name, &authenticationv1.TokenRequest{}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return token.Status.Token
}
