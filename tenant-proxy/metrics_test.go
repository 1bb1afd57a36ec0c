package main

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

// Metrics, its own and cri-ext's, are for whom the super cluster lets get them.
func TestMetricsNeedAuthorization(t *testing.T) {
	host := newNodeHost(t)
	running := startProxy(t, host, nil)
	superPod(t, env.a, "front")
	makeService(t, env.a, "shop", "10.96.8.1", "10.244.0.1")
	host.awaitEndpoints(t, env.a, "10.96.8.1:80", "10.244.0.1:8080")

	address := running.options.metricsAddress
	await(t, func() error {
		conn, err := net.Dial("tcp", address)
		if err == nil {
			_ = conn.Close()
		}
		return err
	})
	get := func(path, token string) (int, string) {
		request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://"+address+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		if token != "" {
			request.Header.Set("Authorization", "Bearer "+token)
		}
		c := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, DisableKeepAlives: true}} //nolint:gosec // self-signed
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
	reader, stranger := tokenFor(t, "prometheus", "/metrics", "/metrics/cri-ext"), tokenFor(t, "stranger")
	half := tokenFor(t, "half", "/metrics")
	for _, path := range []string{"/metrics", "/metrics/cri-ext"} {
		if status, _ := get(path, ""); status != http.StatusUnauthorized {
			t.Errorf("%s without a token: %d", path, status)
		}
		if status, _ := get(path, "no-token-of-this-cluster"); status != http.StatusUnauthorized {
			t.Errorf("%s with some token: %d", path, status)
		}
		if status, _ := get(path, stranger); status != http.StatusForbidden {
			t.Errorf("%s with a token that may not: %d", path, status)
		}
	}
	// What is allowed at one path says nothing of the other.
	if status, _ := get("/metrics", half); status != http.StatusOK {
		t.Errorf("one path that it may get: %d", status)
	}
	if status, _ := get("/metrics/cri-ext", half); status != http.StatusForbidden {
		t.Errorf("another that it may not: %d", status)
	}
	status, body := get("/metrics", reader)
	if status != http.StatusOK {
		t.Fatalf("with a token that may: %d %s", status, body)
	}
	for _, want := range []string{
		`bulkhead_tenant_proxy_tenant_up{tenant="uid-of-a"} 1`, "bulkhead_tenant_proxy_tenants 1", "bulkhead_tenant_proxy_pods 1",
		"bulkhead_tenant_proxy_cri_ext_connected 1", `bulkhead_tenant_proxy_rules{tenant="uid-of-a"}`,
	} {
		if !strings.Contains(body, want) {
			t.Errorf("no %s", want)
		}
	}
	for _, line := range strings.Split(body, "\n") {
		if strings.HasPrefix(line, "bulkhead_") && strings.Contains(line, "shop") {
			t.Errorf("a tenant's names are in %s", line)
		}
	}
	if status, body := get("/metrics/cri-ext", reader); status != http.StatusOK || body != "cri_ext_up 1\n" {
		t.Errorf("cri-ext's metrics: %d %q", status, body)
	}
}

// It is ready without any tenant's cluster, and without cri-ext.
func TestReadyDependsOnNobody(t *testing.T) {
	running := startProxy(t, &nodeHost{socket: t.TempDir() + "/nobody.sock"}, nil)
	await(t, func() error {
		response, err := http.Get("http://" + running.options.healthAddress + "/readyz")
		if err != nil {
			return err
		}
		defer func() { _ = response.Body.Close() }()
		if response.StatusCode != http.StatusOK {
			return errors.New(response.Status)
		}
		return nil
	})
}

// tokenFor is a token of a ServiceAccount in the super cluster that may get these
// paths and nothing else.
func tokenFor(t *testing.T, name string, paths ...string) string {
	t.Helper()
	create(t, env.super, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "bulkhead-system", Name: name}})
	if len(paths) > 0 {
		subject := rbacv1.Subject{Kind: rbacv1.ServiceAccountKind, Namespace: "bulkhead-system", Name: name}
		for _, object := range grants([]rbacv1.PolicyRule{{NonResourceURLs: paths, Verbs: []string{"get"}}}, name, subject) {
			create(t, env.super, object)
		}
	}
	token, err := kubernetes.NewForConfigOrDie(env.super.Config).CoreV1().ServiceAccounts("bulkhead-system").CreateToken(t.Context(), name, &authenticationv1.TokenRequest{}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return token.Status.Token
}
