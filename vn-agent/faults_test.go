package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/bulkhead-dev/bulkhead/internal/pki"
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
