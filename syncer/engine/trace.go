package engine

import (
	"context"
	"net/http"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"
)

// startSpan begins the span of a handling. Without a tracer it costs nothing.
func (l *Link) startSpan(ctx context.Context, kind Kind, key Key) (context.Context, trace.Span) {
	if l.engine.tracer == nil {
		return ctx, nil
	}
	direction := "down"
	if kind.upward() {
		direction = "up"
	}
	ctx, span := l.engine.tracer.Start(ctx, direction+" "+key.Resource, trace.WithSpanKind(trace.SpanKindConsumer))
	if span.IsRecording() {
		place, _ := l.queueOf(kind).Look(l, key)
		span.SetAttributes(
			attribute.String("bulkhead.tenant", l.Tenant().String()), attribute.String("bulkhead.direction", direction),
			attribute.String("bulkhead.kind", key.Resource), attribute.String("bulkhead.key", key.String()),
			attribute.Float64("bulkhead.queue_wait_seconds", place.Waited.Seconds()), attribute.Int("bulkhead.failures", place.Failures),
		)
	}
	return ctx, span
}

func endSpan(span trace.Span, result string, again time.Duration, err error) {
	if span == nil {
		return
	}
	if span.IsRecording() {
		span.SetAttributes(attribute.String("bulkhead.result", result))
		if again > 0 {
			span.SetAttributes(attribute.Float64("bulkhead.again_seconds", again.Seconds()))
		}
		if err != nil {
			span.SetStatus(codes.Error, err.Error())
		}
	}
	span.End()
}

// traceCall makes a call in a span of its own, if it belongs to a handling that is
// traced. The apiserver is not told: tenants' apiservers are not to know of each other.
func traceCall(side string, request *http.Request, call func(*http.Request) (*http.Response, error)) (*http.Response, error) {
	parent := trace.SpanFromContext(request.Context())
	if !parent.IsRecording() {
		return call(request)
	}
	ctx, span := parent.TracerProvider().Tracer("github.com/bulkhead-dev/bulkhead/syncer").Start(request.Context(), request.Method+" "+side, trace.WithSpanKind(trace.SpanKindClient))
	defer span.End()
	span.SetAttributes(attribute.String("bulkhead.side", side), attribute.String("http.request.method", request.Method), attribute.String("url.path", request.URL.Path))
	response, err := call(request.WithContext(ctx))
	if err != nil {
		span.SetStatus(codes.Error, err.Error())
		return nil, err
	}
	span.SetAttributes(attribute.Int("http.response.status_code", response.StatusCode))
	return response, nil
}
