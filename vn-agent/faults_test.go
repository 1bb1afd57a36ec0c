package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/remotecommand"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/bulkhead-dev/bulkhead/internal/pki"
	"github.com/bulkhead-dev/bulkhead/internal/tenancy"
)

// everyKind is one path of each way in which vn-agent asks a kubelet.
var everyKind = []string{frontLog, "/exec/web/front/app?command=x&output=1", "/stats/summary", "/metrics/resource"}

// moveKubelet has the super cluster say that the kubelet serves at another port.
func moveKubelet(t *testing.T, port int) {
	t.Helper()
	set := func(port int) error {
		patch := fmt.Sprintf(`{"status":{"daemonEndpoints":{"kubeletEndpoint":{"Port":%d}}}}`, port)
		return env.super.Client.Status().Patch(contextOfTests, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: nodeName}}, client.RawPatch("application/merge-patch+json", []byte(patch)))
	}
	if err := set(port); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(set(env.kubelet.port), env.waitServed(contextOfTests)); err != nil {
			t.Fatal(err)
		}
	})
}

// The ancestor did not verify the kubelet at all.
func TestAKubeletWithAWrongCertificateIsRefused(t *testing.T) {
	strange, err := pki.NewCA("kubelet-serving-ca")
	if err != nil {
		t.Fatal(err)
	}
	asked := make(chan string, 100)
	port, err := serveTLS(strange, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { asked <- r.Header.Get("Authorization") }))
	if err != nil {
		t.Fatal(err)
	}
	moveKubelet(t, port)
	for _, path := range everyKind {
		if err := eventually(t.Context(), func() error {
			status, body, err := tryAsk(t.Context(), env.a.client, http.MethodGet, path, nil)
			if err == nil && (status != http.StatusBadGateway || !strings.Contains(body, "its certificate cannot be verified")) {
				err = fmt.Errorf("%d %q", status, body)
			}
			return err
		}); err != nil {
			t.Errorf("%s: %v", path, err)
		}
	}
	if len(asked) > 0 {
		t.Errorf("it was sent %q", <-asked)
	}
}

func TestAKubeletThatCannotBeReached(t *testing.T) {
	moveKubelet(t, 1)
	if err := eventually(t.Context(), func() error {
		status, body, err := tryAsk(t.Context(), env.a.client, http.MethodGet, frontLog, nil)
		if err == nil && (status != http.StatusBadGateway || !strings.Contains(body, "it cannot be reached")) {
			err = fmt.Errorf("%d %q", status, body)
		}
		return err
	}); err != nil {
		t.Error(err)
	}
}

// CVE-2020-8559: a compromised node answers an upgrade with a redirect.
func TestAKubeletsRedirectIsNeitherFollowedNorPassed(t *testing.T) {
	for _, code := range []int{http.StatusMovedPermanently, http.StatusFound, http.StatusTemporaryRedirect, http.StatusPermanentRedirect} {
		env.kubelet.set(t, func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "/pods?stolen", code)
		})
		for _, path := range everyKind {
			for name, header := range map[string]http.Header{"plain": nil, "upgrade": {"Connection": {"Upgrade"}, "Upgrade": {"SPDY/3.1"}}} {
				var status int
				var body string
				asked := env.kubelet.record(func() { status, body = ask(t, env.a.client, http.MethodGet, path, header) })
				if status != http.StatusBadGateway || !strings.Contains(body, "redirect, which is not followed") || len(asked) != 1 {
					t.Errorf("%s of %s with %d: %d %q after %d requests", name, path, code, status, body, len(asked))
				}
			}
		}
	}
}

func TestAKubeletThatRefusesVNAgentIsNotTheTenantsFault(t *testing.T) {
	for _, code := range []int{http.StatusUnauthorized, http.StatusForbidden} {
		env.kubelet.set(t, func(w http.ResponseWriter, _ *http.Request) {
			http.Error(w, "system:serviceaccount:secret may not", code)
		})
		for _, path := range everyKind {
			status, body := ask(t, env.a.client, http.MethodGet, path, nil)
			if status != http.StatusBadGateway || strings.Contains(body, "secret") || !strings.Contains(body, "vn-agent's own credentials") {
				t.Errorf("%s with %d: %d %q", path, code, status, body)
			}
		}
	}
}

func TestAKubeletThatSwitchesToAnotherProtocol(t *testing.T) {
	env.kubelet.set(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Connection", "Upgrade")
		w.Header().Set("Upgrade", "something-else")
		w.WriteHeader(http.StatusSwitchingProtocols)
	})
	status, body := ask(t, env.a.client, http.MethodPost, "/exec/web/front/app?command=x&output=1", http.Header{"Connection": {"Upgrade"}, "Upgrade": {"SPDY/3.1"}})
	if status != http.StatusBadGateway {
		t.Errorf("%d %q", status, body)
	}
}

func TestUsageFiguresThatAreNone(t *testing.T) {
	for name, handler := range map[string]http.HandlerFunc{
		"larger than any kubelet's": func(w http.ResponseWriter, _ *http.Request) {
			line := []byte(strings.Repeat("# padding\n", 1<<12))
			for range 1000 {
				if _, err := w.Write(line); err != nil {
					return
				}
			}
		},
		"gave none that can be used": func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "<html>") },
		"did not answer in time":     func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() },
	} {
		env.kubelet.set(t, handler)
		status, body := ask(t, env.a.client, http.MethodGet, "/metrics/resource", nil)
		if status != http.StatusBadGateway || !strings.Contains(body, name) {
			t.Errorf("%s: %d %q", name, status, body)
		}
	}
}

// A client that goes away must not leave a request at the kubelet.
func TestTheKubeletHearsThatTheClientIsGone(t *testing.T) {
	began, ended := make(chan struct{}), make(chan struct{})
	env.kubelet.set(t, func(_ http.ResponseWriter, r *http.Request) {
		close(began)
		<-r.Context().Done()
		close(ended)
	})
	ctx, cancel := context.WithCancel(t.Context())
	go func() { _, _, _ = tryAsk(ctx, env.a.client, http.MethodGet, frontLog+"?follow=true", nil) }()
	await(t, began)
	cancel()
	await(t, ended)
}

func await(t *testing.T, done <-chan struct{}) {
	t.Helper()
	select {
	case <-done:
	case <-time.After(patience):
		t.Fatal("nothing came")
	}
}

// hold opens an exec session that stays until the function is called; ended tells
// how it ended.
func hold(t *testing.T, tenant *tenantCluster, newExecutor func(*rest.Config, string, *url.URL) (remotecommand.Executor, error)) (release func(), ended <-chan error) {
	t.Helper()
	config := &rest.Config{Host: env.address, TLSClientConfig: rest.TLSClientConfig{CAData: env.servingCA.Cert, CertData: tenant.client.Cert, KeyData: tenant.client.Key}}
	executor, err := newExecutor(config, http.MethodPost, &url.URL{Scheme: "https", Host: env.address, Path: "/exec/web/front/app", RawQuery: "command=hold&input=1&output=1"})
	if err != nil {
		t.Fatal(err)
	}
	input, typing := io.Pipe()
	screen, output := io.Pipe()
	result := make(chan error, 1)
	go func() {
		err := executor.StreamWithContext(contextOfTests, remotecommand.StreamOptions{Stdin: input, Stdout: output})
		_ = output.CloseWithError(fmt.Errorf("the session ended: %w", err))
		result <- err
	}()
	if line, err := bufio.NewReader(screen).ReadString('\n'); err != nil || line != "held\n" {
		t.Fatalf("no session: %q, %v", line, err)
	}
	return func() { _ = typing.Close() }, result
}

func TestATenantHasSoManyStreams(t *testing.T) {
	var releases []func()
	var ends []<-chan error
	for range maxStreams {
		release, ended := hold(t, env.a, protocols["SPDY"])
		releases, ends = append(releases, release), append(ends, ended)
	}
	for _, path := range []string{frontLog + "?follow=true", "/exec/web/front/app?command=x&output=1", "/portForward/web/front"} {
		status, body := ask(t, env.a.client, http.MethodGet, path, nil)
		if status != http.StatusTooManyRequests || !strings.Contains(body, "has 3 streams") {
			t.Errorf("%s: %d %q", path, status, body)
		}
	}
	// Neither the tenant's requests nor the other tenant's streams are touched.
	if status, body := ask(t, env.a.client, http.MethodGet, frontLog, nil); status != http.StatusOK {
		t.Errorf("a request: %d %q", status, body)
	}
	release, ended := hold(t, env.b, protocols["SPDY"])
	release()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	for i, release := range releases {
		release()
		if err := <-ends[i]; err != nil {
			t.Error(err)
		}
	}
	// The places are free again.
	if err := eventually(t.Context(), func() error {
		status, body, err := tryAsk(t.Context(), env.a.client, http.MethodGet, "/portForward/web/front", nil)
		if err == nil && status == http.StatusTooManyRequests {
			err = errors.New(body)
		}
		return err
	}); err != nil {
		t.Error(err)
	}
}

func TestATenantHasSoManyRequests(t *testing.T) {
	began, end := make(chan struct{}, maxRequests), make(chan struct{})
	env.kubelet.set(t, func(w http.ResponseWriter, _ *http.Request) {
		began <- struct{}{}
		<-end
	})
	results := make(chan error, maxRequests)
	for range maxRequests {
		go func() {
			_, _, err := tryAsk(contextOfTests, env.a.client, http.MethodGet, frontLog, nil)
			results <- err
		}()
	}
	for range maxRequests {
		<-began
	}
	if status, body := ask(t, env.a.client, http.MethodGet, frontLog, nil); status != http.StatusTooManyRequests || !strings.Contains(body, "has 4 requests") {
		t.Errorf("%d %q", status, body)
	}
	close(end)
	for range maxRequests {
		if err := <-results; err != nil {
			t.Error(err)
		}
	}
}

// A third tenant comes, rotates its CA, and goes, with a session open.
func TestTheLifeOfATenant(t *testing.T) {
	ctx := t.Context()
	c := &tenantCluster{Tenant: tenancy.Tenant{Namespace: "team-c", Name: "demo"}, Cluster: env.b.Cluster}
	ca, client1 := newClientCA(t)
	c.ca, c.client = ca, client1
	served := func(pair pki.Pair, want bool) {
		t.Helper()
		if err := eventually(ctx, func() error {
			status, body, err := tryAsk(ctx, pair, http.MethodGet, frontLog, nil)
			if got := err == nil && status == http.StatusOK; got != want {
				return fmt.Errorf("served is %v: %d %q, %w", got, status, body, err)
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	}
	served(c.client, false)
	if err := env.makeVirtualCluster(ctx, c, ca); err != nil {
		t.Fatal(err)
	}
	c.pod = env.b.pod
	if err := env.fillSuperFor(ctx, c); err != nil {
		t.Fatal(err)
	}
	touch := func() {
		t.Helper()
		patch := fmt.Sprintf(`{"metadata":{"annotations":{"touched":"%d"}}}`, time.Now().UnixNano())
		if err := env.super.Client.Patch(ctx, c.vc, client.RawPatch("application/merge-patch+json", []byte(patch))); err != nil {
			t.Fatal(err)
		}
	}
	touch()
	served(c.client, true)

	// Rotation: a bundle of old and new, then the new one alone.
	next, client2 := newClientCA(t)
	replace := func(bundle []byte) {
		t.Helper()
		secret, err := c.secret(next)
		if err != nil {
			t.Fatal(err)
		}
		secret.Data[tenancy.KubeletClientCAKey] = bundle
		if err := env.super.Client.Update(ctx, secret); err != nil {
			t.Fatal(err)
		}
		touch()
	}
	replace(append(append([]byte{}, ca.Cert...), next.Cert...))
	served(client2, true)
	served(client1, true)
	replace(next.Cert)
	served(client1, false)
	served(client2, true)

	// What cannot be read leaves what was good.
	replace([]byte("no certificate"))
	served(client2, true)

	// The tenant's CA shown up in another tenant: neither is served by it.
	replace(append(append([]byte{}, next.Cert...), env.a.ca.Cert...))
	served(env.a.client, false)
	served(client2, true)
	served(env.b.client, true)
	replace(next.Cert)
	served(env.a.client, true)

	c.client = client2
	for name, protocol := range protocols {
		_, ended := hold(t, c, protocol)
		defer func() {
			select {
			case err := <-ended: // SPDY's client makes no error of a session cut off
				t.Logf("%s: ended with %v", name, err)
			case <-time.After(patience):
				t.Errorf("%s: the session outlives the tenant", name)
			}
		}()
	}
	if err := env.super.Client.Delete(ctx, c.vc); err != nil {
		t.Fatal(err)
	}
	served(client2, false)
}

func newClientCA(t *testing.T) (*pki.CA, pki.Pair) {
	t.Helper()
	ca, err := pki.NewCA("kubelet-client-ca")
	if err != nil {
		t.Fatal(err)
	}
	pair, err := ca.Issue(pki.Leaf{CommonName: "kube-apiserver-kubelet-client", Organizations: []string{"system:masters"}, Usage: pki.Client})
	if err != nil {
		t.Fatal(err)
	}
	return ca, pair
}

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
