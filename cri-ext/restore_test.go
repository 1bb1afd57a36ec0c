package main

import (
	"context"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// restorer is a runtime of the future, which no runtime is yet: it has RestorePod.
type restorer struct {
	runtimeapi.UnimplementedRuntimeServiceServer
	stopped chan string
}

func (r *restorer) ListPodSandbox(context.Context, *runtimeapi.ListPodSandboxRequest) (*runtimeapi.ListPodSandboxResponse, error) {
	return &runtimeapi.ListPodSandboxResponse{}, nil
}

func (r *restorer) ListContainers(context.Context, *runtimeapi.ListContainersRequest) (*runtimeapi.ListContainersResponse, error) {
	return &runtimeapi.ListContainersResponse{}, nil
}

func (r *restorer) PodSandboxStatus(_ context.Context, in *runtimeapi.PodSandboxStatusRequest) (*runtimeapi.PodSandboxStatusResponse, error) {
	return &runtimeapi.PodSandboxStatusResponse{Status: &runtimeapi.PodSandboxStatus{
		Id: in.GetPodSandboxId(), State: runtimeapi.PodSandboxState_SANDBOX_READY,
		Metadata: &runtimeapi.PodSandboxMetadata{Name: "web", Namespace: in.GetPodSandboxId(), Uid: "u"},
	}}, nil
}

func (r *restorer) StopPodSandbox(_ context.Context, in *runtimeapi.StopPodSandboxRequest) (*runtimeapi.StopPodSandboxResponse, error) {
	r.stopped <- in.GetPodSandboxId()
	return &runtimeapi.StopPodSandboxResponse{}, nil
}

// restore answers with the sandbox ID that the request's path names; both messages have
// a string in field 1.
//
//nolint:revive // the order is gRPC's
func restore(_ any, _ context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
	in := &runtimeapi.StopPodSandboxRequest{}
	if err := decode(in); err != nil {
		return nil, err
	}
	return &runtimeapi.RunPodSandboxResponse{PodSandboxId: in.GetPodSandboxId()}, nil
}

// A restored pod whose rules are not there is stopped again, and the caller is told
// why; one that is no tenant's passes.
func TestRestorePod(t *testing.T) {
	dir := t.TempDir()
	listener, err := net.Listen("unix", filepath.Join(dir, "up"))
	if err != nil {
		t.Fatal(err)
	}
	desc := runtimeapi.RuntimeService_ServiceDesc
	desc.Methods = append(slices.Clone(desc.Methods), grpc.MethodDesc{MethodName: "RestorePod", Handler: restore})
	server, r := grpc.NewServer(), &restorer{stopped: make(chan string, 1)}
	server.RegisterService(&desc, r)
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(server.Stop)
	n := &node{t: t, options: options{
		listen: filepath.Join(dir, "k"), runtime: filepath.Join(dir, "up"), feed: filepath.Join(dir, "f"), admin: filepath.Join(dir, "a"),
		gate: gateStart, gateTimeout: 200 * time.Millisecond, repairInterval: time.Minute, agentPort: guestPort,
	}}
	n.start()
	call := func(id string, config *runtimeapi.PodSandboxConfig) error {
		in := &runtimeapi.StopPodSandboxRequest{PodSandboxId: id}
		if config != nil {
			encoded, err := proto.Marshal(config)
			if err != nil {
				t.Fatal(err)
			}
			in.ProtoReflect().SetUnknown(protowire.AppendBytes(protowire.AppendTag(nil, 2, protowire.BytesType), encoded))
		}
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		return dial(t, n.options.listen).Invoke(ctx, "/runtime.v1.RuntimeService/RestorePod", in, &runtimeapi.RunPodSandboxResponse{})
	}
	if err := call("kube-system", nil); err != nil {
		t.Errorf("a pod of the platform: %v", err)
	}
	// With its configuration in the request, and without.
	for id, config := range map[string]*runtimeapi.PodSandboxConfig{"vc-a-x": podConfig("vc-a-x", "web", "u"), "vc-b-x": nil} {
		err := call(id, config)
		if status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "tenant-proxy is not connected") {
			t.Errorf("a pod without rules: %v", err)
		}
		if got := <-r.stopped; got != id {
			t.Errorf("sandbox %s was stopped, want %s", got, id)
		}
	}
}
