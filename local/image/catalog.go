package image

import (
	"bytes"
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/bulkhead-dev/bulkhead/local/artifact"
)

const (
	// ours is the registry that our own images are named after.
	ours = "registry.bulkhead.dev"
	// searchPath is PATH in images whose commands have no folder.
	searchPath = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
	// nonroot is the user of images whose program needs no rights.
	nonroot = "65532:65532"
)

// What the pinned Kubernetes tests itself with, under the names and versions that
// its test/images has.
const (
	testImages             = "registry.k8s.io/e2e-test-images"
	agnhostVersion         = "2.63.0"
	sampleAPIServerVersion = "1.29.2" // what the suite asks for; the program is of the pinned version
)

// ownImages are those of our programs that run in pods.
var ownImages = []string{"vc-manager", "syncer", "vn-agent", "tenant-proxy", "fence", "abm"}

// kubernetesPrograms are the names that hyperkube goes by in its image, in the
// folder where upstream's images have them.
var kubernetesPrograms = []string{
	"etcd", "etcdctl", "etcdutl", "kube-apiserver", "kube-controller-manager",
	"kube-proxy", "kube-scheduler", "kubectl", "kubelet",
}

// catalog returns what the images are made of. Paths, users and commands are
// those of upstream's images, because upstream's manifests count on them.
func catalog(ctx context.Context, p artifact.Programs) ([]spec, error) {
	program := func(name string) string { return filepath.Join(p.Bin, name) }
	base := baseFiles()
	busybox, err := busyboxFiles(ctx, p.Busybox)
	if err != nil {
		return nil, err
	}
	hyperkube := []entry{file("usr/local/bin/hyperkube", program("hyperkube"))}
	for _, name := range kubernetesPrograms {
		hyperkube = append(hyperkube, link("usr/local/bin/"+name, "hyperkube"))
	}
	specs := []spec{
		{
			names:  []string{"registry.k8s.io/pause:" + strings.TrimPrefix(artifact.Version("pause"), "v")},
			layers: [][]entry{{file("pause", p.Pause)}},
			config: v1.Config{Entrypoint: []string{"/pause"}, User: "65535:65535", Env: []string{searchPath}, WorkingDir: "/"},
		},
		{
			names:  []string{"docker.io/library/busybox:1.36", "docker.io/library/busybox:1.37", "docker.io/library/busybox:latest"},
			layers: [][]entry{base, busybox},
			config: v1.Config{Cmd: []string{"sh"}, Env: []string{searchPath}},
		},
		{
			names:  []string{ours + "/hyperkube:" + artifact.Version("hyperkube")},
			layers: [][]entry{base, hyperkube},
			config: v1.Config{Cmd: []string{"hyperkube"}, Env: []string{searchPath}, WorkingDir: "/"},
		},
		{
			names: []string{"registry.k8s.io/coredns/coredns:" + artifact.Version("coredns")},
			// As upstream, a file capability for port 53 without root.
			layers: [][]entry{base, {file("coredns", program("coredns")).capable(capNetBindService)}},
			config: v1.Config{Entrypoint: []string{"/coredns"}, User: nonroot, Env: []string{searchPath}, WorkingDir: "/"},
		},
		{
			names:  []string{"docker.io/rancher/local-path-provisioner:" + artifact.Version("local-path-provisioner")},
			layers: [][]entry{base, {file("usr/bin/local-path-provisioner", program("local-path-provisioner"))}},
			config: v1.Config{Cmd: []string{"local-path-provisioner"}, Env: []string{searchPath}},
		},
		{
			names:  []string{"registry.k8s.io/metrics-server/metrics-server:" + artifact.Version("metrics-server")},
			layers: [][]entry{base, {file("metrics-server", program("metrics-server"))}},
			config: v1.Config{Entrypoint: []string{"/metrics-server"}, User: "65534", Env: []string{searchPath}, WorkingDir: "/"},
		},
	}
	specs = append(specs, spec{
		names:  []string{testImages + "/agnhost:" + agnhostVersion},
		layers: [][]entry{base, busybox, {file("agnhost", program("agnhost"))}},
		config: v1.Config{Entrypoint: []string{"/agnhost"}, Cmd: []string{"pause"}, Env: []string{searchPath}, WorkingDir: "/"},
	}, spec{
		names:  []string{testImages + "/sample-apiserver:" + sampleAPIServerVersion},
		layers: [][]entry{base, {file("sample-apiserver", program("sample-apiserver"))}},
		config: v1.Config{Entrypoint: []string{"/sample-apiserver"}, Env: []string{searchPath}, WorkingDir: "/"},
	})
	for _, name := range ownImages {
		specs = append(specs, spec{
			names:  []string{ours + "/" + name + ":" + Version()},
			layers: [][]entry{base, {file(name, program(name))}},
			config: v1.Config{Entrypoint: []string{"/" + name}, User: nonroot, Env: []string{searchPath}, WorkingDir: "/"},
		})
	}
	return specs, nil
}

// baseFiles are what a program expects of any Linux system. There are no
// certificate authorities: nothing in the embedded super cluster talks to the
// world outside.
func baseFiles() []entry {
	return []entry{
		text("etc/passwd", "root:x:0:0:root:/root:/sbin/nologin\nnobody:x:65534:65534:nobody:/nonexistent:/sbin/nologin\nnonroot:x:65532:65532:nonroot:/home/nonroot:/sbin/nologin\n"),
		text("etc/group", "root:x:0:\nnobody:x:65534:\nnonroot:x:65532:\n"),
		text("etc/nsswitch.conf", "hosts: files dns\n"),
		folder("etc/ssl/certs", 0o755),
		folder("home/nonroot", 0o700).owned(65532),
		folder("root", 0o700),
		folder("run", 0o755),
		folder("tmp", 0o1777),
		folder("var/tmp", 0o1777),
		link("var/run", "../run"),
	}
}

// applet is what the name of a busybox applet looks like.
var applet = regexp.MustCompile(`^[a-z0-9\[][a-z0-9._\[-]*$`)

// busyboxFiles returns busybox with a link for each of its applets.
func busyboxFiles(ctx context.Context, path string) ([]entry, error) {
	var out, stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, path, "--list")
	cmd.Stdout, cmd.Stderr = &out, &stderr
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("asking %s for its applets: %w: %s", path, err, strings.TrimSpace(stderr.String()))
	}
	files := []entry{
		file("bin/busybox", path),
		link("usr/bin/env", "../../bin/busybox"), // where scripts look for it
	}
	for name := range strings.FieldsSeq(out.String()) {
		if name == "busybox" {
			continue
		}
		if !applet.MatchString(name) {
			return nil, fmt.Errorf("%s lists %q, which is no name of an applet", path, name)
		}
		files = append(files, link("bin/"+name, "busybox"))
	}
	return files, nil
}
