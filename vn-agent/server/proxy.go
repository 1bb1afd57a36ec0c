package server

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"

	"github.com/bulkhead-dev/bulkhead/vn-agent/kubelet"
	"github.com/bulkhead-dev/bulkhead/vn-agent/pods"
)

// maxErrorText bounds how much of a kubelet's error answer is read to put the
// tenant's names into it.
const maxErrorText = 64 << 10

// errRedirect is a kubelet's redirect: whoever followed it would hand credentials
// to where a compromised node points (CVE-2020-8559).
var errRedirect = errors.New("the kubelet answered with a redirect, which is not followed")

// errRefused is the kubelet's answer to vn-agent itself. It is not the tenant's
// doing and must not look so.
var errRefused = errors.New("the kubelet does not accept vn-agent's own credentials")

// forward passes a request about one pod to the kubelet and the answer back,
// upgraded connections included: their bytes are not looked at.
func (s *Server) forward(w http.ResponseWriter, r *http.Request, to *url.URL, pod pods.Pod) {
	proxy := httputil.ReverseProxy{
		Transport: s.Kubelet,
		Rewrite: func(p *httputil.ProxyRequest) {
			p.Out.URL, p.Out.Host = to, to.Host
			p.Out.Header = kubelet.PassHeaders(p.Out.Header)
			// An empty User-Agent, lest Go's own be added; no endpoint reads a body.
			p.Out.Header["User-Agent"] = []string{"vn-agent"}
			p.Out.Body, p.Out.ContentLength, p.Out.TransferEncoding = http.NoBody, 0, nil
		},
		// A followed log must show each line when it is written.
		FlushInterval:  -1,
		ModifyResponse: func(response *http.Response) error { return translateResponse(response, pod) },
		ErrorHandler:   s.proxyError,
		ErrorLog:       s.errorLog,
	}
	proxy.ServeHTTP(w, r)
}

func translateResponse(response *http.Response, pod pods.Pod) error {
	switch code := response.StatusCode; {
	case code == http.StatusSwitchingProtocols:
		body, ok := response.Body.(io.ReadWriteCloser)
		if !ok {
			return fmt.Errorf("the kubelet's upgraded connection is a %T, which cannot be written to", response.Body)
		}
		response.Body = &upgraded{ReadWriteCloser: body}
		return nil
	case code >= 300 && code < 400:
		return errRedirect
	case code == http.StatusUnauthorized || code == http.StatusForbidden:
		return errRefused
	case code >= 400:
		return translateError(response, pod)
	}
	return nil
}

// upgraded is the kubelet's side of an upgraded connection. It sets right when the
// session is over, which httputil.ReverseProxy takes to be when both directions
// have ended, or one has failed:
//
// It hides that the connection can be closed one way only, which no protocol spoken
// here uses. So the session is over, and its place free, once the client has gone,
// whatever the kubelet does.
//
// And a write that fails is no failure. It means that the kubelet has ended the
// session; what it said last, a command's output and exit code, may still be on
// its way and must reach the client.
type upgraded struct {
	io.ReadWriteCloser
	ended bool // used by the one goroutine that writes
}

func (u *upgraded) Write(data []byte) (int, error) {
	if !u.ended {
		_, err := u.ReadWriteCloser.Write(data)
		u.ended = err != nil
	}
	return len(data), nil
}

// translateError puts the tenant's names into the kubelet's error text.
func translateError(response *http.Response, pod pods.Pod) error {
	text, err := io.ReadAll(io.LimitReader(response.Body, maxErrorText))
	if err != nil {
		return fmt.Errorf("reading the kubelet's error: %w", err)
	}
	_ = response.Body.Close() // nothing more is wanted of it
	text = bytes.ReplaceAll(text, []byte(pod.Super.Namespace), []byte(pod.Namespace))
	text = bytes.ReplaceAll(text, []byte(pod.SuperUID), []byte(pod.UID))
	response.Body = io.NopCloser(bytes.NewReader(text))
	response.ContentLength = int64(len(text))
	response.TransferEncoding = nil
	response.Header.Set("Content-Length", fmt.Sprint(len(text)))
	response.Header.Del("Content-Encoding")
	return nil
}

// proxyError answers for a kubelet that did not, or not acceptably.
func (s *Server) proxyError(w http.ResponseWriter, r *http.Request, err error) {
	if r.Context().Err() != nil && errors.Is(err, context.Canceled) {
		// The client or the tenant is gone; nobody reads an answer.
		w.WriteHeader(http.StatusServiceUnavailable)
		return
	}
	s.answer(w, r, kubeletFailure(s.Node.Name, err))
}

// kubeletFailure says in words a tenant may read why the kubelet gave no answer.
// The error itself goes to the log.
func kubeletFailure(nodeName string, err error) error {
	reason := "it gave none that can be used"
	var network net.Error
	var dial *net.OpError
	var certificate *tls.CertificateVerificationError
	switch {
	case errors.Is(err, errRedirect), errors.Is(err, errRefused), errors.Is(err, errTooLarge):
		reason = err.Error()
	case errors.As(err, &certificate):
		reason = "its certificate cannot be verified"
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &network) && network.Timeout():
		reason = "it did not answer in time"
	case errors.As(err, &dial) && dial.Op == "dial":
		reason = "it cannot be reached"
	}
	return &gatewayError{message: fmt.Sprintf("no answer from the kubelet of node %q: %s", nodeName, reason), err: err}
}

// gatewayError is a fault of the kubelet or of the way there.
type gatewayError struct {
	message string
	err     error
}

func (g *gatewayError) Error() string { return g.message }
func (g *gatewayError) Unwrap() error { return g.err }
