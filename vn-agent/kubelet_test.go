package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/util/proxy"
	translator "k8s.io/apiserver/pkg/util/proxy"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/cri-streaming/pkg/streaming"
	"k8s.io/cri-streaming/pkg/streaming/portforward"
	remotecommandserver "k8s.io/cri-streaming/pkg/streaming/remotecommand"
	"k8s.io/streaming/pkg/httpstream/wsstream"
	utilexec "k8s.io/utils/exec"

	"github.com/bulkhead-dev/bulkhead/internal/pki"
	"github.com/bulkhead-dev/bulkhead/internal/testenv"
)

// recordingKubelet stands in for a kubelet where a real one cannot show what is
// tested: it remembers what it was asked, byte for byte, and can be made to
// misbehave. Streams are served by the code that kubelet and containerd use.
type recordingKubelet struct {
	port  int
	token string
	cri   streaming.Server
	// usage makes the answers of stats/summary and metrics/resource.
	usage func(endpoint string) string

	mu       sync.Mutex
	requests []recorded
	// misbehave answers instead, if set.
	misbehave http.HandlerFunc
	// runtime is the container runtime's side, on loopback as containerd's.
	runtime *testenv.Port
	// lines are what a followed log writes, until it is closed.
	lines chan string
}

type recorded struct {
	method, path, query string
	header              http.Header
}

func startKubelet(ca *pki.CA, token string) (*recordingKubelet, error) {
	k := &recordingKubelet{token: token}
	// The container runtime's side, on loopback as containerd's.
	var err error
	if k.runtime, err = testenv.ReservePort(); err != nil {
		return nil, err
	}
	config := streaming.DefaultConfig
	config.Addr = k.runtime.Address()
	if k.cri, err = streaming.NewServer(config, testRuntime{}); err != nil {
		return nil, err
	}
	go func() { _ = k.cri.Start(true) }()
	k.port, err = serveTLS(ca, http.HandlerFunc(k.serve))
	return k, err
}

// serveTLS serves on loopback with a certificate of the CA.
func serveTLS(ca *pki.CA, handler http.Handler) (port int, err error) {
	pair, err := ca.Issue(pki.Leaf{CommonName: "system:node:node-1", Hosts: []string{"127.0.0.1"}, Usage: pki.Server})
	if err != nil {
		return 0, err
	}
	certificate, err := tls.X509KeyPair(pair.Cert, pair.Key)
	if err != nil {
		return 0, err
	}
	listener, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{certificate}, NextProtos: []string{"http/1.1"}})
	if err != nil {
		return 0, err
	}
	server := &http.Server{Handler: handler, ReadHeaderTimeout: time.Minute}
	go func() { _ = server.Serve(listener) }()
	return listener.Addr().(*net.TCPAddr).Port, nil
}

func (k *recordingKubelet) serve(w http.ResponseWriter, r *http.Request) {
	k.mu.Lock()
	k.requests = append(k.requests, recorded{r.Method, r.URL.EscapedPath(), r.URL.RawQuery, r.Header.Clone()})
	misbehave, lines := k.misbehave, k.lines
	k.mu.Unlock()
	if misbehave != nil {
		misbehave(w, r)
		return
	}
	if r.Header.Get("Authorization") != "Bearer "+k.token {
		http.Error(w, "Unauthorized", http.StatusUnauthorized)
		return
	}
	segments := strings.Split(strings.Trim(r.URL.Path, "/"), "/")
	switch segments[0] {
	case "containerLogs":
		k.serveLogs(w, r, segments, lines)
	case "exec", "attach":
		k.serveContainer(w, r, segments)
	case "portForward":
		k.servePortForward(w, r, segments)
	case "run":
		_, _ = fmt.Fprintf(w, "ran %s", r.URL.Query().Get("cmd"))
	case "stats", "metrics":
		k.serveUsage(w, segments)
	default:
		_, _ = fmt.Fprintf(w, "the whole node's secrets at %s", r.URL.Path)
	}
}

func (k *recordingKubelet) serveLogs(w http.ResponseWriter, r *http.Request, segments []string, lines chan string) {
	if segments[3] == "missing" {
		// As the kubelet words it.
		http.Error(w, fmt.Sprintf("container %q not found in pod %q of namespace %q", segments[3], segments[2], segments[1]), http.StatusNotFound)
		return
	}
	if r.URL.Query().Get("follow") != "true" {
		_, _ = fmt.Fprintf(w, "log of %s\n", r.URL.Path)
		return
	}
	for {
		select {
		case line, more := <-lines:
			if !more {
				return
			}
			_, _ = io.WriteString(w, line)
			w.(http.Flusher).Flush()
		case <-r.Context().Done():
			return
		}
	}
}

// serveContainer does what the kubelet's getExec and getAttach do.
func (k *recordingKubelet) serveContainer(w http.ResponseWriter, r *http.Request, segments []string) {
	options, err := remotecommandserver.NewOptions(r)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	container := strings.Join(segments[1:], "/")
	var location string
	if segments[0] == "exec" {
		response, err := k.cri.GetExec(&runtimeapi.ExecRequest{
			ContainerId: container, Cmd: r.URL.Query()["command"], Tty: options.TTY, Stdin: options.Stdin, Stdout: options.Stdout, Stderr: options.Stderr,
		})
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		location = response.Url
	} else {
		response, err := k.cri.GetAttach(&runtimeapi.AttachRequest{
			ContainerId: container, Tty: options.TTY, Stdin: options.Stdin, Stdout: options.Stdout, Stderr: options.Stderr,
		})
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		location = response.Url
	}
	u, err := url.Parse(location)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	if wsstream.IsWebSocketRequestWithStreamCloseProtocol(r) {
		translator.NewStreamTranslatorHandler(u, nil, 0, translator.Options{
			Stdin: options.Stdin, Stdout: options.Stdout, Stderr: options.Stderr, Tty: options.TTY,
		}).ServeHTTP(w, r)
		return
	}
	proxy.NewUpgradeAwareHandler(u, nil, false, true, responder{}).ServeHTTP(w, r)
}

func (k *recordingKubelet) servePortForward(w http.ResponseWriter, r *http.Request, segments []string) {
	tunnel := wsstream.IsWebSocketRequestWithTunnelingProtocol(r)
	options := &portforward.V4Options{}
	if !tunnel {
		var err error
		if options, err = portforward.NewV4Options(r); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
	}
	response, err := k.cri.GetPortForward(&runtimeapi.PortForwardRequest{PodSandboxId: strings.Join(segments[1:], "/"), Port: options.Ports})
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	u, err := url.Parse(response.Url)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	var handler http.Handler = proxy.NewUpgradeAwareHandler(u, nil, false, true, responder{})
	if tunnel {
		handler = translator.NewTunnelingHandler(handler)
	}
	handler.ServeHTTP(w, r)
}

type responder struct{}

func (responder) Error(w http.ResponseWriter, _ *http.Request, err error) {
	http.Error(w, err.Error(), http.StatusInternalServerError)
}

// testRuntime is a container runtime whose containers know a few commands.
type testRuntime struct{}

func (testRuntime) Exec(ctx context.Context, container string, command []string, in io.Reader, out, stderr io.WriteCloser, _ bool, resize <-chan remotecommandserver.TerminalSize) error {
	switch command[0] {
	case "cat":
		_, err := io.Copy(out, in)
		return err
	case "args":
		_, err := fmt.Fprintf(out, "%q in %s", command[1:], container)
		return err
	case "fail":
		_, _ = io.WriteString(stderr, "it failed")
		return utilexec.CodeExitError{Err: fmt.Errorf("exit"), Code: 3}
	case "size":
		size := <-resize
		_, err := fmt.Fprintf(out, "%dx%d", size.Width, size.Height)
		return err
	case "hold":
		_, _ = io.WriteString(out, "held\n")
		_, err := io.Copy(io.Discard, in)
		return err
	}
	return fmt.Errorf("%s: command not found", command[0])
}

func (testRuntime) Attach(_ context.Context, container string, in io.Reader, out, _ io.WriteCloser, _ bool, _ <-chan remotecommandserver.TerminalSize) error {
	// To its end: a session that ends while input is on its way may lose output, in
	// Kubernetes' own code as well.
	said, err := io.ReadAll(in)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(out, "%s said %s", container, said)
	return err
}

func (testRuntime) PortForward(_ context.Context, sandbox string, port int32, stream io.ReadWriteCloser) error {
	defer func() { _ = stream.Close() }()
	line, err := bufio.NewReader(stream).ReadString('\n')
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(stream, "port %d of %s: %s", port, sandbox, line)
	return err
}

// set changes how the kubelet behaves until the test ends.
func (k *recordingKubelet) set(t *testing.T, handler http.HandlerFunc) {
	t.Helper()
	k.mu.Lock()
	k.misbehave = handler
	k.mu.Unlock()
	t.Cleanup(func() {
		k.mu.Lock()
		k.misbehave = nil
		k.mu.Unlock()
	})
}

// follow gives followed logs their lines from now on.
func (k *recordingKubelet) follow() chan<- string {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.lines = make(chan string)
	return k.lines
}

// record runs f and returns what the kubelet was asked meanwhile.
func (k *recordingKubelet) record(f func()) []recorded {
	k.mu.Lock()
	before := len(k.requests)
	k.mu.Unlock()
	f()
	k.mu.Lock()
	defer k.mu.Unlock()
	return slices.Clone(k.requests[before:])
}
