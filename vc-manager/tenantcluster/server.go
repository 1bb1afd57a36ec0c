package tenantcluster

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/discovery"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/bulkhead-dev/bulkhead/internal/kubeconfig"
)

// dialTimeout is short: the apiserver is in the same cluster, and a connection that
// is attempted while the Service's address begins to lead somewhere may never be
// answered. The next look is not far.
const dialTimeout = 500 * time.Millisecond

var errNotLooked = errors.New("the tenant's kube-apiserver does not answer yet")

// server is the connection to one tenant's apiserver.
type server struct {
	client    client.Client
	discovery discovery.DiscoveryInterface
	transport *http.Transport

	mu    sync.Mutex
	shown *x509.Certificate // by the server, on the newest connection
}

// newServer makes the connection by itself instead of with client-go's transports:
// those are kept for ever in a cache of the process, tenants come and go.
func newServer(dialer Dialer, target Target) (*server, error) {
	config, err := kubeconfig.RESTConfig(target.Kubeconfig)
	if err != nil {
		return nil, err
	}
	// A tenant has nothing to win by making vc-manager wait for itself.
	config.QPS, config.Burst = 100, 200
	tlsConfig, err := rest.TLSConfigFor(config)
	if err != nil {
		return nil, fmt.Errorf("reading the tenant's kubeconfig: %w", err)
	}
	s := &server{}
	tlsConfig.VerifyConnection = func(state tls.ConnectionState) error {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.shown = state.PeerCertificates[0]
		return nil
	}
	tlsConfig.MinVersion = tls.VersionTLS12
	s.transport = &http.Transport{
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			ctx, cancel := context.WithTimeout(ctx, dialTimeout)
			defer cancel()
			return dialer.DialContext(ctx, network, target.Address.String())
		},
		TLSClientConfig:     tlsConfig,
		TLSHandshakeTimeout: lookTimeout,
		// HTTP/1.1: a connection that has died fails the request it is used for and
		// is gone, where HTTP/2 would go on using it until a ping is missed.
		TLSNextProto:        map[string]func(string, *tls.Conn) http.RoundTripper{},
		MaxIdleConnsPerHost: 2,
		IdleConnTimeout:     time.Minute,
	}
	httpClient := &http.Client{Transport: s.transport}
	if s.client, err = client.New(config, client.Options{Scheme: clientgoscheme.Scheme, HTTPClient: httpClient, Mapper: mapper()}); err != nil {
		return nil, fmt.Errorf("making a client of the tenant's cluster: %w", err)
	}
	if s.discovery, err = discovery.NewDiscoveryClientForConfigAndClient(config, httpClient); err != nil {
		return nil, fmt.Errorf("making a client of the tenant's cluster: %w", err)
	}
	return s, nil
}

// read does real reads: the apiserver says that it is ready, tells its version,
// and hands out an object from etcd.
func (s *server) read(ctx context.Context) (version string, err error) {
	if err := s.discovery.RESTClient().Get().AbsPath("/readyz").Do(ctx).Error(); err != nil {
		return "", fmt.Errorf("GET /readyz: %w", err)
	}
	info, err := s.discovery.ServerVersion()
	if err != nil {
		return "", fmt.Errorf("GET /version: %w", err)
	}
	namespace := &corev1.Namespace{}
	if err := s.client.Get(ctx, client.ObjectKey{Name: metav1.NamespaceSystem}, namespace); err != nil {
		return "", fmt.Errorf("GET namespace %s: %w", metav1.NamespaceSystem, err)
	}
	return info.GitVersion, nil
}

// defaultServiceAccount tells whether the controller-manager has made the
// ServiceAccount without which no pod can be created.
func (s *server) defaultServiceAccount(ctx context.Context) error {
	key := client.ObjectKey{Namespace: metav1.NamespaceDefault, Name: "default"}
	if err := s.client.Get(ctx, key, &corev1.ServiceAccount{}); err != nil {
		return fmt.Errorf("waiting for service account %s, which the tenant's kube-controller-manager makes: %w", key, err)
	}
	return nil
}

// validFor tells whether the certificate that the server shows is valid for a host.
func (s *server) validFor(host string) error {
	if host == "" {
		return nil
	}
	s.mu.Lock()
	shown := s.shown
	s.mu.Unlock()
	if shown == nil {
		return errNotLooked
	}
	if err := shown.VerifyHostname(host); err != nil {
		// The new certificate shows on new connections only.
		s.transport.CloseIdleConnections()
		return fmt.Errorf("the tenant's kube-apiserver does not yet show a certificate for %s", host)
	}
	return nil
}

func (s *server) close() { s.transport.CloseIdleConnections() }
