package main

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/bulkhead-dev/bulkhead/cri-ext/proxy"
	"github.com/bulkhead-dev/bulkhead/internal/testenv"
)

// The images that tests have.
const (
	pauseImage = "registry.k8s.io/pause:3.10.1"
	testImage  = "docker.io/library/busybox:test"
)

// cgroupParent is above the cgroups of all containers.
const cgroupParent = "/bh-test-cri"

// containerd is a real one with a network namespace, state and images of its own.
type containerd struct {
	socket string
	dir    string
	bin    string
	config string
	stop   func()
}

// startContainerd starts one with the two images, until the test ends.
func startContainerd(t *testing.T) *containerd {
	t.Helper()
	root, err := testenv.Root()
	if err != nil {
		t.Fatal(err)
	}
	// t.TempDir is too long for the sockets of shims.
	dir, err := os.MkdirTemp("", "bh-cri")
	if err != nil {
		t.Fatal(err)
	}
	c := &containerd{dir: dir, bin: filepath.Join(root, "bin"), socket: filepath.Join(dir, "c.sock"), config: filepath.Join(dir, "config.toml")}
	t.Cleanup(c.clean)
	for name, text := range map[string]string{
		"config.toml": fmt.Sprintf(containerdConfig, dir, c.bin, pauseImage),
		"cni/10.conflist": fmt.Sprintf(`{"cniVersion":"1.0.0","name":"bh-test","plugins":[{"type":"ptp","ipam":{"type":"host-local",
			"dataDir":%q,"ranges":[[{"subnet":"10.213.7.0/24"}]],"routes":[{"dst":"0.0.0.0/0"}]}}]}`, filepath.Join(dir, "ipam")),
	} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	c.start(t)
	for image, program := range map[string]string{pauseImage: "pause", testImage: "busybox"} {
		archive := filepath.Join(dir, program+".tar")
		if err := os.WriteFile(archive, imageOf(t, image, filepath.Join(c.bin, program)), 0o600); err != nil {
			t.Fatal(err)
		}
		command := exec.Command(filepath.Join(c.bin, "ctr"), "--address", c.socket, "-n", "k8s.io", "images", "import", archive)
		if out, err := command.CombinedOutput(); err != nil {
			t.Fatalf("importing %s: %v\n%s", image, err, out)
		}
	}
	return c
}

const containerdConfig = `version = 4
root = "%[1]s/root"
state = "%[1]s/state"
[plugins."io.containerd.nri.v1.nri"]
  disable = true
[plugins."io.containerd.internal.v1.opt"]
  path = "%[1]s/opt"
[plugins."io.containerd.cri.v1.images"]
  snapshotter = "native"
  [plugins."io.containerd.cri.v1.images".pinned_images]
    sandbox = "%[3]s"
[plugins."io.containerd.cri.v1.runtime"]
  restrict_oom_score_adj = true
  disable_apparmor = true
  [plugins."io.containerd.cri.v1.runtime".cni]
    bin_dirs = ["%[2]s/cni"]
    conf_dir = "%[1]s/cni"
    use_internal_loopback = true
  [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc.options]
      BinaryName = "%[2]s/runc"
      Root = "%[1]s/runc"
      SystemdCgroup = false
`

// start starts the process, again after stop if need be.
func (c *containerd) start(t *testing.T) {
	t.Helper()
	log, err := os.OpenFile(filepath.Join(c.dir, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	command := exec.Command(filepath.Join(c.bin, "containerd"), "--config", c.config, "--address", c.socket)
	command.Env = append(os.Environ(), "PATH="+c.bin+":"+os.Getenv("PATH"))
	command.Stdout, command.Stderr = log, log
	// The pods' network hangs on a namespace that ends with the test.
	command.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	c.stop = func() {
		if command.ProcessState == nil {
			_ = command.Process.Signal(syscall.SIGTERM)
			_ = command.Wait()
		}
	}
	client := c.client(t, c.socket)
	missing := "no answer"
	defer func() {
		if t.Failed() {
			t.Log("containerd's condition:", missing)
			text, _ := os.ReadFile(filepath.Join(c.dir, "log"))
			t.Logf("containerd: %s", text[max(0, len(text)-4000):])
		}
	}()
	eventually(t, "containerd", func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		response, err := client.Status(ctx, &runtimeapi.StatusRequest{})
		if err != nil {
			missing = err.Error()
			return false
		}
		for _, condition := range response.GetStatus().GetConditions() {
			if !condition.GetStatus() && (condition.GetType() == runtimeapi.RuntimeReady || condition.GetType() == runtimeapi.NetworkReady) {
				missing = condition.GetMessage()
				return false
			}
		}
		return true
	})
}

// client is one of the runtime at a socket, with kubelet's part of the API.
func (c *containerd) client(t *testing.T, socket string) runtimeapi.RuntimeServiceClient {
	t.Helper()
	return runtimeapi.NewRuntimeServiceClient(dial(t, socket))
}

func dial(t testing.TB, socket string) *grpc.ClientConn {
	t.Helper()
	conn, err := proxy.Dial(socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// clean ends all sandboxes, the process, and what it has mounted.
func (c *containerd) clean() {
	if conn, err := proxy.Dial(c.socket); err == nil && c.stop != nil {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		client := runtimeapi.NewRuntimeServiceClient(conn)
		all, err := client.ListPodSandbox(ctx, &runtimeapi.ListPodSandboxRequest{})
		if err == nil {
			for _, item := range all.GetItems() {
				_, _ = client.StopPodSandbox(ctx, &runtimeapi.StopPodSandboxRequest{PodSandboxId: item.GetId()})
				_, _ = client.RemovePodSandbox(ctx, &runtimeapi.RemovePodSandboxRequest{PodSandboxId: item.GetId()})
			}
		}
		conn.Close()
		c.stop()
	}
	mounts, _ := os.ReadFile("/proc/self/mounts")
	lines := strings.Split(string(mounts), "\n")
	for i := len(lines) - 1; i >= 0; i-- {
		if fields := strings.Fields(lines[i]); len(fields) > 1 && strings.HasPrefix(fields[1], c.dir+"/") {
			_ = syscall.Unmount(fields[1], syscall.MNT_DETACH)
		}
	}
	os.RemoveAll(c.dir)
	// What is not empty stays.
	groups, _ := filepath.Glob("/sys/fs/cgroup/*" + cgroupParent)
	for _, group := range append(groups, "/sys/fs/cgroup"+cgroupParent) {
		_ = syscall.Rmdir(group)
	}
}

// imageOf makes an archive, as `docker save` does, of an image with one program.
func imageOf(t *testing.T, name, program string) []byte {
	t.Helper()
	binary, err := os.ReadFile(program)
	if err != nil {
		t.Fatal(err)
	}
	var layer bytes.Buffer
	archive(t, &layer, map[string][]byte{"bin/" + filepath.Base(program): binary})
	sum := sha256.Sum256(layer.Bytes())
	config := encode(t, map[string]any{
		"architecture": "amd64", "os": "linux", "config": map[string]any{"Entrypoint": []string{"/bin/" + filepath.Base(program)}},
		"rootfs": map[string]any{"type": "layers", "diff_ids": []string{"sha256:" + hex.EncodeToString(sum[:])}},
	})
	var image bytes.Buffer
	archive(t, &image, map[string][]byte{
		"layer.tar": layer.Bytes(), "config.json": config,
		"manifest.json": encode(t, []map[string]any{{"Config": "config.json", "RepoTags": []string{name}, "Layers": []string{"layer.tar"}}}),
	})
	return image.Bytes()
}

func encode(t *testing.T, value any) []byte {
	t.Helper()
	data, err := json.Marshal(value)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func archive(t *testing.T, to *bytes.Buffer, files map[string][]byte) {
	t.Helper()
	w := tar.NewWriter(to)
	for name, data := range files {
		if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o755, Size: int64(len(data))}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(data); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
}

func eventually(t *testing.T, what string, condition func() bool) {
	t.Helper()
	deadline := time.Now().Add(2 * time.Minute)
	for !condition() {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain: %s", what)
		}
		<-time.After(5 * time.Millisecond)
	}
}
