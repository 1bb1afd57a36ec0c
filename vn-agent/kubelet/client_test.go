package kubelet

import (
	"encoding/pem"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/bulkhead-dev/bulkhead/internal/pki"
)

func TestNewTransportNeedsSomethingToVerifyTheKubeletWith(t *testing.T) {
	token := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(token, []byte("t"), 0o600); err != nil {
		t.Fatal(err)
	}
	ca, err := pki.NewCA("kubelet-ca")
	if err != nil {
		t.Fatal(err)
	}
	good := filepath.Join(t.TempDir(), "ca.crt")
	if err := os.WriteFile(good, ca.Cert, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, options := range map[string]Options{
		"no CA file":         {TokenFile: token},
		"no token file":      {CAFile: good},
		"missing CA file":    {CAFile: good + ".not", TokenFile: token},
		"missing token file": {CAFile: good, TokenFile: token + ".not"},
		"no CA in the file":  {CAFile: token, TokenFile: token},
	} {
		if _, err := NewTransport(options); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	if _, err := NewTransport(Options{CAFile: good, TokenFile: token}); err != nil {
		t.Error(err)
	}
}

func TestTheTransportFollowsNoRedirect(t *testing.T) {
	asked := 0
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked++
		http.Redirect(w, r, "/elsewhere", http.StatusFound)
	}))
	defer server.Close()
	transport := transportTo(t, server)
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, server.URL+"/pods", nil)
	if err != nil {
		t.Fatal(err)
	}
	response, err := transport.RoundTrip(request)
	if err != nil {
		t.Fatal(err)
	}
	if err := response.Body.Close(); err != nil {
		t.Error(err)
	}
	if response.StatusCode != http.StatusFound || asked != 1 {
		t.Errorf("status %d after %d requests", response.StatusCode, asked)
	}
	if response.Proto != "HTTP/1.1" {
		t.Errorf("spoke %s, over which nothing can be upgraded", response.Proto)
	}
}

func transportTo(t *testing.T, server *httptest.Server) http.RoundTripper {
	t.Helper()
	dir := t.TempDir()
	options := Options{CAFile: filepath.Join(dir, "ca.crt"), TokenFile: filepath.Join(dir, "token")}
	for file, data := range map[string][]byte{options.CAFile: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}), options.TokenFile: []byte("t")} {
		if err := os.WriteFile(file, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	transport, err := NewTransport(options)
	if err != nil {
		t.Fatal(err)
	}
	return transport
}

func TestOnlyHeadersAKubeletNeedsPass(t *testing.T) {
	from := http.Header{
		"Authorization": {"Bearer stolen"}, "Cookie": {"c"}, "Proxy-Authorization": {"p"},
		"Impersonate-User": {"system:admin"}, "Impersonate-Group": {"system:masters"}, "Impersonate-Uid": {"1"}, "Impersonate-Extra-Scopes": {"all"},
		"X-Remote-User": {"root"}, "X-Remote-Group": {"g"}, "X-Remote-Extra-A": {"b"},
		"Forwarded": {"for=1.2.3.4"}, "X-Forwarded-For": {"1.2.3.4"}, "X-Forwarded-Host": {"h"}, "X-Real-Ip": {"1.2.3.4"},
		"Content-Type": {"text/plain"}, "Whatever": {"else"},
		"Upgrade": {"SPDY/3.1"}, "Connection": {"Upgrade"}, "X-Stream-Protocol-Version": {"v5.channel.k8s.io", "v4.channel.k8s.io"},
		"Sec-Websocket-Key": {"k"}, "Sec-Websocket-Protocol": {"v5.channel.k8s.io"}, "Sec-Websocket-Version": {"13"}, "Origin": {"https://console"},
		"Accept": {"*/*"},
	}
	want := http.Header{
		"Upgrade": {"SPDY/3.1"}, "Connection": {"Upgrade"}, "X-Stream-Protocol-Version": {"v5.channel.k8s.io", "v4.channel.k8s.io"},
		"Sec-Websocket-Key": {"k"}, "Sec-Websocket-Protocol": {"v5.channel.k8s.io"}, "Sec-Websocket-Version": {"13"}, "Origin": {"https://console"},
		"Accept": {"*/*"},
	}
	if diff := cmp.Diff(want, PassHeaders(from)); diff != "" {
		t.Error(diff)
	}
}
