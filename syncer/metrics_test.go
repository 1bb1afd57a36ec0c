package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	rbacv1 "k8s.io/api/rbac/v1"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/bulkhead-dev/bulkhead/internal/testenv"
)

// The program as it is started, with leader election: metrics are there over TLS
// for those who may get them, and for nobody else.
func TestMetricsAreGuarded(t *testing.T) {
	path := filepath.Join(t.TempDir(), "kubeconfig")
	must(t, os.WriteFile(path, superConfig, 0o600))
	t.Setenv("KUBECONFIG", path)
	address := testenv.FreeAddress(t)
	o := options{metricsAddress: address, healthAddress: "127.0.0.1:0", leaderElect: true, leaderElectNamespace: "default", probeInterval: time.Second}
	manager, _, err := newManager(o)
	must(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- manager.Start(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("the syncer ended: %v", err)
		}
	})
	select {
	case <-manager.Elected():
	case <-time.After(patience):
		t.Fatal("no leader")
	}

	get := func(ctx context.Context, token string) (int, string, error) {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+address+"/metrics", nil)
		if err != nil {
			return 0, "", err
		}
		if token != "" {
			request.Header.Set("Authorization", "Bearer "+token)
		}
		// The certificate is the process's own, and the test reads it from the connection.
		pool := x509.NewCertPool()
		connection, err := tls.Dial("tcp", address, &tls.Config{InsecureSkipVerify: true}) //nolint:gosec // see above
		if err != nil {
			return 0, "", err
		}
		certificate := connection.ConnectionState().PeerCertificates[0]
		pool.AddCert(certificate)
		_ = connection.Close()
		c := http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, ServerName: "localhost"}}}
		response, err := c.Do(request)
		if err != nil {
			return 0, "", err
		}
		defer response.Body.Close()
		body, err := io.ReadAll(response.Body)
		return response.StatusCode, string(body), err
	}
	token := func(account string) string {
		object := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: account}}
		must(t, super.Client.Create(t.Context(), object))
		request := &authenticationv1.TokenRequest{}
		must(t, super.Client.SubResource("token").Create(t.Context(), object, request))
		return request.Status.Token
	}
	must(t, super.Client.Create(t.Context(), &rbacv1.ClusterRole{
		ObjectMeta: metav1.ObjectMeta{Name: "metrics-test"}, Rules: []rbacv1.PolicyRule{{NonResourceURLs: []string{"/metrics"}, Verbs: []string{"get"}}},
	}))
	must(t, super.Client.Create(t.Context(), &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: "metrics-test"}, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "metrics-test"},
		Subjects: []rbacv1.Subject{{Kind: "ServiceAccount", Namespace: "default", Name: "may-scrape"}},
	}))
	for _, tc := range []struct {
		who, token string
		want       int
	}{{"nobody", "", http.StatusUnauthorized}, {"a stranger", token("stranger"), http.StatusForbidden}, {"who may", token("may-scrape"), http.StatusOK}} {
		eventually(t, "metrics for "+tc.who, func(ctx context.Context) error {
			code, body, err := get(ctx, tc.token)
			if err != nil {
				return err
			}
			if code != tc.want || (code == http.StatusOK && !strings.Contains(body, "leader_election_master_status")) {
				return fmt.Errorf("answer %d", code)
			}
			return nil
		})
	}
	if response, err := http.Get("http://" + address + "/metrics"); err == nil { //nolint:noctx // it must fail at once
		if response.StatusCode == http.StatusOK {
			t.Error("metrics are served without TLS")
		}
		_ = response.Body.Close()
	}
}
