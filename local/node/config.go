package node

import (
	"bytes"
	"embed"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"text/template"

	"github.com/bulkhead-dev/bulkhead/internal/pki"
	"github.com/bulkhead-dev/bulkhead/local/layout"
	"github.com/bulkhead-dev/bulkhead/local/process"
	"github.com/bulkhead-dev/bulkhead/local/superplane"
)

//go:embed templates
var templates embed.FS

var configTemplates = template.Must(template.ParseFS(templates, "templates/*.tmpl"))

// values are what the templates are filled with.
type values struct {
	Node             layout.Node
	PodCIDR          string // of all nodes
	DNS              string
	Domain           string
	Bin, CNI, Config string
	CgroupRoot       string
	KubeletCgroup    string
	ShimCgroup       string
	Sandbox          string
	RestrictOOM      bool
	Runtime          string // the socket that the kubelet takes for its runtime's
	Registry         string
	Upstream         string // the registry that a hosts.toml stands before; empty for our own
}

// mirrored maps the registries that ours stands before to where each really is.
// Our own images are nowhere else.
var mirrored = map[string]string{
	"docker.io":             "https://registry-1.docker.io",
	"registry.k8s.io":       "https://registry.k8s.io",
	"ghcr.io":               "https://ghcr.io",
	"quay.io":               "https://quay.io",
	"registry.bulkhead.dev": "",
}

// SandboxImage is the image of the container that holds a pod's namespaces.
const SandboxImage = "registry.k8s.io/pause:3.10.1"

func (n Node) values() values {
	return values{
		Node:          n.Node,
		PodCIDR:       n.settings.PodCIDR.String(),
		DNS:           n.settings.DNSServiceIP().String(),
		Domain:        layout.ClusterDomain,
		Bin:           layout.NodeBin,
		CNI:           layout.NodeCNI,
		Config:        layout.NodeConfig,
		CgroupRoot:    "/" + n.podCgroup(),
		KubeletCgroup: "/" + n.serviceCgroup(kubelet),
		ShimCgroup:    "/" + n.shimCgroup(),
		Sandbox:       SandboxImage,
		RestrictOOM:   n.restrictOOM,
		Runtime:       criSocket,
		Registry:      n.settings.RegistryAddress(),
	}
}

// render fills in all configuration files; the keys are paths below the node's
// configuration folder.
func (n Node) render() (map[string]string, error) {
	files := map[string]string{}
	fill := func(path, name string, v values) error {
		var out bytes.Buffer
		if err := configTemplates.ExecuteTemplate(&out, name, v); err != nil {
			return err
		}
		files[path] = out.String()
		return nil
	}
	v := n.values()
	for path, name := range map[string]string{
		"containerd.toml":          "containerd.toml.tmpl",
		"kubelet.yaml":             "kubelet.yaml.tmpl",
		"kube-proxy.yaml":          "kube-proxy.yaml.tmpl",
		"cni/10-bulkhead.conflist": "cni.conflist.tmpl",
	} {
		if err := fill(path, name, v); err != nil {
			return nil, err
		}
	}
	for registry, upstream := range mirrored {
		v.Upstream = upstream
		if err := fill(filepath.Join("certs.d", registry, "hosts.toml"), "hosts.toml.tmpl", v); err != nil {
			return nil, err
		}
	}
	return files, nil
}

// writeConfig writes the node's configuration files, certificates and kubeconfigs.
func (n Node) writeConfig(a *superplane.Authorities) error {
	files, err := n.render()
	if err != nil {
		return err
	}
	files["resolv.conf"] = upstreamResolver(resolverFiles)
	files["ca.crt"] = string(a.Cluster.Cert)
	files["registry-ca.crt"] = string(a.Registry.Cert)
	for name, content := range files {
		path := filepath.Join(n.config(), name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			return err
		}
		// A file that is mounted in the node must stay the same file.
		if have, err := os.ReadFile(path); err == nil && string(have) == content {
			continue
		}
		write := process.WriteFile
		if name == "resolv.conf" {
			write = os.WriteFile
		}
		if err := write(path, []byte(content), 0o644); err != nil {
			return err
		}
	}
	if _, err := superplane.Issue(n.config(), "kubelet", a.Cluster, pki.Leaf{
		CommonName: "system:node:" + n.Name, Organizations: []string{"system:nodes"},
		Hosts: []string{n.Name, n.IP.String()}, Usage: pki.Server,
	}); err != nil {
		return fmt.Errorf("kubelet's serving certificate: %w", err)
	}
	if _, err := superplane.Issue(n.config(), "registry-client", a.Registry, superplane.RegistryClient); err != nil {
		return fmt.Errorf("containerd's certificate for the registry: %w", err)
	}
	for name, leaf := range map[string]pki.Leaf{
		kubelet:   {CommonName: "system:node:" + n.Name, Organizations: []string{"system:nodes"}},
		kubeProxy: {CommonName: "system:kube-proxy"},
	} {
		file := filepath.Join(n.config(), name+".kubeconfig")
		if err := a.IssueKubeconfig(n.config(), file, n.settings, leaf); err != nil {
			return fmt.Errorf("%s's kubeconfig: %w", name, err)
		}
	}
	return nil
}

// mayLowerOOMScore tells whether this process may protect others from the kernel's
// out-of-memory killer, from the text of /proc/self/status.
func mayLowerOOMScore(status string) bool {
	const capSysResource = 24 // capabilities(7)
	for line := range strings.Lines(status) {
		if value, ok := strings.CutPrefix(line, "CapEff:"); ok {
			caps, err := strconv.ParseUint(strings.TrimSpace(value), 16, 64)
			return err == nil && caps&(1<<capSysResource) != 0
		}
	}
	return false
}
