package cri

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func marshal(t testing.TB, m proto.Message) []byte {
	t.Helper()
	data, err := proto.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func podConfig() *runtimeapi.PodSandboxConfig {
	return &runtimeapi.PodSandboxConfig{
		Metadata: &runtimeapi.PodSandboxMetadata{Name: "web", Namespace: "vc-a", Uid: "u"},
		// What a tenant can set says nothing of whose pod it is.
		Labels: map[string]string{"io.kubernetes.pod.namespace": "vc-b"}, Annotations: map[string]string{"io.kubernetes.pod.uid": "v"},
	}
}

var decoded = Sandbox{ID: "s", UID: "u", Namespace: "vc-a", Name: "web"}

func TestDecodeSandboxes(t *testing.T) {
	response := marshal(t, &runtimeapi.RunPodSandboxResponse{PodSandboxId: "s"})
	got, err := DecodeRunPodSandbox(marshal(t, &runtimeapi.RunPodSandboxRequest{Config: podConfig()}), response)
	if diff := cmp.Diff(decoded, got); diff != "" || err != nil {
		t.Errorf("RunPodSandbox: %v\n%s", err, diff)
	}
	if _, err := DecodeRunPodSandbox(marshal(t, &runtimeapi.RunPodSandboxRequest{}), response); err == nil {
		t.Error("a sandbox of nobody was taken")
	}
	// RestorePod has a path in field 1 and the configuration in field 2.
	request := protowire.AppendString(protowire.AppendTag(nil, 1, protowire.BytesType), "/checkpoint")
	request = protowire.AppendVarint(protowire.AppendTag(request, 9, protowire.VarintType), 5)
	whole := protowire.AppendBytes(protowire.AppendTag(request, restoreConfig, protowire.BytesType), marshal(t, podConfig()))
	if got, err = DecodeRestorePod(whole, response); err != nil || cmp.Diff(decoded, got) != "" {
		t.Errorf("RestorePod: %+v, %v", got, err)
	}
	if got, err = DecodeRestorePod(request, response); err != nil || got != (Sandbox{ID: "s"}) {
		t.Errorf("RestorePod without configuration: %+v, %v", got, err)
	}
	if _, err = DecodeRestorePod(whole, nil); err == nil {
		t.Error("a restored sandbox without ID was taken")
	}
}

func TestDecodeOthers(t *testing.T) {
	container, sandbox, err := DecodeCreateContainer(marshal(t, &runtimeapi.CreateContainerRequest{PodSandboxId: "s"}), marshal(t, &runtimeapi.CreateContainerResponse{ContainerId: "c"}))
	if container != "c" || sandbox != "s" || err != nil {
		t.Errorf("CreateContainer: %q %q %v", container, sandbox, err)
	}
	for name, test := range map[string]struct {
		decode  func([]byte) (string, error)
		request proto.Message
	}{
		"StartContainer":   {DecodeStartContainer, &runtimeapi.StartContainerRequest{ContainerId: "x"}},
		"StopPodSandbox":   {DecodeStopPodSandbox, &runtimeapi.StopPodSandboxRequest{PodSandboxId: "x"}},
		"RemovePodSandbox": {DecodeRemovePodSandbox, &runtimeapi.RemovePodSandboxRequest{PodSandboxId: "x"}},
	} {
		if id, err := test.decode(marshal(t, test.request)); id != "x" || err != nil {
			t.Errorf("%s: %q, %v", name, id, err)
		}
		if _, err := test.decode([]byte{0xff}); err == nil {
			t.Errorf("%s: garbage was taken", name)
		}
	}
}

// The two runtimes say in different places where the network namespace is.
func TestDecodeStatus(t *testing.T) {
	for name, verbose := range map[string]string{
		"containerd": `{"pid":12,"runtimeSpec":{"linux":{"namespaces":[{"type":"pid"},{"type":"network","path":"/var/run/netns/x"}]}},"sandboxMetadata":{"Version":"v1","Metadata":{"NetNSPath":"/var/run/netns/x"}}}`,
		"no spec":    `{"pid":12,"runtimeSpec":null,"sandboxMetadata":{"Version":"v1","Metadata":{"NetNSPath":"/var/run/netns/x"}}}`,
		"CRI-O":      `{"pid":12,"image":"pause","runtimeSpec":{"ociVersion":"1.2.0","linux":{"namespaces":[{"type":"network","path":"/var/run/netns/x"}]}}}`,
	} {
		got, err := decodeStatus(&runtimeapi.PodSandboxStatusResponse{
			Status: &runtimeapi.PodSandboxStatus{
				Id: "s", Metadata: podConfig().Metadata, State: runtimeapi.PodSandboxState_SANDBOX_READY, RuntimeHandler: "kata",
				Network: &runtimeapi.PodSandboxNetworkStatus{Ip: "10.0.0.1", AdditionalIps: []*runtimeapi.PodIP{{Ip: "fd00::1"}}},
			},
			Info: map[string]string{"info": verbose},
		})
		want := Status{
			Sandbox: decoded, Ready: true, Handler: "kata", NetworkNamespace: "/var/run/netns/x", PID: 12,
			IPs: []netip.Addr{netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("fd00::1")},
		}
		if diff := cmp.Diff(want, got, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" || err != nil {
			t.Errorf("%s: %v\n%s", name, err, diff)
		}
	}
}

func TestMethods(t *testing.T) {
	unary, streams := Unary(), Streams()
	for _, method := range []string{RunPodSandbox, CreateContainer, StartContainer, StopPodSandbox, RemovePodSandbox, "/runtime.v1.ImageService/PullImage"} {
		if !unary[method] || streams[method] {
			t.Errorf("%s is not known as unary", method)
		}
	}
	if !streams["/runtime.v1.RuntimeService/GetContainerEvents"] || unary["/runtime.v1.RuntimeService/GetContainerEvents"] {
		t.Error("GetContainerEvents is not known as a stream")
	}
}

// Whatever a call carries, what comes out is whole or an error.
func FuzzDecode(f *testing.F) {
	f.Add(marshal(f, &runtimeapi.RunPodSandboxRequest{Config: podConfig()}), marshal(f, &runtimeapi.RunPodSandboxResponse{PodSandboxId: "s"}), `{"pid":1}`)
	f.Add([]byte{0x12, 0x80}, []byte{0x0a, 0x01, 0x73}, `{"sandboxMetadata":{"Metadata":{"NetNSPath":7}}}`)
	f.Fuzz(func(t *testing.T, request, response []byte, verbose string) {
		if s, err := DecodeRunPodSandbox(request, response); err == nil && (s.ID == "" || s.UID == "" || s.Namespace == "" || s.Name == "") {
			t.Errorf("RunPodSandbox: %+v", s)
		}
		if s, err := DecodeRestorePod(request, response); err == nil && (s.ID == "" || s.Namespace == "" != (s.UID == "")) {
			t.Errorf("RestorePod: %+v", s)
		}
		_, _, _ = DecodeCreateContainer(request, response)
		_, _ = DecodeStartContainer(request)
		_, _ = DecodeStopPodSandbox(request)
		_, _ = DecodeRemovePodSandbox(request)
		var status Status
		_ = decodeInfo([]byte(verbose), &status)
	})
}
