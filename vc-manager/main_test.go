package main

import (
	"context"
	"crypto/tls"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/kubernetes"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/log/zap"

	"github.com/bulkhead-dev/bulkhead/internal/kubeconfig"
	"github.com/bulkhead-dev/bulkhead/internal/pki"
	"github.com/bulkhead-dev/bulkhead/internal/testenv"
	"github.com/bulkhead-dev/bulkhead/vc-manager/rbac"
)

func TestOptions(t *testing.T) {
	for name, tc := range map[string]struct {
		args []string
		want string // in the error; none if empty
	}{
		"defaults":         {nil, ""},
		"all the chart's":  {[]string{"--leader-elect", "--platform-namespace=x", "--syncer-service-account=s", "--vn-agent-service-account=v", "--super-cluster-domain=d", "--etcd-image=e", "--kube-apiserver-image=a", "--kube-controller-manager-image=c", "--metrics-server-image=m", "--tenant-proxy-service-account=p", "--coredns-image=n", "--denied-networks=10.0.0.0/8", "--allowed-networks=", "--pod-networks=10.78.0.0/16,fd78::/48"}, ""},
		"no network":       {[]string{"--allowed-networks=10.0.0.1/8"}, "--allowed-networks"},
		"no image":         {[]string{"--etcd-image="}, "--etcd-image is empty"},
		"no workers":       {[]string{"--workers=0"}, "--workers is 0"},
		"no requests":      {[]string{"--super-qps=-1"}, "--super-qps is -1"},
		"something to run": {[]string{"run"}, "unexpected arguments"},
	} {
		o := defaults()
		flags := flag.NewFlagSet("vc-manager", flag.ContinueOnError)
		o.bind(flags)
		if err := flags.Parse(tc.args); err != nil {
			t.Fatal(err)
		}
		err := o.validate(flags.Args())
		if tc.want == "" && err != nil || tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)) {
			t.Errorf("%s: %v, want %q", name, err, tc.want)
		}
	}
}

// TestRun runs the program as the chart does: with the rights that package rbac
// lists, leader election, and both listeners.
func TestRun(t *testing.T) {
	ctrl.SetLogger(zap.New(zap.WriteTo(io.Discard)))
	super := testenv.New(t, testenv.Options{CRDs: true})
	user := rbacv1.Subject{APIGroup: rbacv1.GroupName, Kind: rbacv1.UserKind, Name: "vc-manager"}
	for _, object := range []client.Object{
		&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "bulkhead-system"}},
		&rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: "vc-manager"}, Rules: rbac.SuperRules()},
		&rbacv1.ClusterRoleBinding{ObjectMeta: metav1.ObjectMeta{Name: "vc-manager"}, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "vc-manager"}, Subjects: []rbacv1.Subject{user}},
		&rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Namespace: "bulkhead-system", Name: "vc-manager"}, Rules: rbac.PlatformNamespaceRules()},
		&rbacv1.RoleBinding{ObjectMeta: metav1.ObjectMeta{Namespace: "bulkhead-system", Name: "vc-manager"}, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: "vc-manager"}, Subjects: []rbacv1.Subject{user}},
		&rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: "metrics-reader"}, Rules: []rbacv1.PolicyRule{{NonResourceURLs: []string{"/metrics"}, Verbs: []string{"get"}}}},
		&rbacv1.ClusterRoleBinding{ObjectMeta: metav1.ObjectMeta{Name: "metrics-reader"}, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "metrics-reader"}, Subjects: []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Namespace: "bulkhead-system", Name: "reader"}}},
	} {
		if err := super.Client.Create(t.Context(), object); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("KUBECONFIG", limitedKubeconfig(t, super))
	o := defaults()
	o.metricsAddress, o.healthAddress = testenv.FreeAddress(t), testenv.FreeAddress(t)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- run(ctx, o) }()

	poll(t, func() error {
		select {
		case err := <-ended:
			t.Fatalf("ended: %v", err)
		default:
		}
		return expect("http://"+o.healthAddress+"/readyz", "", http.StatusOK)
	})
	metrics := "https://" + o.metricsAddress + "/metrics"
	poll(t, func() error { return expect(metrics, "", http.StatusUnauthorized) })
	poll(t, func() error { return expect(metrics, token(t, super, "nobody"), http.StatusForbidden) })
	poll(t, func() error { return expect(metrics, token(t, super, "reader"), http.StatusOK) })
	// Only who leads makes the lease.
	poll(t, func() error {
		return super.Client.Get(t.Context(), client.ObjectKey{Namespace: "bulkhead-system", Name: leaderLease}, &coordinationv1.Lease{})
	})
	select {
	case err := <-ended:
		t.Fatalf("ended: %v", err)
	default:
	}
	cancel()
	if err := <-ended; err != nil {
		t.Errorf("told to stop, it ended with %v", err)
	}
}

func limitedKubeconfig(t *testing.T, super *testenv.Cluster) string {
	t.Helper()
	pair, err := super.CA.Issue(pki.Leaf{CommonName: "vc-manager", Usage: pki.Client})
	if err != nil {
		t.Fatal(err)
	}
	data, err := kubeconfig.Encode(kubeconfig.Config{Name: "super", Server: super.Config.Host, CA: super.CA.Cert, User: "vc-manager", Client: pair})
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "kubeconfig")
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	// An API server that has just started knows its own roles a moment later.
	config, err := kubeconfig.RESTConfig(data)
	if err != nil {
		t.Fatal(err)
	}
	poll(t, func() error {
		clients, err := kubernetes.NewForConfig(config)
		if err != nil {
			return err
		}
		_, err = clients.Discovery().ServerGroups()
		return err
	})
	return path
}

func token(t *testing.T, super *testenv.Cluster, name string) string {
	t.Helper()
	clients, err := kubernetes.NewForConfig(super.Config)
	if err != nil {
		t.Fatal(err)
	}
	account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "bulkhead-system", Name: name}}
	if err := client.IgnoreAlreadyExists(super.Client.Create(t.Context(), account)); err != nil {
		t.Fatal(err)
	}
	answer, err := clients.CoreV1().ServiceAccounts("bulkhead-system").CreateToken(t.Context(), name, &authenticationv1.TokenRequest{}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return answer.Status.Token
}

// expect asks a listener for a page. Its certificate is one it made itself.
func expect(url, token string, status int) error {
	request, err := http.NewRequest(http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	if token != "" {
		request.Header.Set("Authorization", "Bearer "+token)
	}
	httpClient := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, DisableKeepAlives: true,
	}}
	response, err := httpClient.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != status {
		return fmt.Errorf("%s answers %s, want %d", url, response.Status, status)
	}
	return nil
}

func poll(t *testing.T, check func() error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var last error
	err := wait.PollUntilContextCancel(ctx, 100*time.Millisecond, true, func(context.Context) (bool, error) {
		last = check()
		return last == nil, nil
	})
	if err != nil {
		t.Fatalf("%v: %v", err, last)
	}
}
