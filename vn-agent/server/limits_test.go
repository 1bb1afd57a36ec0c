package server

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"net/http"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/authorization/authorizerfactory"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/bulkhead-dev/bulkhead/internal/pki"
	"github.com/bulkhead-dev/bulkhead/internal/tenancy"
	"github.com/bulkhead-dev/bulkhead/vn-agent/identity"
	"github.com/bulkhead-dev/bulkhead/vn-agent/kubeletapi"
	"github.com/bulkhead-dev/bulkhead/vn-agent/node"
	"github.com/bulkhead-dev/bulkhead/vn-agent/pods"
)

var demo = tenancy.Tenant{UID: "vc-uid", Namespace: "team", Name: "demo"}

// registryWith knows one tenant, and returns it.
func registryWith(t *testing.T) (*identity.Registry, *identity.Tenant) {
	t.Helper()
	ca, err := pki.NewCA("kubelet-client-ca")
	if err != nil {
		t.Fatal(err)
	}
	pair, err := ca.Issue(pki.Leaf{CommonName: "x", Usage: pki.Client})
	if err != nil {
		t.Fatal(err)
	}
	cas, err := identity.ParseClientCAs(ca.Cert)
	if err != nil {
		t.Fatal(err)
	}
	registry := identity.NewRegistry(logr.Discard(), func([]byte) (authorizer.Authorizer, error) {
		return authorizerfactory.NewAlwaysAllowAuthorizer(), nil
	})
	if err := registry.Set(demo, identity.Credentials{ClientCAs: cas}); err != nil {
		t.Fatal(err)
	}
	shown, err := pki.ParseCertificate(pair.Cert)
	if err != nil {
		t.Fatal(err)
	}
	request := &http.Request{TLS: &tls.ConnectionState{PeerCertificates: []*x509.Certificate{shown}}}
	response, ok, err := registry.Authenticator().AuthenticateRequest(request.WithContext(t.Context()))
	if err != nil || !ok {
		t.Fatal(ok, err)
	}
	return registry, response.User.(*identity.User).Tenant
}

func TestNothingIsRememberedOfATenantThatIsGone(t *testing.T) {
	registry, tenant := registryWith(t)
	s := &Server{Limits: Limits{Streams: 1, Requests: 1}, metrics: newMetrics(), states: map[types.UID]*state{}}
	if first := s.stateOf(tenant); first != s.stateOf(tenant) {
		t.Error("a tenant has two states")
	}
	s.metrics.observe(tenant.UID, kubeletapi.Logs, http.StatusOK, time.Second)
	registry.Remove(types.NamespacedName{Namespace: demo.Namespace, Name: demo.Name})
	err := wait.PollUntilContextTimeout(t.Context(), time.Millisecond, time.Minute, true, func(context.Context) (bool, error) {
		s.mu.Lock()
		defer s.mu.Unlock()
		return len(s.states) == 0 && testutil.CollectAndCount(s.metrics.requests) == 0, nil
	})
	if err != nil {
		t.Errorf("%d states and %d series are left", len(s.states), testutil.CollectAndCount(s.metrics.requests))
	}
}

func TestPlacesAreGivenBack(t *testing.T) {
	s := &state{streams: make(slots, 1), requests: make(slots, 1)}
	for range 3 {
		done, err := s.admit(true)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.admit(true); err == nil {
			t.Error("a second place where there is one")
		}
		if other, err := s.admit(false); err != nil {
			t.Error("streams take the places of requests")
		} else {
			other()
		}
		done()
	}
}

func TestAServerThatCouldVerifyNobodyDoesNotStart(t *testing.T) {
	registry, _ := registryWith(t)
	complete := func() *Server {
		return &Server{
			Registry: registry, Pods: &pods.Index{}, Node: node.Node{Name: "node-1", Reader: noReader{}}, Kubelet: answer(nil),
			GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return nil, nil }, Limits: Limits{Streams: 1, Requests: 1},
		}
	}
	if err := complete().Complete(); err != nil {
		t.Fatal(err)
	}
	for name, without := range map[string]func(*Server){
		"CA source": func(s *Server) { s.Registry = nil }, "pods": func(s *Server) { s.Pods = nil }, "node": func(s *Server) { s.Node.Name = "" },
		"kubelet": func(s *Server) { s.Kubelet = nil }, "certificate": func(s *Server) { s.GetCertificate = nil },
		"stream limit": func(s *Server) { s.Limits.Streams = 0 }, "request limit": func(s *Server) { s.Limits.Requests = -1 },
	} {
		s := complete()
		without(s)
		if err := s.Complete(); err == nil {
			t.Errorf("it starts without %s", name)
		}
	}
	if config := complete().tlsConfig(); config.ClientAuth != tls.RequireAndVerifyClientCert || config.ClientCAs == nil || config.InsecureSkipVerify {
		t.Errorf("TLS settings %+v", config)
	}
}

type noReader struct{ client.Reader }
