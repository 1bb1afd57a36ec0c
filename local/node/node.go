// Package node runs the nodes of the embedded super cluster: for each a
// containerd, a cri-ext, a kubelet and a kube-proxy in namespaces of its own.
package node

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/bulkhead-dev/bulkhead/local/layout"
	"github.com/bulkhead-dev/bulkhead/local/namespace"
	"github.com/bulkhead-dev/bulkhead/local/process"
	"github.com/bulkhead-dev/bulkhead/local/superplane"
)

// The programs of a node. A node's services are named NODE-PROGRAM.
const (
	containerd = "containerd"
	criExt     = "cri-ext"
	kubelet    = "kubelet"
	kubeProxy  = "kube-proxy"
)

// readyTimeout is how long a node's program may take to be ready.
const readyTimeout = 60 * time.Second

// Node is one node and what its programs need to know.
type Node struct {
	layout.Node
	layout      layout.Layout
	settings    layout.Settings
	cni         string // the machine's folder of CNI plugins
	restrictOOM bool
}

// All returns the nodes of the cluster. cni is the folder with the CNI plugins.
func All(l layout.Layout, s layout.Settings, cni string) ([]Node, error) {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return nil, err
	}
	var nodes []Node
	for _, n := range s.NodeList() {
		nodes = append(nodes, Node{Node: n, layout: l, settings: s, cni: cni, restrictOOM: !mayLowerOOMScore(string(status))})
	}
	return nodes, nil
}

// ServiceNames lists the names of a node's services in the order that they start in.
func ServiceNames(node string) []string {
	return []string{node + "-" + containerd, node + "-" + criExt, node + "-" + kubelet, node + "-" + kubeProxy}
}

func (n Node) config() string { return filepath.Join(n.layout.NodeDir(n.Name), "config") }

func (n Node) serviceCgroup(program string) string {
	return filepath.Join(layout.CgroupRoot, "services", n.Name+"-"+program)
}

func (n Node) podCgroup() string { return filepath.Join(layout.CgroupRoot, n.Name) }

func (n Node) shimCgroup() string { return filepath.Join(layout.CgroupRoot, "shims", n.Name) }

// Up makes sure that the node's programs run as configured, and waits until
// containerd and the kubelet answer. Nothing that runs as it should is touched.
func (n Node) Up(ctx context.Context, a *superplane.Authorities, m process.Manager) error {
	if err := n.makeSources(); err != nil {
		return fmt.Errorf("%s: %w", n.Name, err)
	}
	if err := n.writeConfig(a); err != nil {
		return fmt.Errorf("configuring %s: %w", n.Name, err)
	}
	if err := n.ensureMounts(); err != nil {
		return fmt.Errorf("%s: %w", n.Name, err)
	}
	hierarchies, err := process.FindHierarchies()
	if err != nil {
		return err
	}
	for _, cgroup := range []string{n.podCgroup(), n.shimCgroup()} {
		if err := hierarchies.Make(cgroup); err != nil {
			return fmt.Errorf("%s: %w", n.Name, err)
		}
	}
	containerd := n.containerd()
	if err := m.Ensure(ctx, containerd); err != nil {
		return err
	}
	if err := m.Await(ctx, containerd.Name, readyTimeout, n.listening(containerdSocket)); err != nil {
		return err
	}
	criExt := n.criExt()
	if err := m.Ensure(ctx, criExt); err != nil {
		return err
	}
	// The kubelet gives up at once when it does not find its runtime.
	if err := m.Await(ctx, criExt.Name, readyTimeout, n.listening(criSocket)); err != nil {
		return err
	}
	kubelet := n.kubelet()
	if err := m.Ensure(ctx, kubelet); err != nil {
		return err
	}
	if err := m.Ensure(ctx, n.kubeProxy()); err != nil {
		return err
	}
	return m.Await(ctx, kubelet.Name, readyTimeout, n.kubeletReady)
}

// listening tells whether somebody listens on a socket of the node.
func (n Node) listening(socket string) func(context.Context) error {
	return func(context.Context) error {
		return namespace.Do(namespace.Mount, layout.Mountns(n.Name), func() error {
			conn, err := net.DialTimeout("unix", socket, time.Second)
			if err != nil {
				return err
			}
			return conn.Close()
		})
	}
}

func (n Node) kubeletReady(ctx context.Context) error {
	return namespace.Do(namespace.Net, layout.Netns(n.Name), func() error {
		// Dialled here, on the thread that is in the namespace: the client would
		// dial on another.
		conn, err := net.DialTimeout("tcp", "127.0.0.1:10248", time.Second)
		if err != nil {
			return err
		}
		client := http.Client{Timeout: 2 * time.Second, Transport: &http.Transport{
			DialContext: func(context.Context, string, string) (net.Conn, error) { return conn, nil },
		}}
		defer client.CloseIdleConnections()
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://127.0.0.1:10248/healthz", nil)
		if err != nil {
			return errors.Join(err, conn.Close())
		}
		resp, err := client.Do(req)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			return fmt.Errorf("kubelet's health: %s", resp.Status)
		}
		return nil
	})
}
