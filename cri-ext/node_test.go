package main

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/go-logr/logr/testr"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"k8s.io/apimachinery/pkg/types"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/bulkhead-dev/bulkhead/cri-ext/admin"
	"github.com/bulkhead-dev/bulkhead/cri-ext/cri"
	"github.com/bulkhead-dev/bulkhead/cri-ext/sandbox"
	"github.com/bulkhead-dev/bulkhead/internal/feed"
	"github.com/bulkhead-dev/bulkhead/internal/ruleset"
)

// node is cri-ext before a real containerd, with a feeder, seen by kubelet and root.
type node struct {
	t       *testing.T
	runtime *containerd
	options options
	stop    func()
	kubelet runtimeapi.RuntimeServiceClient
	root    *admin.Client
	feeder  *feed.Client
}

func newNode(t *testing.T) *node {
	n := &node{t: t, runtime: startContainerd(t)}
	dir := n.runtime.dir
	n.options = options{
		listen: filepath.Join(dir, "k", "cri.sock"), runtime: n.runtime.socket, feed: filepath.Join(dir, "f", "feed.sock"),
		admin: filepath.Join(dir, "k", "admin.sock"), gate: gateStart, gateTimeout: 2 * time.Minute, repairInterval: time.Minute, agentPort: guestPort,
	}
	n.start()
	n.kubelet = n.runtime.client(t, n.options.listen)
	n.root = admin.NewClient(n.options.admin)
	n.feeder = feed.NewClient(n.options.feed, testr.New(t))
	n.background(n.feeder.Run)
	return n
}

// start starts cri-ext, and waits until it answers root.
func (n *node) start() {
	n.t.Helper()
	n.stop = n.background(func(ctx context.Context) error { return serve(ctx, n.options, testr.New(n.t)) })
	eventually(n.t, "cri-ext", func() bool {
		return admin.NewClient(n.options.admin).Get(n.t.Context(), "/status", nil, &admin.Status{}) == nil
	})
}

// restart starts cri-ext anew, with another limit of the gate.
func (n *node) restart(gateTimeout time.Duration) {
	n.t.Helper()
	n.stop()
	n.options.gateTimeout = gateTimeout
	n.start()
}

func (n *node) background(f func(context.Context) error) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := f(ctx); err != nil {
			n.t.Error(err)
		}
	}()
	stop = func() { cancel(); <-done }
	n.t.Cleanup(stop)
	return stop
}

func podConfig(namespace, name, uid string) *runtimeapi.PodSandboxConfig {
	return &runtimeapi.PodSandboxConfig{
		Metadata: &runtimeapi.PodSandboxMetadata{Name: name, Namespace: namespace, Uid: uid},
		Linux:    &runtimeapi.LinuxPodSandboxConfig{CgroupParent: cgroupParent, SecurityContext: &runtimeapi.LinuxSandboxSecurityContext{NamespaceOptions: &runtimeapi.NamespaceOption{}}},
	}
}

// sandbox makes a sandbox, and in it a container that is not started.
func (n *node) sandbox(config *runtimeapi.PodSandboxConfig) (sandboxID, containerID string) {
	n.t.Helper()
	ctx, cancel := context.WithTimeout(n.t.Context(), time.Minute)
	defer cancel()
	made, err := n.kubelet.RunPodSandbox(ctx, &runtimeapi.RunPodSandboxRequest{Config: config})
	if err != nil {
		n.t.Fatal(err)
	}
	return made.GetPodSandboxId(), n.container(made.GetPodSandboxId(), config)
}

func (n *node) container(sandboxID string, config *runtimeapi.PodSandboxConfig) string {
	n.t.Helper()
	created, err := n.kubelet.CreateContainer(n.t.Context(), &runtimeapi.CreateContainerRequest{
		PodSandboxId: sandboxID, SandboxConfig: config,
		Config: &runtimeapi.ContainerConfig{
			Metadata: &runtimeapi.ContainerMetadata{Name: fmt.Sprintf("c%d", time.Now().UnixNano())},
			Image:    &runtimeapi.ImageSpec{Image: testImage}, Command: []string{"/bin/busybox", "sleep", "3600"},
			Linux: &runtimeapi.LinuxContainerConfig{},
		},
	})
	if err != nil {
		n.t.Fatal(err)
	}
	return created.GetContainerId()
}

func (n *node) startContainer(id string) error {
	ctx, cancel := context.WithTimeout(n.t.Context(), 3*time.Minute)
	defer cancel()
	_, err := n.kubelet.StartContainer(ctx, &runtimeapi.StartContainerRequest{ContainerId: id})
	return err
}

func (n *node) view(pod string) (view sandbox.View) {
	var rules admin.Rules
	if err := n.root.Get(n.t.Context(), "/rules", url.Values{"pod": {pod}}, &rules); err != nil {
		return view
	}
	return rules.Pod
}

// within runs f in a sandbox's network namespace.
func (n *node) within(sandboxID string, f func()) {
	n.t.Helper()
	status, err := cri.NewRuntime(dial(n.t, n.runtime.socket)).Status(n.t.Context(), sandboxID)
	if err != nil {
		n.t.Fatal(err)
	}
	fd, err := unix.Open(status.NetworkNamespace, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		n.t.Fatal(err)
	}
	defer unix.Close(fd)
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		err := unix.Setns(fd, unix.CLONE_NEWNET)
		if err == nil {
			f()
		}
		done <- err
	}()
	if err := <-done; err != nil {
		n.t.Fatal(err)
	}
}

// ask dials an address and returns what is said there.
func ask(address string) string {
	conn, err := net.DialTimeout("tcp", address, time.Minute)
	if err != nil {
		return err.Error()
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		return err.Error()
	}
	answer := make([]byte, 64)
	got, err := conn.Read(answer)
	if err != nil {
		return err.Error()
	}
	return string(answer[:got])
}

var clusterIPs = []netip.Prefix{netip.MustParsePrefix("10.96.0.0/16")}

func (n *node) put(tenant types.UID, endpoint string) {
	n.t.Helper()
	services := []ruleset.Service{{
		Key:       ruleset.Key{Addr: netip.MustParseAddr("10.96.0.80"), Protocol: ruleset.TCP, Port: 80},
		Endpoints: []netip.AddrPort{netip.MustParseAddrPort(endpoint)},
	}}
	if err := n.feeder.PutRules(tenant, clusterIPs, services, time.Now()); err != nil {
		n.t.Fatal(err)
	}
}

// serveIn answers in a sandbox's network namespace, and returns the address.
func (n *node) serveIn(sandboxID, answer string) (address string) {
	n.t.Helper()
	found, err := cri.NewRuntime(dial(n.t, n.runtime.socket)).Status(n.t.Context(), sandboxID)
	if err != nil || len(found.IPs) == 0 {
		n.t.Fatalf("addresses %v of sandbox %s: %v", found.IPs, sandboxID, err)
	}
	var listener net.Listener
	n.within(sandboxID, func() { listener, err = net.Listen("tcp", netip.AddrPortFrom(found.IPs[0], 0).String()) })
	if err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(func() { listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			fmt.Fprint(conn, answer)
			conn.Close()
		}
	}()
	return listener.Addr().String()
}

// answer is what a container in the sandbox gets from the service's address.
func (n *node) answer(sandboxID string) (answer string) {
	n.t.Helper()
	n.within(sandboxID, func() { answer = ask("10.96.0.80:80") })
	return answer
}

func (n *node) expectAnswer(sandboxID, want string) {
	n.t.Helper()
	if got := n.answer(sandboxID); got != want {
		n.t.Errorf("sandbox %s gets %q from the service, want %q", sandboxID, got, want)
	}
}

// The gate, in front of a real containerd: what is missing stands in the error.
func TestGateSaysWhatIsMissing(t *testing.T) {
	n := newNode(t)
	n.restart(300 * time.Millisecond)
	pod := feed.Pod{UID: "uid-1", Namespace: "vc-acme-default-xyz", Name: "web", Tenant: "acme"}
	config := podConfig(pod.Namespace, pod.Name, string(pod.UID))
	id, _ := n.sandbox(config)
	refused := func(why string) {
		t.Helper()
		err := n.startContainer(n.container(id, config))
		if status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), why) {
			t.Errorf("starting a container: %v; want it refused because %s", err, why)
		}
	}
	eventually(t, "the feeder", n.feeder.Connected)
	refused("tenant-proxy has not listed the pods of this node yet")
	n.feeder.PodsComplete()
	eventually(t, "the list", func() bool {
		return strings.Contains(n.view(id).Reason, "by the super cluster's records it is no tenant's")
	})
	refused("by the super cluster's records it is no tenant's")
	n.feeder.PutPod(pod)
	n.feeder.SetPending("acme", "its apiserver does not answer")
	eventually(t, "the reason", func() bool { return strings.Contains(n.view(id).Reason, "its apiserver does not answer") })
	refused("its apiserver does not answer")
	n.restart(2 * time.Minute) // what follows is to pass, however slow the machine is
	n.put("acme", n.serveIn(id, "acme"))
	if err := n.startContainer(n.container(id, config)); err != nil {
		t.Errorf("starting a container whose rules are there: %v", err)
	}
	n.expectAnswer(id, "acme")
	if got := n.view(id); got.State != sandbox.Current || got.Generation != 1 || got.Tenant != "acme" {
		t.Errorf("the sandbox is seen as %+v", got)
	}
}

// What is no tenant's passes untouched.
func TestOthersPass(t *testing.T) {
	n := newNode(t)
	config := podConfig("kube-system", "dns", "uid-9")
	id, container := n.sandbox(config)
	if err := n.startContainer(container); err != nil {
		t.Errorf("starting a container of the platform: %v", err)
	}
	if got := n.view(id); got.Sandbox != "" {
		t.Errorf("it is seen as a tenant's: %+v", got)
	}
	controlPlane := feed.Pod{UID: "uid-8", Namespace: "vc-acme-xyz", Name: "etcd-0", Tenant: "acme", ControlPlane: true}
	n.feeder.PutPod(controlPlane)
	n.feeder.PodsComplete()
	_, container = n.sandbox(podConfig(controlPlane.Namespace, controlPlane.Name, string(controlPlane.UID)))
	if err := n.startContainer(container); err != nil {
		t.Errorf("starting a container of a control plane: %v", err)
	}
	onHost := podConfig("vc-acme-default-xyz", "agent", "uid-7")
	onHost.Linux.SecurityContext.NamespaceOptions.Network = runtimeapi.NamespaceMode_NODE
	n.feeder.PutPod(feed.Pod{UID: "uid-7", Namespace: "vc-acme-default-xyz", Name: "agent", Tenant: "acme"})
	_, container = n.sandbox(onHost)
	if err := n.startContainer(container); err != nil {
		t.Errorf("starting a container on the node's network: %v", err)
	}
	if got := n.view("uid-7"); got.State != sandbox.Exempt || !strings.Contains(got.Reason, "node's network") {
		t.Errorf("the pod on the node's network is seen as %+v", got)
	}
}

// Two tenants with the same cluster IP, each with its own answer behind it, while
// everything restarts.
func TestTwoTenantsOnARealNode(t *testing.T) {
	n := newNode(t)
	var sandboxes, answers []string
	for i, tenant := range []types.UID{"tenant-a", "tenant-b"} {
		pod := feed.Pod{UID: types.UID(fmt.Sprintf("uid-%d", i)), Namespace: fmt.Sprintf("vc-%s-default-xyz", tenant), Name: "web", Tenant: tenant}
		n.feeder.PutPod(pod)
		n.feeder.PodsComplete()
		config := podConfig(pod.Namespace, pod.Name, string(pod.UID))
		id, container := n.sandbox(config)
		n.put(tenant, n.serveIn(id, string(tenant)))
		if err := n.startContainer(container); err != nil {
			t.Fatalf("starting a container: %v", err)
		}
		sandboxes, answers = append(sandboxes, id), append(answers, string(tenant))
		n.expectAnswer(id, answers[i])
	}
	expect := func(generation uint64) {
		t.Helper()
		for i, id := range sandboxes {
			eventually(t, "sandbox "+id, func() bool { v := n.view(id); return v.State == sandbox.Current && v.Generation == generation })
			n.expectAnswer(id, answers[i])
			var diff admin.Diff
			if err := n.root.Get(t.Context(), "/diff", url.Values{"pod": {id}}, &diff); err != nil || len(diff.Differences) > 0 {
				t.Errorf("sandbox %s differs: %+v, %v", id, diff.Differences, err)
			}
		}
	}
	expect(1)

	n.stop() // cri-ext
	for i, id := range sandboxes {
		n.expectAnswer(id, answers[i])
	}
	n.start()
	expect(1)

	n.runtime.stop()
	n.runtime.start(t)
	for i, id := range sandboxes {
		answers[i] += " again"
		n.put(n.view(id).Tenant, n.serveIn(id, answers[i]))
	}
	expect(2)

	n.stop() // both at once, with a sandbox that ends meanwhile
	direct := n.runtime.client(t, n.runtime.socket)
	if _, err := direct.StopPodSandbox(t.Context(), &runtimeapi.StopPodSandboxRequest{PodSandboxId: sandboxes[1]}); err != nil {
		t.Fatal(err)
	}
	sandboxes, answers = sandboxes[:1], answers[:1]
	n.start()
	expect(2)
	var pods []sandbox.View
	if err := n.root.Get(t.Context(), "/pods", nil, &pods); err != nil || len(pods) != 1 {
		t.Errorf("pods %+v, %v; want the one that is left", pods, err)
	}
	if _, err := n.kubelet.StopPodSandbox(t.Context(), &runtimeapi.StopPodSandboxRequest{PodSandboxId: sandboxes[0]}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "no pods", func() bool { return n.root.Get(t.Context(), "/pods", nil, &pods) == nil && len(pods) == 0 })
}
