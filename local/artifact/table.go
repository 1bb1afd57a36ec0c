package artifact

import (
	"context"
	"slices"
	"strings"
)

const (
	cniDir        = "cni" // folder of the CNI plugins below the programs' one
	hyperkubeName = "hyperkube"
	pauseName     = "pause"
	busyboxName   = "busybox"
)

// own are the folders of this repository's programs. Each holds the main package
// of the program that has the folder's name.
var own = []string{"vc-manager", "syncer", "vn-agent", "tenant-proxy", "fence", "abm", "cri-ext", "cri-ext/cri-ext-agent", "kubectl-vc"}

// completion is our plugin by the name under which kubectl asks it to complete a line.
var completion = program{name: "kubectl-vc", links: []string{"kubectl_complete-vc"}}

// program is one row of the table: a program and where it comes from.
type program struct {
	name string
	dir  string // folder below the programs' one; "" for that itself
	tool bool   // for developers, not for the super cluster: built on demand only
	from source
	// packages are the Debian packages that building it takes.
	packages []string
	// links are further names of the program, beside it.
	links []string
	// large marks a build of many gigabytes.
	large bool
}

// source is where a program comes from. It is one of upstream, nested, pauseC
// and debian.
type source interface {
	// inputs are everything besides the toolchain that decides what is built;
	// files are read below root.
	inputs(root string) ([]string, error)
	// version is what is shown to the user.
	version() string
	// build makes the program of that name and leaves it at out.
	build(ctx context.Context, b *builder, log *buildLog, name, out string) error
}

func (p program) version() string { return p.from.version() }

// upstream is a main package of a Go module.
type upstream struct {
	module  module
	pkg     string // package below the module's root, "." for the root itself
	ldflags string // {version} stands for the module's version
	tags    string
	cgo     bool
	pie     bool // position independent, as upstream's release build
}

// module is a Go module, pinned. The checksum is the one of the Go checksum
// database, so a proxy that serves something else is found out whatever the
// machine's Go settings are. What the module itself depends on is pinned by its
// own go.sum.
type module struct {
	path, version, sum string
}

var (
	kubernetes   = module{"k8s.io/kubernetes", "v1.36.3", "h1:qDQdoMiluAE2Eab6Fa52YV+WjiGz9mZFFoagEA6cI+o="}
	containerd   = module{"github.com/containerd/containerd/v2", "v2.4.2", "h1:p6Qg+xbEz8lvwdhHDx0U469xENvp4LgGBx+E7djXkGw="}
	runc         = module{"github.com/opencontainers/runc", "v1.5.2", "h1:eUUowc2WJCnFYzI87C1WqRcu356Dk/wsoi90y+2wEfE="}
	cniPlugins   = module{"github.com/containernetworking/plugins", "v1.9.1", "h1:8oU6WsIsU3bpnNZuvHp74a6cE1MJwbj2P7s4/yTUNlA="}
	coreDNS      = module{"github.com/coredns/coredns", "v1.15.0", "h1:OBT+OEyHVdUiVxPhrNlC5XZVq3RkSxzQXfZQ76gm5ck="}
	helm         = module{"helm.sh/helm/v4", "v4.2.4", "h1:qIysMI0JpTC4WXf3AQ99V6rZGT0+gO0Ww8IOnnUnaZk="}
	localPath    = module{"github.com/rancher/local-path-provisioner", "v0.0.30", "h1:OkiuofkCSscddl7tma/B9Ox1wu+JEVSrP7IcZI65Ggo="}
	metrics      = module{"sigs.k8s.io/metrics-server", "v0.9.0", "h1:nlqqZ2H0Xfko8eJC/1qaNVVT17hu4rxndkOi22KTZ4w="}
	golangciLint = module{"github.com/golangci/golangci-lint/v2", "v2.15.0", "h1:w94zf8HAYI7hm3164kwKsvZRuqXvY+YxeFoTbu1OLg8="}
	// controller-tools 0.21 is the line that is made for Kubernetes 1.36.
	controllerTools = module{"sigs.k8s.io/controller-tools", "v0.21.0", "h1:KXDQza3bgjlPY6xLR63tI/40gzjhyUAvkCrwzd2/6cs="}
)

// table holds every program that is not ours, the longest build first: what
// fails should fail soon, and what takes long should not come as a surprise at
// the end. The linker flags set the versions as each upstream's Makefile does.
var table = slices.Concat(
	[]program{
		{name: hyperkubeName, from: nested{dir: hyperkubeName, module: kubernetes}, links: []string{"kubectl"}, large: true},
	},
	containerdPrograms("containerd", "containerd-shim-runc-v2", "ctr"),
	[]program{
		{
			name: "runc",
			from: upstream{
				module: runc, pkg: ".", cgo: true, pie: true,
				// Without seccomp, pods with a seccomp profile fail. Static, as
				// upstream's releases, so that it runs wherever the node is.
				tags:    "seccomp netgo osusergo",
				ldflags: "-s -w -linkmode external -extldflags -static-pie",
			},
			packages: []string{"gcc", "libc6-dev", "libseccomp-dev", "pkg-config"},
		},
		{name: pauseName, from: pauseC{module: kubernetes, imageVersion: "v3.10.1"}, packages: []string{"gcc", "libc6-dev"}},
		{name: busyboxName, from: debian{pkg: "busybox-static", file: "bin/busybox"}},
	},
	cniPrograms("bridge:main", "host-local:ipam", "loopback:main", "portmap:meta", "ptp:main"),
	[]program{
		// What Kubernetes tests itself with, for our tests: HTTP, UDP and SCTP servers,
		// admission webhooks, clients in the cluster.
		{name: "agnhost", from: nested{dir: hyperkubeName, module: kubernetes, tool: "k8s.io/kubernetes/test/images/agnhost"}},
		// An API server to aggregate.
		{name: "sample-apiserver", from: nested{dir: hyperkubeName, module: kubernetes, tool: "k8s.io/sample-apiserver"}},
		{name: "helm", from: upstream{module: helm, pkg: "cmd/helm", ldflags: "-s -w -X helm.sh/helm/v4/internal/version.version={version} -X helm.sh/helm/v4/internal/version.gitTreeState=clean"}},
		{name: "coredns", from: upstream{module: coreDNS, pkg: ".", ldflags: "-s -w"}},
		{name: "local-path-provisioner", from: upstream{module: localPath, pkg: ".", ldflags: "-s -w -X main.VERSION={version}"}},
		{name: "metrics-server", from: upstream{module: metrics, pkg: "cmd/metrics-server", ldflags: "-s -w -X k8s.io/client-go/pkg/version.gitVersion={version}"}},
		{name: "golangci-lint", tool: true, from: upstream{module: golangciLint, pkg: "cmd/golangci-lint", ldflags: "-s -w -X main.version={version} -X main.date=unknown"}},
		{name: "controller-gen", tool: true, from: upstream{module: controllerTools, pkg: "cmd/controller-gen", ldflags: "-s -w -X sigs.k8s.io/controller-tools/pkg/version.version={version}"}},
	},
)

func containerdPrograms(names ...string) []program {
	programs := make([]program, 0, len(names))
	for _, name := range names {
		programs = append(programs, program{name: name, from: upstream{
			module:  containerd,
			pkg:     "cmd/" + name,
			tags:    "urfave_cli_no_docs netgo osusergo static_build",
			ldflags: "-s -w -X github.com/containerd/containerd/v2/version.Version={version}",
		}})
	}
	return programs
}

// cniPrograms returns the CNI plugins given as name:kind.
func cniPrograms(plugins ...string) []program {
	programs := make([]program, 0, len(plugins))
	for _, plugin := range plugins {
		name, kind, _ := strings.Cut(plugin, ":")
		programs = append(programs, program{name: name, dir: cniDir, from: upstream{
			module:  cniPlugins,
			pkg:     "plugins/" + kind + "/" + name,
			ldflags: "-s -w -X github.com/containernetworking/plugins/pkg/utils/buildversion.BuildVersion={version}",
		}})
	}
	return programs
}
