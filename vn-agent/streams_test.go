package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/tools/remotecommand"
	"k8s.io/client-go/transport/spdy"
	utilexec "k8s.io/client-go/util/exec"
	"k8s.io/streaming/pkg/httpstream"
)

// Two ways to vn-agent: through the tenant's apiserver, as kubectl goes, and
// straight, as a tenant's apiserver goes that talks WebSocket to its kubelets.
// Each with both protocols.
var ways = map[string]func(t *testing.T, subresource string, query url.Values) (*rest.Config, *url.URL){
	"through the apiserver": func(t *testing.T, subresource string, query url.Values) (*rest.Config, *url.URL) {
		api := url.Values{}
		for from, to := range map[string]string{"input": "stdin", "output": "stdout", "error": "stderr", "tty": "tty", "command": "command"} {
			for _, value := range query[from] {
				api.Add(to, value)
			}
		}
		if subresource != "portforward" {
			api.Set("container", "app")
		}
		u := clientset(t, env.a).CoreV1().RESTClient().Post().Resource("pods").Namespace("web").Name("front").SubResource(subresource).URL()
		u.RawQuery = api.Encode()
		return env.a.Config, u
	},
	"straight": func(_ *testing.T, subresource string, query url.Values) (*rest.Config, *url.URL) {
		config := &rest.Config{Host: env.address, TLSClientConfig: rest.TLSClientConfig{CAData: env.servingCA.Cert, CertData: env.a.client.Cert, KeyData: env.a.client.Key}}
		path := "/" + subresource + "/web/front/app"
		if subresource == "portforward" {
			path = "/portForward/web/front"
		}
		return config, &url.URL{Scheme: "https", Host: env.address, Path: path, RawQuery: query.Encode()}
	},
}

var protocols = map[string]func(*rest.Config, string, *url.URL) (remotecommand.Executor, error){
	"SPDY": remotecommand.NewSPDYExecutor,
	"WebSocket": func(c *rest.Config, _ string, u *url.URL) (remotecommand.Executor, error) {
		return remotecommand.NewWebSocketExecutor(c, http.MethodGet, u.String())
	},
}

func eachWay(t *testing.T, test func(t *testing.T, stream func(subresource string, query url.Values, options remotecommand.StreamOptions) error)) {
	for wayName, way := range ways {
		for protocol, newExecutor := range protocols {
			t.Run(wayName+" by "+protocol, func(t *testing.T) {
				test(t, func(subresource string, query url.Values, options remotecommand.StreamOptions) error {
					config, u := way(t, subresource, query)
					executor, err := newExecutor(config, http.MethodPost, u)
					if err != nil {
						t.Fatal(err)
					}
					ctx, cancel := context.WithTimeout(t.Context(), patience)
					defer cancel()
					return executor.StreamWithContext(ctx, options)
				})
			})
		}
	}
}

func TestExecCarriesInputToItsEnd(t *testing.T) {
	eachWay(t, func(t *testing.T, stream func(string, url.Values, remotecommand.StreamOptions) error) {
		input := bytes.Repeat([]byte("all of it, in order\n"), 10000)
		var output bytes.Buffer
		err := stream("exec", url.Values{"command": {"cat"}, "input": {"1"}, "output": {"1"}}, remotecommand.StreamOptions{Stdin: bytes.NewReader(input), Stdout: &output})
		if err != nil || !bytes.Equal(input, output.Bytes()) {
			t.Errorf("%d of %d bytes came back: %v", output.Len(), len(input), err)
		}
	})
}

func TestExecKeepsArgumentsAndExitCode(t *testing.T) {
	eachWay(t, func(t *testing.T, stream func(string, url.Values, remotecommand.StreamOptions) error) {
		var output, stderr bytes.Buffer
		err := stream("exec", url.Values{"command": {"args", "a b", "", "&x=y", "ü%2F"}, "output": {"1"}}, remotecommand.StreamOptions{Stdout: &output})
		want := fmt.Sprintf("%q in %s/front/app", []string{"a b", "", "&x=y", "ü%2F"}, env.a.SuperNamespace("web"))
		if err != nil || output.String() != want {
			t.Errorf("%q, not %q: %v", output.String(), want, err)
		}
		err = stream("exec", url.Values{"command": {"fail"}, "output": {"1"}, "error": {"1"}}, remotecommand.StreamOptions{Stdout: io.Discard, Stderr: &stderr})
		var exit utilexec.CodeExitError
		if !errors.As(err, &exit) || exit.Code != 3 || stderr.String() != "it failed" {
			t.Errorf("%v with %q on stderr", err, stderr.String())
		}
	})
}

type onceSize struct {
	sizes chan remotecommand.TerminalSize
}

func (o onceSize) Next() *remotecommand.TerminalSize {
	size, more := <-o.sizes
	if !more {
		return nil
	}
	return &size
}

func TestATerminalsSizeArrives(t *testing.T) {
	eachWay(t, func(t *testing.T, stream func(string, url.Values, remotecommand.StreamOptions) error) {
		sizes := onceSize{make(chan remotecommand.TerminalSize, 1)}
		sizes.sizes <- remotecommand.TerminalSize{Width: 123, Height: 45}
		defer close(sizes.sizes)
		var output bytes.Buffer
		err := stream("exec", url.Values{"command": {"size"}, "input": {"1"}, "output": {"1"}, "tty": {"1"}},
			remotecommand.StreamOptions{Stdin: strings.NewReader(""), Stdout: &output, Tty: true, TerminalSizeQueue: sizes})
		if err != nil || output.String() != "123x45" {
			t.Errorf("%q, %v", output.String(), err)
		}
	})
}

func TestAttach(t *testing.T) {
	eachWay(t, func(t *testing.T, stream func(string, url.Values, remotecommand.StreamOptions) error) {
		var output bytes.Buffer
		err := stream("attach", url.Values{"input": {"1"}, "output": {"1"}}, remotecommand.StreamOptions{Stdin: strings.NewReader("hello\n"), Stdout: &output})
		if want := env.a.SuperNamespace("web") + "/front/app said hello\n"; err != nil || output.String() != want {
			t.Errorf("%q, %v", output.String(), err)
		}
	})
}

func TestPortForward(t *testing.T) {
	dialers := map[string]func(config *rest.Config, u *url.URL) (httpstream.Dialer, error){
		"SPDY": func(config *rest.Config, u *url.URL) (httpstream.Dialer, error) {
			transport, upgrader, err := spdy.RoundTripperFor(config)
			if err != nil {
				return nil, err
			}
			return spdy.NewDialerForStreaming(upgrader, &http.Client{Transport: transport}, http.MethodPost, u), nil
		},
		"WebSocket": func(config *rest.Config, u *url.URL) (httpstream.Dialer, error) {
			return portforward.NewSPDYOverWebsocketDialerForStreaming(u, config)
		},
	}
	for wayName, way := range ways {
		for protocol, newDialer := range dialers {
			t.Run(wayName+" by "+protocol, func(t *testing.T) {
				config, u := way(t, "portforward", nil)
				dialer, err := newDialer(config, u)
				if err != nil {
					t.Fatal(err)
				}
				stop, ready := make(chan struct{}), make(chan struct{})
				defer close(stop)
				forwarder, err := portforward.NewOnAddressesForStreaming(dialer, []string{"127.0.0.1"}, []string{"0:8080"}, stop, ready, io.Discard, io.Discard)
				if err != nil {
					t.Fatal(err)
				}
				failed := make(chan error, 1)
				go func() { failed <- forwarder.ForwardPorts() }()
				select {
				case <-ready:
				case err := <-failed:
					t.Fatal(err)
				}
				forwarded, err := forwarder.GetPorts()
				if err != nil {
					t.Fatal(err)
				}
				for range 2 {
					conn, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", forwarded[0].Local))
					if err != nil {
						t.Fatal(err)
					}
					if _, err := fmt.Fprintln(conn, "hello"); err != nil {
						t.Fatal(err)
					}
					line, err := bufio.NewReader(conn).ReadString('\n')
					_ = conn.Close()
					if want := "port 8080 of " + env.a.SuperNamespace("web") + "/front: hello\n"; err != nil || line != want {
						t.Errorf("%q, %v", line, err)
					}
				}
			})
		}
	}
}

func TestLogsThroughTheTenantsAPIServer(t *testing.T) {
	lines := int64(3)
	var data []byte
	asked := env.kubelet.record(func() {
		var err error
		data, err = clientset(t, env.a).CoreV1().Pods("web").GetLogs("front", &corev1.PodLogOptions{
			Container: "app", Previous: true, Timestamps: true, TailLines: &lines, SinceSeconds: &lines, LimitBytes: &lines,
		}).DoRaw(t.Context())
		if err != nil {
			t.Fatal(err)
		}
	})
	path := "/containerLogs/" + env.a.SuperNamespace("web") + "/front/app"
	if string(data) != "log of "+path+"\n" {
		t.Errorf("log %q", data)
	}
	want := []string{path, "limitBytes=3&previous=true&sinceSeconds=3&tailLines=3&timestamps=true"}
	if len(asked) != 1 {
		t.Fatalf("the kubelet was asked %d times", len(asked))
	}
	query := asked[0].query
	if stream := "&stream=All"; strings.Contains(query, stream) { // from v1.36 on the apiserver says so
		query = strings.Replace(query, stream, "", 1)
	}
	if diff := cmp.Diff(want, []string{asked[0].path, query}); diff != "" {
		t.Error(diff)
	}
}

// Each line must arrive when it is written, not when a buffer is full.
func TestAFollowedLogFlows(t *testing.T) {
	lines := env.kubelet.follow()
	stream, err := openLog(t, lines)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = stream.Close() }()
	reader := bufio.NewReader(stream)
	for _, want := range []string{"first\n", "second\n", "third\n"} {
		if want != "first\n" {
			lines <- want
		}
		if got, err := reader.ReadString('\n'); err != nil || got != want {
			t.Fatalf("%q, %v", got, err)
		}
	}
	close(lines)
	if rest, err := io.ReadAll(reader); err != nil || len(rest) != 0 {
		t.Errorf("%q, %v", rest, err)
	}
}

// openLog follows the log; the kubelet answers with the first line only.
func openLog(t *testing.T, lines chan<- string) (io.ReadCloser, error) {
	t.Helper()
	go func() { lines <- "first\n" }()
	return clientset(t, env.a).CoreV1().Pods("web").GetLogs("front", &corev1.PodLogOptions{Container: "app", Follow: true}).Stream(t.Context())
}

func clientset(t *testing.T, tenant *tenantCluster) *kubernetes.Clientset {
	t.Helper()
	clientset, err := kubernetes.NewForConfig(tenant.Config)
	if err != nil {
		t.Fatal(err)
	}
	return clientset
}
