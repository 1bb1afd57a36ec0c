package cri

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// callTimeout is for the runtime to answer one question.
const callTimeout = 10 * time.Second

// Runtime asks the container runtime questions of our own.
type Runtime struct {
	client runtimeapi.RuntimeServiceClient
}

// NewRuntime makes a Runtime that asks over a connection.
func NewRuntime(conn *grpc.ClientConn) *Runtime {
	return &Runtime{client: runtimeapi.NewRuntimeServiceClient(conn)}
}

// Status is what the runtime knows of a sandbox.
type Status struct {
	Sandbox
	// Ready tells whether containers can start in it.
	Ready bool
	// Handler is the runtime handler that serves it, empty for the runtime's default.
	Handler string
	// HostNetwork tells that it has no network namespace of its own.
	HostNetwork bool
	// NetworkNamespace is a path to it.
	NetworkNamespace string
	// PID is of the sandbox's first process, 0 if the runtime does not say.
	PID int
	// IPs are the pod's addresses.
	IPs []netip.Addr
}

// Sandboxes are all that can have containers, by ID.
func (r *Runtime) Sandboxes(ctx context.Context) (map[string]Sandbox, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	response, err := r.client.ListPodSandbox(ctx, &runtimeapi.ListPodSandboxRequest{})
	if err != nil {
		return nil, fmt.Errorf("listing sandboxes: %w", err)
	}
	all := map[string]Sandbox{}
	for _, item := range response.GetItems() {
		if item.GetState() != runtimeapi.PodSandboxState_SANDBOX_READY {
			continue
		}
		s, err := of(item.GetId(), item.GetMetadata(), item.GetCreatedAt())
		if err != nil {
			return nil, fmt.Errorf("listing sandboxes: %w", err)
		}
		all[s.ID] = s
	}
	return all, nil
}

// Containers are the sandboxes' IDs by their containers' IDs.
func (r *Runtime) Containers(ctx context.Context) (map[string]string, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	response, err := r.client.ListContainers(ctx, &runtimeapi.ListContainersRequest{})
	if err != nil {
		return nil, fmt.Errorf("listing containers: %w", err)
	}
	all := map[string]string{}
	for _, container := range response.GetContainers() {
		all[container.GetId()] = container.GetPodSandboxId()
	}
	return all, nil
}

// SandboxOf finds the sandbox of a container, of which a part of the ID may be given.
// It is a NotFound status if the runtime has no such container, or several.
func (r *Runtime) SandboxOf(ctx context.Context, container string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	if container == "" {
		return "", status.Error(codes.InvalidArgument, "no container is named")
	}
	response, err := r.client.ListContainers(ctx, &runtimeapi.ListContainersRequest{Filter: &runtimeapi.ContainerFilter{Id: container}})
	if err != nil {
		return "", fmt.Errorf("looking for container %s: %w", container, err)
	}
	found := response.GetContainers()
	if len(found) != 1 || !strings.HasPrefix(found[0].GetId(), container) {
		return "", status.Errorf(codes.NotFound, "the runtime has %d containers %s", len(found), container)
	}
	return found[0].GetPodSandboxId(), nil
}

// Status asks for all about one sandbox.
func (r *Runtime) Status(ctx context.Context, id string) (Status, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	response, err := r.client.PodSandboxStatus(ctx, &runtimeapi.PodSandboxStatusRequest{PodSandboxId: id, Verbose: true})
	if err != nil {
		return Status{}, fmt.Errorf("asking for sandbox %s: %w", id, err)
	}
	result, err := decodeStatus(response)
	if err != nil {
		return Status{}, fmt.Errorf("asking for sandbox %s: %w", id, err)
	}
	if result.ID != id {
		return Status{}, fmt.Errorf("asking for sandbox %s: the runtime answers about %s", id, result.ID)
	}
	return result, nil
}

// Stop ends a sandbox and what runs in it.
func (r *Runtime) Stop(ctx context.Context, id string) error {
	if _, err := r.client.StopPodSandbox(ctx, &runtimeapi.StopPodSandboxRequest{PodSandboxId: id}); err != nil {
		return fmt.Errorf("stopping sandbox %s: %w", id, err)
	}
	return nil
}

func decodeStatus(response *runtimeapi.PodSandboxStatusResponse) (Status, error) {
	from := response.GetStatus()
	sandbox, err := of(from.GetId(), from.GetMetadata(), from.GetCreatedAt())
	if err != nil {
		return Status{}, err
	}
	result := Status{
		Sandbox: sandbox, Handler: from.GetRuntimeHandler(),
		Ready:       from.GetState() == runtimeapi.PodSandboxState_SANDBOX_READY,
		HostNetwork: from.GetLinux().GetNamespaces().GetOptions().GetNetwork() == runtimeapi.NamespaceMode_NODE,
	}
	addresses := []string{from.GetNetwork().GetIp()}
	for _, more := range from.GetNetwork().GetAdditionalIps() {
		addresses = append(addresses, more.GetIp())
	}
	for _, address := range addresses {
		if parsed, err := netip.ParseAddr(address); err == nil {
			result.IPs = append(result.IPs, parsed.Unmap())
		}
	}
	if err := decodeInfo([]byte(response.GetInfo()["info"]), &result); err != nil {
		return Status{}, err
	}
	return result, nil
}

// info is what containerd and CRI-O add to a verbose status. It is not part of the
// API: of containerd see internal/cri/server/podsandbox/types, and the OCI runtime
// specification.
type info struct {
	PID         int `json:"pid"`
	RuntimeSpec struct {
		Linux struct {
			Namespaces []struct {
				Type string `json:"type"`
				Path string `json:"path"`
			} `json:"namespaces"`
		} `json:"linux"`
	} `json:"runtimeSpec"`
	Metadata struct {
		Metadata struct {
			NetNSPath string `json:"NetNSPath"`
		} `json:"Metadata"`
	} `json:"sandboxMetadata"`
}

func decodeInfo(data []byte, into *Status) error {
	if len(data) == 0 {
		return nil
	}
	var verbose info
	if err := json.Unmarshal(data, &verbose); err != nil {
		return fmt.Errorf("reading what the runtime adds to a sandbox's status: %w", err)
	}
	into.PID = verbose.PID
	into.NetworkNamespace = verbose.Metadata.Metadata.NetNSPath
	for _, namespace := range verbose.RuntimeSpec.Linux.Namespaces {
		if namespace.Type == "network" && namespace.Path != "" {
			into.NetworkNamespace = namespace.Path
		}
	}
	return nil
}
