package image

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/bulkhead-dev/bulkhead/internal/pki"
	"github.com/bulkhead-dev/bulkhead/local/progress"
)

// authority makes a certificate authority and the pool that trusts it.
func authority(t *testing.T) (*pki.CA, *x509.CertPool) {
	t.Helper()
	ca, err := pki.NewCA("test")
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(ca.Cert)
	return ca, pool
}

func issue(t *testing.T, ca *pki.CA, leaf pki.Leaf) tls.Certificate {
	t.Helper()
	pair, err := ca.Issue(leaf)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := tls.X509KeyPair(pair.Cert, pair.Key)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

// running is a registry that serves for the length of a test.
type running struct {
	address string
	servers *x509.CertPool // who the server is trusted by
	clients *pki.CA        // who signs the clients' certificates
	client  tls.Certificate
}

func start(t *testing.T, dir string) running {
	t.Helper()
	serverCA, serverPool := authority(t)
	clientCA, clientPool := authority(t)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	config := &tls.Config{
		Certificates: []tls.Certificate{issue(t, serverCA, pki.Leaf{CommonName: "registry", Hosts: []string{"127.0.0.1"}, Usage: pki.Server})},
		ClientCAs:    clientPool,
	}
	go func() { ended <- serve(ctx, dir, listener, config) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("the registry ended with %v, want nil after its context did", err)
		}
	})
	return running{
		address: listener.Addr().String(),
		servers: serverPool,
		clients: clientCA,
		client:  issue(t, clientCA, pki.Leaf{CommonName: "node-1", Usage: pki.Client}),
	}
}

// transport talks to the registry, with a client certificate unless it is nil,
// as the mirror of the given upstream registry unless that is empty.
func (r running) transport(t *testing.T, client *tls.Certificate, upstream string) http.RoundTripper {
	config := &tls.Config{RootCAs: r.servers}
	if client != nil {
		config.Certificates = []tls.Certificate{*client}
	}
	inner := &http.Transport{TLSClientConfig: config, ForceAttemptHTTP2: true}
	t.Cleanup(inner.CloseIdleConnections)
	return mirrorTransport{inner, upstream}
}

// mirrorTransport adds what containerd adds to requests to a mirror.
type mirrorTransport struct {
	inner    http.RoundTripper
	upstream string
}

func (m mirrorTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	if m.upstream != "" {
		req = req.Clone(req.Context())
		query := req.URL.Query()
		query.Set("ns", m.upstream)
		req.URL.RawQuery = query.Encode()
	}
	return m.inner.RoundTrip(req)
}

func (r running) do(t *testing.T, method, pathAndQuery string, header http.Header) (*http.Response, []byte) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, "https://"+r.address+pathAndQuery, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header = header
	resp, err := (&http.Client{Transport: r.transport(t, &r.client, "")}).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, body
}

// TestPull pulls every image, by tag and by digest, and checks all of its
// digests and sizes.
func TestPull(t *testing.T) {
	dir, refs := assemble(t)
	r := start(t, dir)
	for _, ref := range refs {
		registry, repository, tag, err := splitName(ref.Name)
		if err != nil {
			t.Fatal(err)
		}
		for _, reference := range []string{":" + tag, "@" + ref.Digest} {
			parsed, err := name.ParseReference(r.address + "/" + repository + reference)
			if err != nil {
				t.Fatal(err)
			}
			img, err := remote.Image(parsed, remote.WithTransport(r.transport(t, &r.client, registry)), remote.WithContext(t.Context()))
			if err != nil {
				t.Fatalf("pulling %s%s: %v", repository, reference, err)
			}
			checkImage(t, repository+reference, img)
			if digest, err := img.Digest(); err != nil || digest.String() != ref.Digest {
				t.Errorf("%s%s has digest %s (%v), want %s", repository, reference, digest, err, ref.Digest)
			}
		}
	}
}

// checkImage reads all of an image and compares it with its own digests.
func checkImage(t *testing.T, what string, img v1.Image) {
	t.Helper()
	config, err := img.ConfigFile() // compares it with its digest
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
	if config.OS != "linux" || config.Architecture != platform().Architecture {
		t.Errorf("%s is for %s/%s", what, config.OS, config.Architecture)
	}
	layers, err := img.Layers()
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
	if len(layers) == 0 || len(layers) != len(config.RootFS.DiffIDs) || len(layers) != len(config.History) {
		t.Fatalf("%s has %d layers, %d digests of what is in them, and a history of %d", what, len(layers), len(config.RootFS.DiffIDs), len(config.History))
	}
	for i, l := range layers {
		content, err := l.Compressed()
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		digest, size, err := v1.SHA256(content)
		content.Close()
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		wantSize, err := l.Size()
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		// A layer that is not compressed is what it unpacks to.
		if digest != config.RootFS.DiffIDs[i] || size != wantSize {
			t.Errorf("%s: layer %d has digest %s and %d bytes, want %s and %d", what, i, digest, size, config.RootFS.DiffIDs[i], wantSize)
		}
	}
}

func TestClientsMustProveWhoTheyAre(t *testing.T) {
	dir, _ := assemble(t)
	r := start(t, dir)
	strangers, _ := authority(t)
	stranger := issue(t, strangers, pki.Leaf{CommonName: "node-1", Usage: pki.Client})
	server := issue(t, r.clients, pki.Leaf{CommonName: "node-1", Hosts: []string{"node-1"}, Usage: pki.Server})
	for what, client := range map[string]*tls.Certificate{
		"no certificate":                nil,
		"another authority's":           &stranger,
		"a certificate not for clients": &server,
	} {
		resp, err := (&http.Client{Transport: r.transport(t, client, "")}).Get("https://" + r.address + "/v2/")
		if err == nil {
			resp.Body.Close()
			t.Errorf("a client with %s gets status %d", what, resp.StatusCode)
		}
	}

	old := &tls.Config{RootCAs: r.servers, Certificates: []tls.Certificate{r.client}, MaxVersion: tls.VersionTLS11}
	if conn, err := tls.Dial("tcp", r.address, old); err == nil {
		conn.Close()
		t.Error("the registry speaks TLS 1.1")
	}
	resp, err := http.Get("http://" + r.address + "/v2/")
	if err == nil {
		defer resp.Body.Close()
		if resp.StatusCode != http.StatusBadRequest {
			t.Errorf("a client without TLS gets status %d", resp.StatusCode)
		}
	}
}

func TestAnswers(t *testing.T) {
	dir, refs := assemble(t)
	r := start(t, dir)
	digests := map[string]string{}
	for _, ref := range refs {
		digests[ref.Name] = ref.Digest
	}
	pause := digests["registry.k8s.io/pause:3.10.1"]
	var manifest v1.Manifest
	_, raw := r.do(t, http.MethodGet, "/v2/pause/manifests/3.10.1", nil)
	if err := json.Unmarshal(raw, &manifest); err != nil {
		t.Fatal(err)
	}
	layer := manifest.Layers[0].Digest.String()

	tests := []struct {
		method, path string
		status       int
		code         string // of the error in the answer
	}{
		{http.MethodGet, "/v2/", http.StatusOK, ""},
		{http.MethodHead, "/v2/pause/manifests/3.10.1", http.StatusOK, ""},
		{http.MethodHead, "/v2/pause/manifests/" + pause, http.StatusOK, ""},
		{http.MethodHead, "/v2/pause/blobs/" + layer, http.StatusOK, ""},
		{http.MethodGet, "/v2/pause/manifests/3.10.1?ns=registry.k8s.io", http.StatusOK, ""},

		{http.MethodGet, "/", http.StatusNotFound, codeUnsupported},
		{http.MethodGet, "/v2/_catalog", http.StatusNotFound, codeUnsupported},
		{http.MethodGet, "/v2/pause/manifests/3.9", http.StatusNotFound, codeManifestUnknown},
		{http.MethodGet, "/v2/pause/manifests/" + someDigest, http.StatusNotFound, codeManifestUnknown},
		{http.MethodGet, "/v2/pause/manifests/" + layer, http.StatusNotFound, codeManifestUnknown},
		{http.MethodGet, "/v2/pause/blobs/" + someDigest, http.StatusNotFound, codeBlobUnknown},
		{http.MethodGet, "/v2/unknown/manifests/latest", http.StatusNotFound, codeNameUnknown},
		// What one registry has does not show under another one's name.
		{http.MethodGet, "/v2/pause/manifests/3.10.1?ns=docker.io", http.StatusNotFound, codeNameUnknown},
		// Nor does what one repository has show in another one.
		{http.MethodGet, "/v2/library/busybox/blobs/" + layer, http.StatusNotFound, codeBlobUnknown},
		{http.MethodGet, "/v2/PAUSE/manifests/latest", http.StatusBadRequest, codeNameInvalid},
		{http.MethodGet, "/v2/pause/blobs/sha256:..%2f..%2findex.json", http.StatusNotFound, codeUnsupported},
		{http.MethodGet, "/v2/pause/blobs/..", http.StatusBadRequest, codeDigestInvalid},
		{http.MethodPost, "/v2/pause/blobs/uploads/", http.StatusMethodNotAllowed, codeUnsupported},
		{http.MethodPut, "/v2/pause/manifests/latest", http.StatusMethodNotAllowed, codeUnsupported},
		{http.MethodDelete, "/v2/pause/manifests/" + pause, http.StatusMethodNotAllowed, codeUnsupported},
	}
	for _, tt := range tests {
		t.Run(tt.method+" "+tt.path, func(t *testing.T) {
			resp, body := r.do(t, tt.method, tt.path, nil)
			if resp.StatusCode != tt.status {
				t.Errorf("status %d, want %d: %s", resp.StatusCode, tt.status, body)
			}
			if tt.code == "" {
				return
			}
			var problem struct {
				Errors []struct{ Code, Message string }
			}
			if err := json.Unmarshal(body, &problem); err != nil || len(problem.Errors) != 1 || problem.Errors[0].Code != tt.code || problem.Errors[0].Message == "" {
				t.Errorf("body %q, want error %s with a message", body, tt.code)
			}
		})
	}

	resp, _ := r.do(t, http.MethodHead, "/v2/pause/manifests/3.10.1", nil)
	want := map[string]string{"Content-Type": string(types.OCIManifestSchema1), "Docker-Content-Digest": pause, "Content-Length": fmt.Sprint(len(raw))}
	for header, value := range want {
		if got := resp.Header.Get(header); got != value {
			t.Errorf("header %s is %q, want %q", header, got, value)
		}
	}

	_, whole := r.do(t, http.MethodGet, "/v2/pause/blobs/"+layer, nil)
	resp, part := r.do(t, http.MethodGet, "/v2/pause/blobs/"+layer, http.Header{"Range": {"bytes=100-199"}})
	if resp.StatusCode != http.StatusPartialContent || string(part) != string(whole[100:200]) {
		t.Errorf("a range has status %d and %d bytes, want 206 and the 100 asked for", resp.StatusCode, len(part))
	}

	_, tags := r.do(t, http.MethodGet, "/v2/library/busybox/tags/list", nil)
	if diff := cmp.Diff(`{"name":"library/busybox","tags":["1.36","1.37","latest"]}`+"\n", string(tags)); diff != "" {
		t.Errorf("tags (-want +got):\n%s", diff)
	}
}

// writeLayout makes a layout whose images are named names, each with its name
// for content.
func writeLayout(t *testing.T, dir string, names ...string) {
	t.Helper()
	store := layoutStore{dir: dir}
	var index []v1.Descriptor
	for _, name := range names {
		img, err := spec{names: []string{name}, layers: [][]entry{{text("name", name)}}}.image()
		if err != nil {
			t.Fatal(err)
		}
		d, _, err := store.writeImage(img)
		if err != nil {
			t.Fatal(err)
		}
		d.Annotations = map[string]string{refNameAnnotation: name}
		index = append(index, d)
	}
	if err := store.writeIndex(index); err != nil {
		t.Fatal(err)
	}
}

// TestSameNameInTwoRegistries asks for an image that docker.io and quay.io both
// have.
func TestSameNameInTwoRegistries(t *testing.T) {
	dir := t.TempDir()
	writeLayout(t, dir, "docker.io/team/tool:1", "quay.io/team/tool:1")
	r := start(t, dir)
	seen := map[string]string{}
	for _, registry := range []string{"docker.io", "quay.io"} {
		resp, body := r.do(t, http.MethodGet, "/v2/team/tool/manifests/1?ns="+registry, nil)
		if resp.StatusCode != http.StatusOK {
			t.Fatalf("%s: status %d: %s", registry, resp.StatusCode, body)
		}
		seen[registry] = resp.Header.Get("Docker-Content-Digest")
	}
	if seen["docker.io"] == seen["quay.io"] {
		t.Errorf("both registries give %s", seen["quay.io"])
	}
	// The content of one is not to be had as the other's, not even by digest.
	if resp, _ := r.do(t, http.MethodGet, "/v2/team/tool/manifests/"+seen["quay.io"]+"?ns=docker.io", nil); resp.StatusCode != http.StatusNotFound {
		t.Errorf("quay.io's manifest under docker.io has status %d, want 404", resp.StatusCode)
	}
	// Without a registry it cannot be known which is meant.
	if resp, _ := r.do(t, http.MethodGet, "/v2/team/tool/manifests/1", nil); resp.StatusCode != http.StatusNotFound {
		t.Errorf("without a registry: status %d, want 404", resp.StatusCode)
	}
}

func TestServesWhatIsAssembledLater(t *testing.T) {
	dir := t.TempDir()
	writeLayout(t, dir, "docker.io/one:1")
	r := start(t, dir)
	if resp, _ := r.do(t, http.MethodGet, "/v2/two/manifests/1", nil); resp.StatusCode != http.StatusNotFound {
		t.Fatalf("status %d, want 404", resp.StatusCode)
	}
	writeLayout(t, dir, "docker.io/one:1", "docker.io/two:1")
	if resp, _ := r.do(t, http.MethodGet, "/v2/two/manifests/1", nil); resp.StatusCode != http.StatusOK {
		t.Errorf("status %d, want 200 once it is there", resp.StatusCode)
	}
	// An index that cannot be read does not take away what is there.
	for _, broken := range []string{"{", `{"manifests":[{"digest":"` + someDigest + `","annotations":{"` + refNameAnnotation + `":"docker.io/three:1"}}]}`} {
		if err := os.WriteFile(filepath.Join(dir, indexFile), []byte(broken), 0o600); err != nil {
			t.Fatal(err)
		}
		if resp, _ := r.do(t, http.MethodGet, "/v2/two/manifests/1", nil); resp.StatusCode != http.StatusOK {
			t.Errorf("status %d with index %q, want 200", resp.StatusCode, broken)
		}
	}
	writeLayout(t, dir, "docker.io/two:1")
	if resp, _ := r.do(t, http.MethodGet, "/v2/one/manifests/1", nil); resp.StatusCode != http.StatusNotFound {
		t.Errorf("status %d, want 404 once it is gone", resp.StatusCode)
	}
}

func TestServeRefusesToStart(t *testing.T) {
	dir, _ := assemble(t)
	ca, pool := authority(t)
	cert := issue(t, ca, pki.Leaf{CommonName: "registry", Hosts: []string{"127.0.0.1"}, Usage: pki.Server})
	good := &tls.Config{Certificates: []tls.Certificate{cert}, ClientCAs: pool}
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	tests := []struct {
		name, dir, addr string
		config          *tls.Config
		want            string
	}{
		{"no configuration", dir, "127.0.0.1:0", nil, "no serving certificate"},
		{"no certificate", dir, "127.0.0.1:0", &tls.Config{ClientCAs: pool}, "no serving certificate"},
		{"no client authority", dir, "127.0.0.1:0", &tls.Config{Certificates: good.Certificates}, "no authority of client certificates"},
		{"no layout", t.TempDir(), "127.0.0.1:0", good, indexFile},
		{"address taken", dir, taken.Addr().String(), good, "is taken by another program"},
		{"no address", dir, "nonsense", good, "listening for the image registry on nonsense"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			err := Serve(ctx, tt.dir, tt.addr, tt.config)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("Serve returns %v, want an error with %q", err, tt.want)
			}
			var logged *progress.LogError
			if errors.As(err, &logged) && logged.Hint == "" {
				t.Error("the error has no hint")
			}
		})
	}
}
