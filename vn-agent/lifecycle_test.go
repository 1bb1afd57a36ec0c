package main

import (
	"fmt"
	"net/http"
	"testing"
	"time"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/bulkhead-dev/bulkhead/internal/pki"
	"github.com/bulkhead-dev/bulkhead/internal/tenancy"
)

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
