// Package cri understands of the Container Runtime Interface what cri-ext must: which
// sandbox a call makes, starts containers in, or ends, and where the runtime has put it.
package cri

import (
	"errors"
	"fmt"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"k8s.io/apimachinery/pkg/types"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// The methods that cri-ext understands.
const (
	RunPodSandbox    = runtimeapi.RuntimeService_RunPodSandbox_FullMethodName
	CreateContainer  = runtimeapi.RuntimeService_CreateContainer_FullMethodName
	StartContainer   = runtimeapi.RuntimeService_StartContainer_FullMethodName
	StopPodSandbox   = runtimeapi.RuntimeService_StopPodSandbox_FullMethodName
	RemovePodSandbox = runtimeapi.RuntimeService_RemovePodSandbox_FullMethodName
	// RestorePod makes a sandbox and containers out of a checkpoint. It is newer than
	// the API that this is built with.
	RestorePod = "/runtime.v1.RuntimeService/RestorePod"
)

// Unary are all methods of the API that have one request and one response.
func Unary() map[string]bool {
	methods := map[string]bool{}
	for _, service := range services {
		for _, method := range service.Methods {
			methods["/"+service.ServiceName+"/"+method.MethodName] = true
		}
	}
	return methods
}

// Streams are all methods of the API that answer with a stream, and end only when
// the caller does or the list is complete.
func Streams() map[string]bool {
	methods := map[string]bool{}
	for _, service := range services {
		for _, stream := range service.Streams {
			methods["/"+service.ServiceName+"/"+stream.StreamName] = true
		}
	}
	return methods
}

var services = []*grpc.ServiceDesc{&runtimeapi.RuntimeService_ServiceDesc, &runtimeapi.ImageService_ServiceDesc}

// Sandbox is a pod sandbox as kubelet asked for it.
type Sandbox struct {
	ID        string
	UID       types.UID
	Namespace string
	Name      string
	Created   time.Time
}

// Pod is the pod's namespace/name.
func (s Sandbox) Pod() string { return s.Namespace + "/" + s.Name }

func (s Sandbox) check() (Sandbox, error) {
	if s.ID == "" || s.UID == "" || s.Namespace == "" || s.Name == "" {
		return Sandbox{}, fmt.Errorf("sandbox %q of pod %s with UID %q: it is not said what it is", s.ID, s.Pod(), s.UID)
	}
	return s, nil
}

func of(id string, metadata *runtimeapi.PodSandboxMetadata, created int64) (Sandbox, error) {
	s := Sandbox{ID: id, UID: types.UID(metadata.GetUid()), Namespace: metadata.GetNamespace(), Name: metadata.GetName()}
	if created > 0 {
		s.Created = time.Unix(0, created)
	}
	return s.check()
}

// DecodeRunPodSandbox reads which sandbox was made.
func DecodeRunPodSandbox(request, response []byte) (Sandbox, error) {
	in, out := &runtimeapi.RunPodSandboxRequest{}, &runtimeapi.RunPodSandboxResponse{}
	if err := errors.Join(proto.Unmarshal(request, in), proto.Unmarshal(response, out)); err != nil {
		return Sandbox{}, fmt.Errorf("decoding RunPodSandbox: %w", err)
	}
	return of(out.GetPodSandboxId(), in.GetConfig().GetMetadata(), 0)
}

// Field numbers of RestorePod's messages, from KEP-2823's api.proto.
const (
	restoreConfig    = 2
	restoreSandboxID = 1
)

// DecodeRestorePod reads which sandbox was made. A request may leave out whose it is,
// and then only the ID is known: the runtime has to be asked.
func DecodeRestorePod(request, response []byte) (Sandbox, error) {
	id, err := field(response, restoreSandboxID)
	if err != nil {
		return Sandbox{}, fmt.Errorf("decoding the answer to RestorePod: %w", err)
	}
	encoded, err := field(request, restoreConfig)
	if err != nil {
		return Sandbox{}, fmt.Errorf("decoding RestorePod: %w", err)
	}
	config := &runtimeapi.PodSandboxConfig{}
	if err := proto.Unmarshal(encoded, config); err != nil {
		return Sandbox{}, fmt.Errorf("decoding RestorePod: %w", err)
	}
	if len(id) == 0 {
		return Sandbox{}, errors.New("the answer to RestorePod names no sandbox")
	}
	if s, err := of(string(id), config.GetMetadata(), 0); err == nil {
		return s, nil
	}
	return Sandbox{ID: string(id)}, nil
}

// field is the last value of a field of bytes, as protobuf has it.
func field(message []byte, wanted protowire.Number) ([]byte, error) {
	var found []byte
	for len(message) > 0 {
		number, kind, n := protowire.ConsumeTag(message)
		if n < 0 {
			return nil, protowire.ParseError(n)
		}
		message = message[n:]
		size := protowire.ConsumeFieldValue(number, kind, message)
		if size < 0 {
			return nil, protowire.ParseError(size)
		}
		if number == wanted && kind == protowire.BytesType {
			found, _ = protowire.ConsumeBytes(message)
		}
		message = message[size:]
	}
	return found, nil
}

// DecodeCreateContainer reads which container was made in which sandbox.
func DecodeCreateContainer(request, response []byte) (container, sandbox string, err error) {
	in, out := &runtimeapi.CreateContainerRequest{}, &runtimeapi.CreateContainerResponse{}
	if err := errors.Join(proto.Unmarshal(request, in), proto.Unmarshal(response, out)); err != nil {
		return "", "", fmt.Errorf("decoding CreateContainer: %w", err)
	}
	return out.GetContainerId(), in.GetPodSandboxId(), nil
}

// DecodeStartContainer reads which container shall start.
func DecodeStartContainer(request []byte) (container string, err error) {
	in := &runtimeapi.StartContainerRequest{}
	if err := proto.Unmarshal(request, in); err != nil {
		return "", fmt.Errorf("decoding StartContainer: %w", err)
	}
	return in.GetContainerId(), nil
}

// DecodeStopPodSandbox reads which sandbox shall end.
func DecodeStopPodSandbox(request []byte) (sandbox string, err error) {
	in := &runtimeapi.StopPodSandboxRequest{}
	if err := proto.Unmarshal(request, in); err != nil {
		return "", fmt.Errorf("decoding StopPodSandbox: %w", err)
	}
	return in.GetPodSandboxId(), nil
}

// DecodeRemovePodSandbox reads which sandbox shall be removed.
func DecodeRemovePodSandbox(request []byte) (sandbox string, err error) {
	in := &runtimeapi.RemovePodSandboxRequest{}
	if err := proto.Unmarshal(request, in); err != nil {
		return "", fmt.Errorf("decoding RemovePodSandbox: %w", err)
	}
	return in.GetPodSandboxId(), nil
}
