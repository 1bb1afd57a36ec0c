// Package kubelet is how vn-agent reaches the one kubelet it stands in front of.
package kubelet

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"

	"k8s.io/client-go/rest"
)

// Options say how the kubelet is verified and how vn-agent shows who it is.
type Options struct {
	// CAFile verifies the kubelet's serving certificate. Read again when it changes.
	CAFile string
	// TokenFile holds vn-agent's bearer token. Read again at least every minute:
	// bound tokens expire.
	TokenFile string
}

// NewTransport makes the only way to a kubelet: TLS that is always verified,
// vn-agent's own token, no proxy, no redirects, nothing added to what comes back.
// HTTP/1.1 only, because SPDY and WebSocket take a whole connection over.
func NewTransport(options Options) (http.RoundTripper, error) {
	if options.CAFile == "" || options.TokenFile == "" {
		return nil, errors.New("a CA file to verify the kubelet with and a token file are both needed")
	}
	config := &rest.Config{
		Host:               "https://kubelet.invalid", // each request names its own
		BearerTokenFile:    options.TokenFile,
		TLSClientConfig:    rest.TLSClientConfig{CAFile: options.CAFile, NextProtos: []string{"http/1.1"}},
		DisableCompression: true,
		Proxy:              func(*http.Request) (*url.URL, error) { return nil, nil },
	}
	transport, err := rest.TransportFor(config)
	if err != nil {
		return nil, fmt.Errorf("making the transport to the kubelet: %w", err)
	}
	return transport, nil
}
