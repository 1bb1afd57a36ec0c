package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/remotecommand"
)

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
