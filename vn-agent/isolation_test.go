package main

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/bulkhead-dev/bulkhead/internal/pki"
	"github.com/bulkhead-dev/bulkhead/internal/tenancy"
)

const frontLog = "/containerLogs/web/front/app"

// ask sends one request straight to vn-agent with a client certificate.
func ask(t *testing.T, pair pki.Pair, method, path string, header http.Header) (int, string) {
	t.Helper()
	status, body, err := tryAsk(t.Context(), pair, method, path, header)
	if err != nil {
		t.Fatal(err)
	}
	return status, body
}

func tryAsk(ctx context.Context, pair pki.Pair, method, path string, header http.Header) (int, string, error) {
	c, err := env.httpClient(pair)
	if err != nil {
		return 0, "", err
	}
	request, err := http.NewRequestWithContext(ctx, method, "https://"+env.address+path, nil)
	if err != nil {
		return 0, "", err
	}
	for name, values := range header {
		request.Header[name] = values
	}
	response, err := c.Do(request)
	if err != nil {
		return 0, "", err
	}
	defer func() { _ = response.Body.Close() }()
	body, err := io.ReadAll(response.Body)
	return response.StatusCode, string(body), err
}

// The ancestor took a self-signed certificate with a victim's name for the victim.
func TestASelfSignedCertificateWithAVictimsNameIsRefused(t *testing.T) {
	stranger, err := pki.NewCA("kubelet-client-ca")
	if err != nil {
		t.Fatal(err)
	}
	for name, issue := range map[string]func() (pki.Pair, error){
		"another CA of the same name": func() (pki.Pair, error) {
			return stranger.Issue(pki.Leaf{CommonName: "kube-apiserver-kubelet-client", Organizations: []string{"system:masters"}, Usage: pki.Client})
		},
		"the victim's UID as name": func() (pki.Pair, error) {
			return stranger.Issue(pki.Leaf{CommonName: string(env.a.UID), Usage: pki.Client})
		},
		"the victim's namespace": func() (pki.Pair, error) {
			return stranger.Issue(pki.Leaf{CommonName: env.a.ControlPlaneNamespace(), Usage: pki.Client})
		},
		// What a tenant can have signed by the CSR API of its cluster.
		"the tenant's cluster CA": func() (pki.Pair, error) { return env.a.CA.Issue(pki.Leaf{CommonName: "kubelet", Usage: pki.Client}) },
		"the super cluster's CA": func() (pki.Pair, error) {
			return env.super.CA.Issue(pki.Leaf{CommonName: "admin", Organizations: []string{"system:masters"}, Usage: pki.Client})
		},
		"a server's certificate of the right CA": func() (pki.Pair, error) { return env.a.ca.Issue(pki.Leaf{CommonName: "x", Usage: pki.Server}) },
		"no certificate":                         func() (pki.Pair, error) { return pki.Pair{}, nil },
	} {
		pair, err := issue()
		if err != nil {
			t.Fatal(err)
		}
		status, body, err := tryAsk(t.Context(), pair, http.MethodGet, frontLog, nil)
		if !refusedByTLS(err) {
			t.Errorf("%s: not refused by TLS, but %d %q, %v", name, status, body, err)
		}
	}
}

// refusedByTLS tells whether the server broke the handshake off, before any request.
func refusedByTLS(err error) bool {
	var remote *net.OpError
	return errors.As(err, &remote) && remote.Op == "remote error"
}

func TestABearerTokenOpensNothing(t *testing.T) {
	_, _, err := tryAsk(t.Context(), pki.Pair{}, http.MethodGet, frontLog, http.Header{"Authorization": {"Bearer " + env.kubelet.token}})
	if !refusedByTLS(err) {
		t.Errorf("not refused by TLS, but %v", err)
	}
}

// Same node, same namespace, same pod name: each tenant reaches its own.
func TestTenantsOfTheSameNamesAreApart(t *testing.T) {
	for _, tenant := range []*tenantCluster{env.a, env.b} {
		status, body := ask(t, tenant.client, http.MethodGet, frontLog, nil)
		if want := "log of /containerLogs/" + tenant.SuperNamespace("web") + "/front/app\n"; status != http.StatusOK || body != want {
			t.Errorf("%s: %d %q", tenant, status, body)
		}
	}
}

func TestPodsThatAreNotTheTenantsOwnAreNotFound(t *testing.T) {
	ctx := t.Context()
	foreign := "not-the-syncers"
	if err := env.makeSuperNamespace(ctx, foreign); err != nil {
		t.Fatal(err)
	}
	mark := func(p *corev1.Pod, tenant *tenantCluster, name string) *corev1.Pod {
		tenancy.Mark(p, tenant.Tenant, tenancy.ManagedBySyncer, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "web", Name: name, UID: types.UID("uid-of-" + name)}})
		return p
	}
	onlyB := mark(pod(env.b.SuperNamespace("web"), "only-b", nodeName), env.b, "only-b")
	elsewhere := mark(pod(env.a.SuperNamespace("web"), "elsewhere", "node-2"), env.a, "elsewhere")
	forged := mark(pod(foreign, "forged", nodeName), env.a, "forged")
	unmarked := pod(env.a.SuperNamespace("web"), "unmarked", nodeName)
	otherComponent := mark(pod(env.a.SuperNamespace("web"), "other-component", nodeName), env.a, "other-component")
	otherComponent.Labels[tenancy.LabelManagedBy] = tenancy.ManagedByManager
	for _, p := range []*corev1.Pod{elsewhere, forged, unmarked, otherComponent, onlyB} {
		if err := env.super.Client.Create(ctx, p); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = env.super.Client.Delete(contextOfTests, p, client.GracePeriodSeconds(0)) })
	}
	// Once B has the last of them, all were seen.
	if err := eventually(ctx, func() error {
		if status, body, err := tryAsk(ctx, env.b.client, http.MethodGet, "/containerLogs/web/only-b/app", nil); err != nil || status != http.StatusOK {
			return errors.Join(err, errors.New(body))
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	asked := env.kubelet.record(func() {
		for _, path := range []string{
			"/containerLogs/web/only-b/app", "/exec/web/only-b/app?command=id", "/attach/web/only-b/app", "/portForward/web/only-b",
			"/containerLogs/web/elsewhere/app", "/containerLogs/web/forged/app", "/containerLogs/" + foreign + "/forged/app",
			"/containerLogs/web/unmarked/app", "/containerLogs/web/other-component/app",
			"/containerLogs/" + env.b.SuperNamespace("web") + "/front/app", "/containerLogs/" + env.a.SuperNamespace("web") + "/front/app",
			"/exec/web/front/" + env.superUID(env.a.SuperNamespace("web")) + "/app", "/exec/web/front/" + string(env.b.pod.UID) + "/app",
			"/portForward/web/front/" + string(env.b.pod.UID),
			"/containerLogs/kube-system/etcd/etcd",
		} {
			method, path, _ := strings.Cut(http.MethodGet+" "+path, " ")
			if status, body := ask(t, env.a.client, method, path, nil); status != http.StatusNotFound || !strings.Contains(body, "is not on node") {
				t.Errorf("%s: %d %q", path, status, body)
			}
		}
	})
	if len(asked) != 0 {
		t.Errorf("the kubelet was asked for %+v", asked)
	}
}

// The ancestor passed /pods and /logs/ through: all tenants' pods, the node's files.
func TestTheNodesOwnEndpointsAreClosed(t *testing.T) {
	asked := env.kubelet.record(func() {
		for _, path := range []string{
			"/pods", "/runningpods/", "/logs/", "/logs/messages", "/configz", "/metrics", "/metrics/cadvisor", "/metrics/probes", "/debug/pprof/",
			"/checkpoint/web/front/app", "/stats/container", "/spec/", "/statusz", "/flagz", "/",
		} {
			if status, body := ask(t, env.a.client, http.MethodGet, path, nil); status != http.StatusNotFound || !strings.Contains(body, "vn-agent does not serve") {
				t.Errorf("%s: %d %q", path, status, body)
			}
		}
		for path, want := range map[string]int{
			"/containerLogs/web/../front/app": http.StatusNotFound, "/containerLogs/web%2Ffront/app/x": http.StatusBadRequest,
			"/containerLogs/web/front/app%2F..%2F..": http.StatusBadRequest, "/containerLogs/web/front/a'b": http.StatusBadRequest,
			"/containerLogs/web/front/app?follow=true&container=x": http.StatusBadRequest,
		} {
			if status, body := ask(t, env.a.client, http.MethodGet, path, nil); status != want {
				t.Errorf("%s: %d %q, not %d", path, status, body, want)
			}
		}
		if status, _ := ask(t, env.a.client, http.MethodDelete, frontLog, nil); status != http.StatusMethodNotAllowed {
			t.Errorf("DELETE: %d", status)
		}
	})
	if len(asked) != 0 {
		t.Errorf("the kubelet was asked for %+v", asked)
	}
}

// The ancestor added its token to whatever Authorization the client had sent, and
// passed Impersonate-* on.
func TestForgedHeadersStayBehind(t *testing.T) {
	forged := http.Header{
		"Authorization": {"Bearer stolen"}, "Impersonate-User": {"system:admin"}, "Impersonate-Group": {"system:masters"}, "Impersonate-Extra-X": {"y"},
		"X-Remote-User": {"root"}, "X-Remote-Group": {"system:masters"}, "X-Forwarded-For": {"10.0.0.1"}, "Forwarded": {"for=10.0.0.1"},
		"Cookie": {"session=1"}, "X-Custom": {"x"}, "Proxy-Authorization": {"Basic x"},
	}
	for _, path := range []string{frontLog, "/exec/web/front/app?command=args&output=1", "/stats/summary", "/metrics/resource"} {
		asked := env.kubelet.record(func() { ask(t, env.a.client, http.MethodGet, path, forged) })
		if len(asked) != 1 {
			t.Fatalf("%s: the kubelet was asked %d times", path, len(asked))
		}
		header := asked[0].header
		if got := header.Values("Authorization"); !slices.Equal(got, []string{"Bearer " + env.kubelet.token}) {
			t.Errorf("%s: Authorization %q", path, got)
		}
		for name := range forged {
			if name != "Authorization" && len(header.Values(name)) > 0 {
				t.Errorf("%s: %s reached the kubelet", path, name)
			}
		}
	}
}

// The ancestor turned tty=0 into stdout=false and lost the ports of a port-forward.
func TestWhatTheKubeletIsAsked(t *testing.T) {
	super := env.a.SuperNamespace("web")
	superUID := env.superUID(super)
	for _, tc := range []struct{ method, path, want string }{
		{http.MethodGet, "/exec/web/front/app?tty=0&output=1&command=sh&command=-c&command=a%26b", "/exec/" + super + "/front/app?command=sh&command=-c&command=a%26b&output=1&tty=0"},
		{http.MethodPost, "/exec/web/front/" + string(env.a.pod.UID) + "/app?command=x&error=1", "/exec/" + super + "/front/" + superUID + "/app?command=x&error=1"},
		{http.MethodPost, "/attach/web/front/app?input=1&tty=1", "/attach/" + super + "/front/app?input=1&tty=1"},
		{http.MethodGet, "/portForward/web/front?port=80%2C81", "/portForward/" + super + "/front?port=80%2C81"},
		{http.MethodPost, "/portForward/web/front/" + string(env.a.pod.UID), "/portForward/" + super + "/front/" + superUID},
		{http.MethodPost, "/run/web/front/app?cmd=ls+-l", "/run/" + super + "/front/app?cmd=ls+-l"},
		{http.MethodGet, "/stats/summary?only_cpu_and_memory=true", "/stats/summary?only_cpu_and_memory=true"},
	} {
		asked := env.kubelet.record(func() { ask(t, env.a.client, tc.method, tc.path, nil) })
		if len(asked) != 1 {
			t.Fatalf("%s: the kubelet was asked %d times", tc.path, len(asked))
		}
		got := &url.URL{Path: asked[0].path, RawQuery: asked[0].query}
		if asked[0].method != tc.method || got.String() != tc.want {
			t.Errorf("%s %s became %s %s", tc.method, tc.path, asked[0].method, got)
		}
	}
}

func TestTheKubeletsErrorsHaveTheTenantsNames(t *testing.T) {
	status, body := ask(t, env.a.client, http.MethodGet, "/containerLogs/web/front/missing", nil)
	if want := `container "missing" not found in pod "front" of namespace "web"` + "\n"; status != http.StatusNotFound || body != want {
		t.Errorf("%d %q", status, body)
	}
}

// A kubelet asks its cluster's apiserver who may do what; vn-agent asks the tenant's.
func TestTheTenantsOwnAuthorizationDecides(t *testing.T) {
	nobody, err := env.a.ca.Issue(pki.Leaf{CommonName: "nobody", Usage: pki.Client})
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{frontLog, "/stats/summary", "/metrics/resource", "/exec/web/front/app?command=x", "/healthz"} {
		if status, body := ask(t, nobody, http.MethodGet, path, nil); status != http.StatusForbidden || !strings.Contains(body, `user "nobody" may not get nodes/`) {
			t.Errorf("%s: %d %q", path, status, body)
		}
	}
	if status, body := ask(t, env.a.client, http.MethodGet, "/healthz", nil); status != http.StatusOK || body != "ok" {
		t.Errorf("/healthz: %d %q", status, body)
	}

	// A reader of logs may read logs, and not run commands: nodes/proxy, get only.
	role := &rbacv1.ClusterRole{
		ObjectMeta: metav1.ObjectMeta{Name: "reader"},
		Rules:      []rbacv1.PolicyRule{{APIGroups: []string{""}, Resources: []string{"nodes/proxy"}, ResourceNames: []string{nodeName}, Verbs: []string{"get"}}},
	}
	binding := &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: "reader"}, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "reader"},
		Subjects: []rbacv1.Subject{{Kind: rbacv1.UserKind, APIGroup: rbacv1.GroupName, Name: "reader"}},
	}
	for _, object := range []client.Object{role, binding} {
		if err := env.a.Client.Create(t.Context(), object); err != nil {
			t.Fatal(err)
		}
	}
	for tenant, want := range map[*tenantCluster]int{env.a: http.StatusOK, env.b: http.StatusForbidden} {
		reader, err := tenant.ca.Issue(pki.Leaf{CommonName: "reader", Usage: pki.Client})
		if err != nil {
			t.Fatal(err)
		}
		if status, body := ask(t, reader, http.MethodGet, frontLog, nil); status != want {
			t.Errorf("%s: %d %q", tenant, status, body)
		}
		if status, body := ask(t, reader, http.MethodPost, "/run/web/front/app?cmd=x", nil); status != http.StatusForbidden {
			t.Errorf("%s: run: %d %q", tenant, status, body)
		}
	}
}

func TestATenantsAPIServerThatIsDownHurtsNobodyElse(t *testing.T) {
	fresh, err := env.b.ca.Issue(pki.Leaf{CommonName: "not-asked-about-yet", Organizations: []string{"system:masters"}, Usage: pki.Client})
	if err != nil {
		t.Fatal(err)
	}
	env.b.KillAPIServer()
	defer func() {
		if err := env.b.StartAPIServer(contextOfTests, env.b.options); err != nil {
			t.Fatal(err)
		}
	}()
	if status, body := ask(t, fresh, http.MethodGet, frontLog, nil); status != http.StatusServiceUnavailable || !strings.Contains(body, "apiserver did not answer") {
		t.Errorf("its own: %d %q", status, body)
	}
	if status, body := ask(t, env.a.client, http.MethodGet, frontLog, nil); status != http.StatusOK {
		t.Errorf("the other's: %d %q", status, body)
	}
}
