package node

import (
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/bulkhead-dev/bulkhead/local/layout"
	"github.com/bulkhead-dev/bulkhead/local/process"
)

// Sockets of a node, as the node sees them.
const (
	containerdSocket = "/run/containerd/containerd.sock"
	criSocket        = "/run/cri-ext-host/cri.sock"
)

// service describes one of the node's programs. args begin with the program as
// the node sees it; binary and inputs are paths of the machine.
func (n Node) service(program, binary string, inputs []string, args ...string) process.Service {
	files := []string{filepath.Join(n.layout.Bin(), binary)}
	for _, input := range inputs {
		files = append(files, filepath.Join(n.config(), input))
	}
	// nsenter by path, and not `ip netns exec`: that one mounts a new /sys, which
	// hides the cgroups. nsenter replaces itself by the program.
	enter := []string{
		"/usr/bin/nsenter", "--net=" + layout.Netns(n.Name), "--mount=" + layout.Mountns(n.Name), "--wdns=/", "--",
		filepath.Join(layout.NodeBin, binary),
	}
	return process.Service{
		Name:        n.Name + "-" + program,
		Command:     append(enter, args...),
		Env:         []string{"PATH=" + layout.NodeBin + ":/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root"},
		Inputs:      files,
		Cgroup:      n.serviceCgroup(program),
		Log:         filepath.Join(n.layout.Logs(), n.Name+"-"+program+".log"),
		StopTimeout: 15 * time.Second,
	}
}

func (n Node) containerd() process.Service {
	s := n.service(containerd, "containerd", []string{"containerd.toml"}, "--config="+layout.NodeConfig+"/containerd.toml")
	s.Env = append(s.Env, n.proxyEnvironment(os.Getenv)...)
	return s
}

// criExt stands between kubelet and containerd.
func (n Node) criExt() process.Service {
	return n.service(criExt, "cri-ext", nil,
		"serve",
		"--listen=unix://"+criSocket,
		"--runtime=unix://"+containerdSocket)
}

func (n Node) kubelet() process.Service {
	return n.service(kubelet, "hyperkube", []string{"kubelet.yaml", "kubelet.crt", "ca.crt", "kubelet.kubeconfig"},
		"kubelet",
		"--config="+layout.NodeConfig+"/kubelet.yaml",
		"--kubeconfig="+layout.NodeConfig+"/kubelet.kubeconfig",
		"--hostname-override="+n.Name,
		"--node-ip="+n.IP.String())
}

func (n Node) kubeProxy() process.Service {
	return n.service(kubeProxy, "hyperkube", []string{"kube-proxy.yaml", "kube-proxy.kubeconfig"},
		"kube-proxy",
		"--config="+layout.NodeConfig+"/kube-proxy.yaml")
}

// proxyEnvironment passes the user's proxy settings on to what pulls images, with
// the cluster's own networks left out.
func (n Node) proxyEnvironment(getenv func(string) string) []string {
	var env []string
	for _, name := range []string{"HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"} {
		if value := getenv(name); value != "" {
			env = append(env, name+"="+value)
		}
	}
	if len(env) == 0 {
		return nil
	}
	direct := []string{n.settings.NodeCIDR.String(), n.settings.ServiceCIDR.String(), n.settings.PodCIDR.String()}
	for _, name := range []string{"NO_PROXY", "no_proxy"} {
		if value := getenv(name); value != "" {
			direct = append(direct, value)
			break
		}
	}
	return append(env, "NO_PROXY="+strings.Join(direct, ","))
}

// ContainerdName is the name of a node's containerd service.
func ContainerdName(node string) string { return node + "-" + containerd }
