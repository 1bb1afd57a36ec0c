// Package tracing sends spans of what the syncer does to a collector of OpenTelemetry.
//
// It uses OpenTelemetry's own libraries, and not k8s.io/component-base/tracing, which is
// made of them: that one always connects without TLS, and names of tenants' objects are
// in these spans.
package tracing

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"time"

	"github.com/go-logr/logr"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
)

// flushTimeout bounds how long the last spans are waited for.
const flushTimeout = time.Second

// Options of tracing.
type Options struct {
	// Endpoint is the collector's address of OTLP over gRPC, as CheckEndpoint has it.
	Endpoint string
	// Ratio of handlings that are traced: 1 is all of them.
	Ratio float64
	Log   logr.Logger
}

// CheckEndpoint returns an error unless an endpoint is https://HOST:PORT, or http://HOST:PORT
// for one without TLS.
func CheckEndpoint(endpoint string) error {
	parsed, err := url.Parse(endpoint)
	if err != nil {
		return fmt.Errorf("%q is no URL: %w", endpoint, err)
	}
	if (parsed.Scheme != "https" && parsed.Scheme != "http") || parsed.Port() == "" || parsed.Hostname() == "" || parsed.User != nil || (parsed.Path != "" && parsed.Path != "/") {
		return fmt.Errorf("%q is not https://HOST:PORT, or http://HOST:PORT for a collector without TLS", endpoint)
	}
	return nil
}

// Start connects to a collector, without waiting for it. stop sends what is left. What cannot be
// sent in time is dropped: nothing waits for a collector. Certificates and
// headers are those of the environment's OTEL_EXPORTER_OTLP_* variables.
func Start(ctx context.Context, options Options) (tracer trace.Tracer, stop func(), err error) {
	if err := CheckEndpoint(options.Endpoint); err != nil {
		return nil, nil, err
	}
	exporter, err := otlptracegrpc.New(ctx, otlptracegrpc.WithEndpointURL(options.Endpoint))
	if err != nil {
		return nil, nil, fmt.Errorf("preparing the export of traces to %s: %w", options.Endpoint, err)
	}
	otel.SetErrorHandler(otel.ErrorHandlerFunc(func(err error) { options.Log.V(1).Info("traces are lost", "reason", err.Error()) }))
	host, err := os.Hostname()
	if err != nil {
		return nil, nil, fmt.Errorf("naming this replica: %w", err)
	}
	provider := sdktrace.NewTracerProvider(
		sdktrace.WithBatcher(exporter),
		sdktrace.WithSampler(sdktrace.TraceIDRatioBased(options.Ratio)),
		sdktrace.WithResource(resource.NewSchemaless(attribute.String("service.name", "bulkhead-syncer"), attribute.String("service.instance.id", host))),
	)
	return provider.Tracer("github.com/bulkhead-dev/bulkhead/syncer"), func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), flushTimeout)
		defer cancel()
		if err := provider.Shutdown(ctx); err != nil {
			options.Log.V(1).Info("the last traces are lost", "reason", err.Error())
		}
	}, nil
}
