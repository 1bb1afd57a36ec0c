// Package server is vn-agent's face towards tenants: the part of a kubelet's HTTPS
// endpoints that concerns one tenant's pods.
package server

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log"
	"net"
	"net/http"
	"net/url"
	"sync"
	"time"

	"github.com/go-logr/logr"
	"k8s.io/apimachinery/pkg/types"
	genericserver "k8s.io/apiserver/pkg/server"
	"k8s.io/apiserver/pkg/server/dynamiccertificates"

	"github.com/bulkhead-dev/bulkhead/vn-agent/identity"
	"github.com/bulkhead-dev/bulkhead/vn-agent/node"
	"github.com/bulkhead-dev/bulkhead/vn-agent/pods"
)

const (
	// headerTimeout bounds TLS handshake and request headers. There is no timeout on
	// reading or writing as a whole: an exec session may last for days.
	headerTimeout  = 10 * time.Second
	idleTimeout    = 90 * time.Second
	maxHeaderBytes = 64 << 10
	// shutdownTimeout is how long requests may end by themselves when vn-agent stops.
	shutdownTimeout = 5 * time.Second
)

// Server serves tenants. All fields must be set.
type Server struct {
	Registry *identity.Registry
	Pods     *pods.Index
	Node     node.Node
	// Kubelet is the way to the node's kubelet.
	Kubelet http.RoundTripper
	// GetCertificate returns the serving certificate of the moment.
	GetCertificate func(*tls.ClientHelloInfo) (*tls.Certificate, error)
	Limits         Limits
	Log            logr.Logger
	metrics        *serverMetrics
	errorLog       *log.Logger

	mu     sync.Mutex
	states map[types.UID]*state
}

// Complete checks the server's settings and makes it ready to serve. It refuses a
// server that could not verify who connects.
func (s *Server) Complete() error {
	switch {
	case s.Registry == nil:
		return errors.New("vn-agent has no source of client CAs: it would know nobody")
	case s.Pods == nil || s.Node.Reader == nil || s.Node.Name == "":
		return errors.New("vn-agent does not know its node or the pods on it")
	case s.Kubelet == nil || s.GetCertificate == nil:
		return errors.New("vn-agent has no way to the kubelet or no serving certificate")
	case s.Limits.Streams < 1 || s.Limits.Requests < 1:
		return fmt.Errorf("the limits of streams (%d) and requests (%d) must be 1 at least", s.Limits.Streams, s.Limits.Requests)
	}
	s.states = map[types.UID]*state{}
	s.metrics = newMetrics()
	s.errorLog = log.New(logWriter{s.Log.V(1)}, "", 0)
	return nil
}

// Serve serves on the listener until the context ends.
func (s *Server) Serve(ctx context.Context, listener net.Listener) error {
	config := s.tlsConfig()
	certificates := dynamiccertificates.NewDynamicServingCertificateController(config.Clone(), s.Registry, nil, nil, nil)
	s.Registry.AddListener(certificates)
	if err := certificates.RunOnce(); err != nil {
		return fmt.Errorf("loading the client CAs: %w", err)
	}
	go certificates.Run(1, ctx.Done())
	config.GetConfigForClient = certificates.GetConfigForClient

	server := &http.Server{
		Handler:           s.Handler(),
		TLSConfig:         config,
		ReadHeaderTimeout: headerTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeaderBytes,
		ErrorLog:          s.errorLog,
	}
	stopped, _, err := genericserver.RunServer(server, listener, shutdownTimeout, ctx.Done())
	if err != nil {
		return fmt.Errorf("serving on %s: %w", listener.Addr(), err)
	}
	s.Log.Info("serving tenants", "address", listener.Addr().String())
	<-stopped
	return nil
}

// tlsConfig demands a certificate that some tenant's CA signed before any request
// is read; which tenant's is decided for each request. HTTP/1.1 only, because
// streams take their connection over.
func (s *Server) tlsConfig() *tls.Config {
	return &tls.Config{
		MinVersion:     tls.VersionTLS12,
		NextProtos:     []string{"http/1.1"},
		ClientAuth:     tls.RequireAndVerifyClientCert,
		ClientCAs:      x509.NewCertPool(), // verifies nobody; nil would mean the machine's roots
		GetCertificate: s.GetCertificate,
	}
}

// kubeletURL is a URL on the node's kubelet.
func (s *Server) kubeletURL(ctx context.Context, path string, query url.Values) (*url.URL, error) {
	address, err := s.Node.KubeletAddress(ctx)
	if err != nil {
		return nil, err
	}
	return &url.URL{Scheme: "https", Host: address, Path: path, RawQuery: query.Encode()}, nil
}

// logWriter passes what net/http has to say, failed handshakes above all, to a log.
type logWriter struct{ log logr.Logger }

func (w logWriter) Write(line []byte) (int, error) {
	w.log.Info("http server", "message", string(line))
	return len(line), nil
}
