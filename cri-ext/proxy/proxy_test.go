package proxy_test

import (
	"context"
	"errors"
	"io"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/bulkhead-dev/bulkhead/cri-ext/cri"
	"github.com/bulkhead-dev/bulkhead/cri-ext/proxy"
)

// Metadata, headers, trailers and deadlines pass, in both directions, and so do fields
// that this program does not know.
func TestUnaryPassesWhole(t *testing.T) {
	var got metadata.MD
	var remaining time.Duration
	s := newStand(t, &runtime{version: func(ctx context.Context) error {
		got, _ = metadata.FromIncomingContext(ctx)
		if deadline, has := ctx.Deadline(); has {
			remaining = time.Until(deadline)
		}
		return errors.Join(grpc.SetHeader(ctx, metadata.Pairs("h", "1")), grpc.SetTrailer(ctx, metadata.Pairs("t-bin", "\x00")))
	}}, proxy.Methods{})
	ctx, cancel := context.WithTimeout(metadata.AppendToOutgoingContext(t.Context(), "traceparent", "00-x", "list", "a", "list", "b"), 33*time.Second)
	defer cancel()
	in := &runtimeapi.VersionRequest{Version: "asked"}
	in.ProtoReflect().SetUnknown(protowire.AppendString(protowire.AppendTag(nil, 999, protowire.BytesType), "new"))
	var header, trailer metadata.MD
	out, err := runtimeapi.NewRuntimeServiceClient(s.conn).Version(ctx, in, grpc.Header(&header), grpc.Trailer(&trailer))
	if err != nil || out.GetRuntimeVersion() != "asked" {
		t.Fatalf("answer %v, %v", out, err)
	}
	if got.Get("traceparent")[0] != "00-x" || cmp.Diff([]string{"a", "b"}, got.Get("list")) != "" {
		t.Errorf("metadata that arrived: %v", got)
	}
	if header.Get("h")[0] != "1" || trailer.Get("t-bin")[0] != "\x00" {
		t.Errorf("header %v, trailer %v", header, trailer)
	}
	if remaining <= 0 || remaining > 33*time.Second {
		t.Errorf("the deadline arrived as %s", remaining)
	}
}

func TestStatusPassesWhole(t *testing.T) {
	want, err := status.New(codes.FailedPrecondition, "not now: ünï").WithDetails(&errdetails.ErrorInfo{Reason: "R"})
	if err != nil {
		t.Fatal(err)
	}
	s := newStand(t, &runtime{version: func(context.Context) error { return want.Err() }}, proxy.Methods{})
	_, err = runtimeapi.NewRuntimeServiceClient(s.conn).Version(within(t), &runtimeapi.VersionRequest{})
	if got := status.Convert(err); !proto.Equal(got.Proto(), want.Proto()) {
		t.Errorf("status %v, want %v", got.Proto(), want.Proto())
	}
	// A method that the runtime does not have.
	_, err = runtimeapi.NewRuntimeServiceClient(s.conn).ExecSync(within(t), &runtimeapi.ExecSyncRequest{})
	if status.Code(err) != codes.Unimplemented {
		t.Errorf("a method that upstream lacks: %v", err)
	}
	if err := s.conn.Invoke(within(t), "/runtime.v1.RuntimeService/NotYetInvented", &runtimeapi.VersionRequest{}, &runtimeapi.VersionResponse{}); status.Code(err) != codes.Unimplemented {
		t.Errorf("a method that nobody knows: %v", err)
	}
}

func TestImageServicePasses(t *testing.T) {
	s := newStand(t, &runtime{}, proxy.Methods{})
	out, err := runtimeapi.NewImageServiceClient(s.conn).ImageFsInfo(within(t), &runtimeapi.ImageFsInfoRequest{})
	if err != nil || out.GetImageFilesystems()[0].GetTimestamp() != 7 {
		t.Errorf("answer %v, %v", out, err)
	}
}

// A service and a method that this program has never heard of, streaming both ways.
func TestUnknownStreamPasses(t *testing.T) {
	s := newStand(t, &runtime{}, proxy.Methods{})
	ctx := metadata.AppendToOutgoingContext(within(t), "who", "me")
	stream, err := s.conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, "/runtime.v9.FutureService/Echo")
	if err != nil {
		t.Fatal(err)
	}
	// The header comes before anything is said.
	if header, err := stream.Header(); err != nil || header.Get("greeting")[0] != "me" {
		t.Fatalf("header %v, %v", header, err)
	}
	out := &runtimeapi.VersionRequest{}
	for _, word := range []string{"one", "two", strings.Repeat("long", 1<<20)} {
		if err := stream.SendMsg(&runtimeapi.VersionRequest{Version: word}); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			if err := stream.RecvMsg(out); err != nil || out.GetVersion() != word {
				t.Fatalf("echo of %d bytes, %v", len(out.GetVersion()), err)
			}
		}
	}
	if err := stream.CloseSend(); err != nil {
		t.Fatal(err)
	}
	if err := stream.RecvMsg(out); status.Code(err) != codes.DataLoss {
		t.Errorf("the stream ends with %v", err)
	}
	if got := stream.Trailer().Get("farewell-bin"); len(got) != 1 || got[0] != "\x00\xff" {
		t.Errorf("trailer %q", got)
	}
}

// 16 MiB, what kubelet takes and containerd sends.
func TestLargeMessagesPass(t *testing.T) {
	big := strings.Repeat("x", 15<<20)
	s := newStand(t, &runtime{list: func(_ context.Context, in *runtimeapi.ListPodSandboxRequest) (*runtimeapi.ListPodSandboxResponse, error) {
		return &runtimeapi.ListPodSandboxResponse{Items: []*runtimeapi.PodSandbox{{Id: in.GetFilter().GetId()}}}, nil
	}}, proxy.Methods{})
	out, err := runtimeapi.NewRuntimeServiceClient(s.conn).ListPodSandbox(within(t), &runtimeapi.ListPodSandboxRequest{Filter: &runtimeapi.PodSandboxFilter{Id: big}})
	if err != nil || out.GetItems()[0].GetId() != big {
		t.Fatalf("%d items, %v", len(out.GetItems()), err)
	}
}

// A caller that gives up is not waited for by the runtime.
func TestCancellationPasses(t *testing.T) {
	canceled := make(chan struct{})
	begun := make(chan struct{})
	s := newStand(t, &runtime{version: func(ctx context.Context) error {
		close(begun)
		<-ctx.Done()
		close(canceled)
		return ctx.Err()
	}}, proxy.Methods{})
	ctx, cancel := context.WithCancel(within(t))
	go func() { <-begun; cancel() }()
	if _, err := runtimeapi.NewRuntimeServiceClient(s.conn).Version(ctx, &runtimeapi.VersionRequest{}); status.Code(err) != codes.Canceled {
		t.Errorf("error %v", err)
	}
	<-canceled
}

// The runtime goes and comes back at the same socket.
func TestUpstreamRestarts(t *testing.T) {
	s := newStand(t, &runtime{}, proxy.Methods{})
	client := runtimeapi.NewRuntimeServiceClient(s.conn)
	if _, err := client.Version(within(t), &runtimeapi.VersionRequest{}); err != nil {
		t.Fatal(err)
	}
	s.stopUpstream()
	if _, err := client.Version(within(t), &runtimeapi.VersionRequest{}); status.Code(err) != codes.Unavailable {
		t.Fatalf("a runtime that is away: %v", err)
	}
	serveRuntime(t, s.upstream, &runtime{})
	ctx := within(t)
	for {
		_, err := client.Version(ctx, &runtimeapi.VersionRequest{})
		if err == nil {
			return
		}
		if ctx.Err() != nil {
			t.Fatalf("a runtime that is back: %v", err)
		}
	}
}

func TestHooks(t *testing.T) {
	r := &runtime{started: make(chan string, 1)}
	var after atomic.Int32
	s := newStand(t, r, proxy.Methods{Hooks: map[string]proxy.Hook{
		cri.StartContainer: {Before: func(_ context.Context, request []byte) error {
			id, err := cri.DecodeStartContainer(request)
			if id == "bad" {
				err = status.Error(codes.Unavailable, "it waits")
			}
			return err
		}, After: func(_ context.Context, request, response []byte) error {
			if id, _ := cri.DecodeStartContainer(request); id == "late" {
				return status.Error(codes.Aborted, "too late")
			}
			after.Add(1)
			return nil
		}},
	}})
	client := runtimeapi.NewRuntimeServiceClient(s.conn)
	start := func(id string) error {
		_, err := client.StartContainer(within(t), &runtimeapi.StartContainerRequest{ContainerId: id})
		return err
	}
	if err := start("good"); err != nil || <-r.started != "good" || after.Load() != 1 {
		t.Errorf("a call that hooks let pass: %v", err)
	}
	if err := start("bad"); status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "it waits") {
		t.Errorf("a call that a hook refuses: %v", err)
	}
	select {
	case id := <-r.started:
		t.Errorf("a refused call arrived: %s", id)
	default:
	}
	if err := start("late"); status.Code(err) != codes.Aborted {
		t.Errorf("a call whose answer a hook refuses: %v", err)
	}
}

// One call that waits keeps no other waiting.
func TestHooksWaitAlone(t *testing.T) {
	release := make(chan struct{})
	r := &runtime{started: make(chan string, 200)}
	s := newStand(t, r, proxy.Methods{Hooks: map[string]proxy.Hook{
		cri.StartContainer: {Before: func(_ context.Context, request []byte) error {
			if id, _ := cri.DecodeStartContainer(request); id == "slow" {
				<-release
			}
			return nil
		}},
	}})
	client := runtimeapi.NewRuntimeServiceClient(s.conn)
	var slow sync.WaitGroup
	for range 50 {
		slow.Go(func() {
			if _, err := client.StartContainer(within(t), &runtimeapi.StartContainerRequest{ContainerId: "slow"}); err != nil {
				t.Error(err)
			}
		})
	}
	for range 50 {
		if _, err := client.StartContainer(within(t), &runtimeapi.StartContainerRequest{ContainerId: "fast"}); err != nil {
			t.Fatal(err)
		}
		if id := <-r.started; id != "fast" {
			t.Fatalf("%s came first", id)
		}
	}
	close(release)
	slow.Wait()
}

// Told to end, the proxy lets calls end, and cuts off what would wait for ever.
func TestDrain(t *testing.T) {
	proceed, begun := make(chan struct{}), make(chan struct{})
	r := &runtime{
		version: func(context.Context) error { close(begun); <-proceed; return nil },
		events: func(stream runtimeapi.RuntimeService_GetContainerEventsServer) error {
			if err := stream.Send(&runtimeapi.ContainerEventResponse{ContainerId: "c"}); err != nil {
				return err
			}
			<-stream.Context().Done()
			return stream.Context().Err()
		},
	}
	waiting := make(chan struct{})
	s := newStand(t, r, proxy.Methods{Unary: cri.Unary(), Endless: cri.Streams(), Hooks: map[string]proxy.Hook{
		cri.StartContainer: {Before: func(ctx context.Context, _ []byte) error {
			close(waiting)
			<-ctx.Done()
			return status.FromContextError(ctx.Err()).Err()
		}},
	}})
	client := runtimeapi.NewRuntimeServiceClient(s.conn)
	events, err := client.GetContainerEvents(within(t), &runtimeapi.GetEventsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if event, err := events.Recv(); err != nil || event.GetContainerId() != "c" {
		t.Fatalf("event %v, %v", event, err)
	}
	var calls sync.WaitGroup
	calls.Go(func() {
		if _, err := client.Version(within(t), &runtimeapi.VersionRequest{}); err != nil {
			t.Errorf("a call that had begun: %v", err)
		}
	})
	calls.Go(func() {
		if _, err := client.StartContainer(within(t), &runtimeapi.StartContainerRequest{}); err == nil {
			t.Error("a waiting hook let its call pass")
		}
	})
	<-begun
	<-waiting
	s.end()
	if _, err := events.Recv(); status.Code(err) != codes.Unavailable || errors.Is(err, io.EOF) {
		t.Errorf("an endless stream ends with %v", err)
	}
	close(proceed)
	calls.Wait()
	<-s.ended
}
