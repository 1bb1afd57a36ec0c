// Package proxy passes gRPC calls from one unix socket to another as they are:
// messages, metadata, trailers, deadlines and statuses of whatever method, known or
// not. A hook sees a copy of what a method it is for carries, and can refuse it.
//
// A call takes no lock that another call can hold while it waits for anything.
package proxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// MaxMessage is the longest message that passes, in bytes. kubelet and containerd
// refuse what exceeds 16 MiB by themselves, and the limit should be theirs.
const MaxMessage = 64 << 20

// window is how much of one call may be on the way, in bytes; a list of all
// containers of a node fits in.
const window = 1 << 20

// drainTimeout is how long calls may take to end once the proxy is told to.
const drainTimeout = 20 * time.Second

// ErrDraining is the cause of contexts that end because the proxy does.
var ErrDraining = errors.New("cri-ext is restarting")

// Hook takes part in one method, which must be unary. Either may be nil.
type Hook struct {
	// Before is called before the request is passed on; its error is the answer. The
	// context also ends when the proxy is told to end.
	Before func(ctx context.Context, request []byte) error
	// After is called before a good answer is passed back; its error replaces the
	// answer.
	After func(ctx context.Context, request, response []byte) error
}

// Methods are known methods by their full names.
type Methods struct {
	// Unary are those with one request and one response, for which there is a shorter
	// way than for a method of which nothing is known.
	Unary map[string]bool
	// Endless are streams that end when a caller has enough, and that are cut off when
	// the proxy ends.
	Endless map[string]bool
	Hooks   map[string]Hook
	// Observe is told of each call that ended. refused tells that a hook answered it.
	Observe func(method string, code codes.Code, refused bool, took time.Duration)
}

// Proxy passes calls to one upstream.
type Proxy struct {
	upstream *grpc.ClientConn
	methods  Methods
	// draining is closed when the proxy is told to end.
	draining chan struct{}
	server   *grpc.Server
}

// Dial makes a connection to the gRPC server at a socket; it connects when it is
// used, and again whenever that is needed.
func Dial(socket string) (*grpc.ClientConn, error) {
	conn, err := grpc.NewClient("unix://"+socket,
		grpc.WithTransportCredentials(insecure.NewCredentials()), // a socket that root alone can reach
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 3 * time.Second},
			MinConnectTimeout: 10 * time.Second,
		}),
		grpc.WithInitialWindowSize(window), grpc.WithInitialConnWindowSize(4*window),
		grpc.WithIdleTimeout(0),
		grpc.WithDisableServiceConfig(),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(MaxMessage), grpc.MaxCallSendMsgSize(MaxMessage)),
	)
	if err != nil {
		return nil, fmt.Errorf("making a client of the runtime at %s: %w", socket, err)
	}
	return conn, nil
}

// New makes a proxy.
func New(upstream *grpc.ClientConn, methods Methods) *Proxy {
	p := &Proxy{upstream: upstream, methods: methods, draining: make(chan struct{})}
	if p.methods.Observe == nil {
		p.methods.Observe = func(string, codes.Code, bool, time.Duration) {}
	}
	p.server = grpc.NewServer(
		grpc.ForceServerCodecV2(raw{}),
		grpc.UnknownServiceHandler(p.handle),
		grpc.MaxRecvMsgSize(MaxMessage), grpc.MaxSendMsgSize(MaxMessage),
		grpc.InitialWindowSize(window), grpc.InitialConnWindowSize(4*window),
	)
	return p
}

// Serve serves until ctx ends. Then it takes no more calls, cuts endless streams and
// waiting hooks off, and lets other calls end.
func (p *Proxy) Serve(ctx context.Context, listener net.Listener) error {
	served := make(chan error, 1)
	go func() { served <- p.server.Serve(listener) }()
	select {
	case err := <-served:
		return fmt.Errorf("serving on %s: %w", listener.Addr(), err)
	case <-ctx.Done():
	}
	close(p.draining)
	forced := time.AfterFunc(drainTimeout, p.server.Stop)
	defer forced.Stop()
	p.server.GracefulStop()
	if err := <-served; err != nil && !errors.Is(err, grpc.ErrServerStopped) {
		return fmt.Errorf("serving on %s: %w", listener.Addr(), err)
	}
	return nil
}

func (p *Proxy) handle(_ any, down grpc.ServerStream) error {
	began := time.Now()
	method, ok := grpc.MethodFromServerStream(down)
	if !ok {
		return status.Error(codes.Internal, "a call without a method")
	}
	var err error
	var refused bool
	if hook, hooked := p.methods.Hooks[method]; hooked || p.methods.Unary[method] {
		refused, err = p.unary(down, method, hook)
	} else {
		err = p.stream(down, method)
	}
	p.methods.Observe(method, status.Code(err), refused, time.Since(began))
	return err
}

// unary passes one request and its response. It returns whether a hook made the error.
func (p *Proxy) unary(down grpc.ServerStream, method string, hook Hook) (refused bool, err error) {
	ctx := outgoing(down.Context())
	in, out := &message{}, &message{}
	if err := down.RecvMsg(in); err != nil {
		if errors.Is(err, io.EOF) {
			return false, status.Error(codes.Internal, "a call without a request")
		}
		return false, err
	}
	defer in.free()
	var request []byte
	if hook.Before != nil || hook.After != nil {
		request = in.bytes()
	}
	if hook.Before != nil {
		if err := p.before(ctx, hook, request); err != nil {
			return true, err
		}
	}
	var header, trailer metadata.MD
	err = p.upstream.Invoke(ctx, method, in, out, grpc.ForceCodecV2(raw{}), grpc.Header(&header), grpc.Trailer(&trailer))
	defer out.free()
	down.SetTrailer(trailer)
	if len(header) > 0 {
		if err := down.SetHeader(header); err != nil {
			return false, err
		}
	}
	if err != nil {
		return false, err
	}
	if hook.After != nil {
		if err := hook.After(ctx, request, out.bytes()); err != nil {
			return true, err
		}
	}
	return false, down.SendMsg(out)
}

func (p *Proxy) before(ctx context.Context, hook Hook, request []byte) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go p.cutOff(ctx, cancel)
	return hook.Before(ctx, request)
}

// cutOff ends ctx when the proxy is told to end.
func (p *Proxy) cutOff(ctx context.Context, cancel context.CancelCauseFunc) {
	select {
	case <-p.draining:
		cancel(ErrDraining)
	case <-ctx.Done():
	}
}

// anything is a call of which nothing is known: either end may say as much as it wants.
var anything = &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}

// stream passes messages in both directions.
func (p *Proxy) stream(down grpc.ServerStream, method string) error {
	ctx, cancel := context.WithCancelCause(outgoing(down.Context()))
	defer cancel(nil)
	if p.methods.Endless[method] {
		go p.cutOff(ctx, cancel)
	}
	up, err := p.upstream.NewStream(ctx, anything, method, grpc.ForceCodecV2(raw{}))
	if err != nil {
		return err
	}
	// Ends with the call: receiving fails once the handler has returned.
	go func() {
		if err := passUp(down, up); err != nil {
			cancel(err)
		}
	}()
	err = passDown(up, down)
	down.SetTrailer(up.Trailer())
	if err != nil && errors.Is(context.Cause(ctx), ErrDraining) {
		return status.Error(codes.Unavailable, ErrDraining.Error())
	}
	return err
}

// passUp passes requests on until the caller has said all.
func passUp(down grpc.ServerStream, up grpc.ClientStream) error {
	for {
		m := &message{}
		err := down.RecvMsg(m)
		if errors.Is(err, io.EOF) {
			return up.CloseSend()
		}
		if err != nil {
			return err
		}
		if err := up.SendMsg(m); err != nil {
			m.free()
			if errors.Is(err, io.EOF) { // the call has ended; its status says why
				return nil
			}
			return err
		}
	}
}

// passDown passes responses back, and returns the call's status.
func passDown(up grpc.ClientStream, down grpc.ServerStream) error {
	// The header may come long before the first message.
	header, err := up.Header()
	if err == nil && len(header) > 0 {
		if err := down.SendHeader(header); err != nil {
			return err
		}
	}
	for {
		m := &message{}
		err := up.RecvMsg(m)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := down.SendMsg(m); err != nil {
			m.free()
			return err
		}
	}
}

// ours are metadata of the connection and not of the call.
var ours = []string{":authority", "content-type", "user-agent", "grpc-accept-encoding"}

// outgoing carries a caller's metadata on; its deadline is in ctx already.
func outgoing(ctx context.Context) context.Context {
	incoming, ok := metadata.FromIncomingContext(ctx) // a copy
	if !ok {
		return ctx
	}
	for _, key := range ours {
		delete(incoming, key)
	}
	if len(incoming) == 0 {
		return ctx
	}
	return metadata.NewOutgoingContext(ctx, incoming)
}
