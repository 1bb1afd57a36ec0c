package tracing

import (
	"context"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/go-logr/logr"
	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	"google.golang.org/grpc"
)

// receiver is a collector.
type receiver struct {
	collector.UnimplementedTraceServiceServer
	got chan *collector.ExportTraceServiceRequest
}

func (r *receiver) Export(_ context.Context, request *collector.ExportTraceServiceRequest) (*collector.ExportTraceServiceResponse, error) {
	r.got <- request
	return &collector.ExportTraceServiceResponse{}, nil
}

// listen starts a collector and returns its address.
func listen(t *testing.T) (*receiver, string) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r := &receiver{got: make(chan *collector.ExportTraceServiceRequest, 10)}
	server := grpc.NewServer()
	collector.RegisterTraceServiceServer(server, r)
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(server.Stop)
	return r, listener.Addr().String()
}

func TestSpansArrive(t *testing.T) {
	r, address := listen(t)
	tracer, stop, err := Start(t.Context(), Options{Endpoint: "http://" + address, Ratio: 1, Log: logr.Discard()})
	if err != nil {
		t.Fatal(err)
	}
	_, span := tracer.Start(t.Context(), "down pods")
	span.End()
	stop()
	select {
	case request := <-r.got:
		resource := request.GetResourceSpans()[0]
		if name := resource.GetScopeSpans()[0].GetSpans()[0].GetName(); name != "down pods" {
			t.Errorf("a span %q has arrived", name)
		}
		if !strings.Contains(resource.GetResource().String(), "bulkhead-syncer") {
			t.Errorf("it is of %v", resource.GetResource())
		}
	case <-time.After(time.Minute):
		t.Fatal("no span has arrived")
	}
}

// A collector that is not there, or has another certificate than is trusted, holds up nobody.
func TestCollectorThatIsNotThere(t *testing.T) {
	r, address := listen(t)
	for _, endpoint := range []string{"http://127.0.0.1:1", "https://" + address} {
		ctx, cancel := context.WithCancel(t.Context())
		tracer, stop, err := Start(ctx, Options{Endpoint: endpoint, Ratio: 1, Log: logr.Discard()})
		if err != nil {
			t.Fatal(err)
		}
		cancel()
		for range 5000 {
			_, span := tracer.Start(ctx, "down pods")
			span.End()
		}
		stop()
	}
	if len(r.got) > 0 {
		t.Error("spans were sent without TLS")
	}
}

func TestRatio(t *testing.T) {
	_, address := listen(t)
	tracer, stop, err := Start(t.Context(), Options{Endpoint: "http://" + address, Log: logr.Discard()})
	if err != nil {
		t.Fatal(err)
	}
	defer stop()
	if _, span := tracer.Start(t.Context(), "down pods"); span.IsRecording() {
		t.Error("a ratio of 0 traces")
	}
}

func TestCheckEndpoint(t *testing.T) {
	for endpoint, good := range map[string]bool{
		"https://collector.example:4317": true, "http://127.0.0.1:4317": true, "https://[2001:db8::1]:4317/": true,
		"": false, "collector:4317": false, "https://collector": false, "grpc://collector:4317": false, "https://user:pw@collector:4317": false,
		"https://collector:4317/v1/traces": false, "https://:4317": false, "https://a b:1": false,
	} {
		if err := CheckEndpoint(endpoint); (err == nil) != good {
			t.Errorf("%q: %v", endpoint, err)
		}
	}
}

func FuzzCheckEndpoint(f *testing.F) {
	f.Add("https://collector.example:4317")
	f.Add("http://[::1]:4317/")
	f.Fuzz(func(t *testing.T, endpoint string) {
		if CheckEndpoint(endpoint) != nil {
			return
		}
		if _, stop, err := Start(t.Context(), Options{Endpoint: endpoint, Log: logr.Discard()}); err != nil {
			t.Errorf("%q passes the check: %v", endpoint, err)
		} else {
			stop()
		}
	})
}
