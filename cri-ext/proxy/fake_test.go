package proxy_test

import (
	"context"
	"errors"
	"io"
	"net"
	"path/filepath"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/bulkhead-dev/bulkhead/cri-ext/cri"
	"github.com/bulkhead-dev/bulkhead/cri-ext/proxy"
)

// runtime is a container runtime that can be made to fail.
type runtime struct {
	runtimeapi.UnimplementedRuntimeServiceServer
	runtimeapi.UnimplementedImageServiceServer
	list    func(context.Context, *runtimeapi.ListPodSandboxRequest) (*runtimeapi.ListPodSandboxResponse, error)
	version func(context.Context) error
	events  func(runtimeapi.RuntimeService_GetContainerEventsServer) error
	started chan string
}

func (r *runtime) Version(ctx context.Context, in *runtimeapi.VersionRequest) (*runtimeapi.VersionResponse, error) {
	if r.version != nil {
		if err := r.version(ctx); err != nil {
			return nil, err
		}
	}
	return &runtimeapi.VersionResponse{Version: "0.1.0", RuntimeName: "fake", RuntimeVersion: in.GetVersion(), RuntimeApiVersion: "v1"}, nil
}

func (r *runtime) ListPodSandbox(ctx context.Context, in *runtimeapi.ListPodSandboxRequest) (*runtimeapi.ListPodSandboxResponse, error) {
	return r.list(ctx, in)
}

func (r *runtime) StartContainer(_ context.Context, in *runtimeapi.StartContainerRequest) (*runtimeapi.StartContainerResponse, error) {
	r.started <- in.GetContainerId()
	return &runtimeapi.StartContainerResponse{}, nil
}

func (r *runtime) GetContainerEvents(_ *runtimeapi.GetEventsRequest, stream runtimeapi.RuntimeService_GetContainerEventsServer) error {
	return r.events(stream)
}

func (r *runtime) ImageFsInfo(context.Context, *runtimeapi.ImageFsInfoRequest) (*runtimeapi.ImageFsInfoResponse, error) {
	return &runtimeapi.ImageFsInfoResponse{ImageFilesystems: []*runtimeapi.FilesystemUsage{{Timestamp: 7}}}, nil
}

// future is a service that this program was not built with: a bidirectional stream
// that says everything twice, and trailers.
var future = grpc.ServiceDesc{
	ServiceName: "runtime.v9.FutureService", HandlerType: (*any)(nil),
	Streams: []grpc.StreamDesc{{StreamName: "Echo", ServerStreams: true, ClientStreams: true, Handler: func(_ any, stream grpc.ServerStream) error {
		incoming, _ := metadata.FromIncomingContext(stream.Context())
		if err := stream.SendHeader(metadata.Pairs("greeting", incoming.Get("who")[0])); err != nil {
			return err
		}
		stream.SetTrailer(metadata.Pairs("farewell-bin", "\x00\xff"))
		for {
			in := &runtimeapi.VersionRequest{}
			if err := stream.RecvMsg(in); err != nil {
				if errors.Is(err, io.EOF) {
					return status.Error(codes.DataLoss, "that was all")
				}
				return err
			}
			for range 2 {
				if err := stream.SendMsg(in); err != nil {
					return err
				}
			}
		}
	}}},
}

func serveRuntime(t testing.TB, socket string, r *runtime) (stop func()) {
	t.Helper()
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer(grpc.MaxRecvMsgSize(16<<20), grpc.MaxSendMsgSize(16<<20))
	runtimeapi.RegisterRuntimeServiceServer(server, r)
	runtimeapi.RegisterImageServiceServer(server, r)
	server.RegisterService(&future, r)
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(server.Stop)
	return server.Stop
}

// stand is a runtime behind a proxy.
type stand struct {
	conn     *grpc.ClientConn
	upstream string
	// stopUpstream ends the runtime.
	stopUpstream func()
	// end tells the proxy to end; ended is closed when it has.
	end   func()
	ended chan struct{}
}

func newStand(t testing.TB, r *runtime, methods proxy.Methods) *stand {
	t.Helper()
	dir := t.TempDir()
	s := &stand{upstream: filepath.Join(dir, "up"), ended: make(chan struct{})}
	s.stopUpstream = serveRuntime(t, s.upstream, r)
	up, err := proxy.Dial(s.upstream)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { up.Close() })
	listener, err := net.Listen("unix", filepath.Join(dir, "down"))
	if err != nil {
		t.Fatal(err)
	}
	if methods.Unary == nil {
		methods.Unary, methods.Endless = cri.Unary(), cri.Streams()
	}
	var ctx context.Context
	ctx, s.end = context.WithCancel(context.Background())
	go func() {
		defer close(s.ended)
		if err := proxy.New(up, methods).Serve(ctx, listener); err != nil {
			t.Error(err)
		}
	}()
	t.Cleanup(func() { s.end(); <-s.ended })
	if s.conn, err = proxy.Dial(filepath.Join(dir, "down")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.conn.Close() })
	return s
}

func within(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	t.Cleanup(cancel)
	return ctx
}
