// Package layout says where the embedded super cluster keeps what: every path,
// name and address that more than one package of local/ must agree on.
package layout

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// Fixed names on the machine. They are the same for every work tree, because two
// embedded super clusters cannot run side by side: they would share the bridge
// and its addresses. OwnerFile says whose the running one is.
const (
	// RuntimeDir holds sockets and namespaces: paths of unix sockets are limited
	// to 107 bytes, so they cannot live below an arbitrarily deep work tree.
	RuntimeDir = "/run/bulkhead-local"
	// NetnsDir is where iproute2 keeps named network namespaces.
	NetnsDir = "/run/netns"
	// Bridge joins the nodes and the machine itself.
	Bridge = "bh0"
	// FirewallTable is our table in nftables' inet family.
	FirewallTable = "bulkhead_local"
	// CgroupRoot is the cgroup below which every process of ours runs, relative
	// to the mount point of each hierarchy.
	CgroupRoot = "bulkhead-local"
)

// Ports of the super control plane.
const (
	APIServerPort = 6443
	EtcdPort      = 2379
	EtcdPeerPort  = 2380
	RegistryPort  = 5000
)

// Layout is the work tree and what lies below it.
type Layout struct {
	// Root is the top of the work tree: an absolute path without symbolic links.
	Root string
}

// Find returns the layout of the work tree that dir is in: the nearest folder at
// or above dir with the project's go.mod.
func Find(dir string) (Layout, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return Layout{}, err
	}
	if dir, err = filepath.EvalSymlinks(dir); err != nil {
		return Layout{}, err
	}
	for at := dir; ; at = filepath.Dir(at) {
		data, err := os.ReadFile(filepath.Join(at, "go.mod"))
		if err == nil && strings.HasPrefix(string(data), "module github.com/bulkhead-dev/bulkhead\n") {
			return Layout{Root: at}, nil
		}
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return Layout{}, err
		}
		if at == filepath.Dir(at) {
			return Layout{}, fmt.Errorf("%s is not inside a Bulkhead work tree: change to the folder with its go.mod, or give --root", dir)
		}
	}
}

// Bin is the folder of built programs; it outlives the cluster.
func (l Layout) Bin() string { return filepath.Join(l.Root, "bin") }

// LocalProgram is the copy of this program that outlives `go run`.
func (l Layout) LocalProgram() string { return filepath.Join(l.Bin(), "local") }

// State is the folder of everything that Down removes.
func (l Layout) State() string { return filepath.Join(l.Root, ".local") }

// PKI is the folder of the super cluster's certificates.
func (l Layout) PKI() string { return filepath.Join(l.State(), "pki") }

// Etcd is the data folder of the super cluster's etcd.
func (l Layout) Etcd() string { return filepath.Join(l.State(), "etcd") }

// Images is the OCI layout that the registry serves.
func (l Layout) Images() string { return filepath.Join(l.State(), "images") }

// Logs is the folder of all logs.
func (l Layout) Logs() string { return filepath.Join(l.State(), "log") }

// Services is the folder with what is known of each supervised process.
func (l Layout) Services() string { return filepath.Join(l.State(), "run") }

// Config is the folder of the control plane's configuration files.
func (l Layout) Config() string { return filepath.Join(l.State(), "config") }

// SuperKubeconfig is the administrator's kubeconfig of the super cluster.
func (l Layout) SuperKubeconfig() string { return filepath.Join(l.State(), "super.kubeconfig") }

// SettingsFile keeps the addresses that the cluster was made with.
func (l Layout) SettingsFile() string { return filepath.Join(l.State(), "settings.json") }

// SysctlFile keeps the kernel settings as they were before the first Up. Like what
// it undoes it belongs to the machine: it must outlive a deleted work tree.
func SysctlFile() string { return filepath.Join(RuntimeDir, "sysctl.json") }

// OwnerFile holds the root of the work tree whose cluster runs on this machine.
func OwnerFile() string { return filepath.Join(RuntimeDir, "owner") }

// NodeDir is the folder of one node's state.
func (l Layout) NodeDir(node string) string { return filepath.Join(l.State(), "nodes", node) }

// Netns is the path of a node's network namespace.
func Netns(node string) string { return filepath.Join(NetnsDir, "bh-"+node) }

// Mountns is the path of a node's mount namespace.
func Mountns(node string) string { return filepath.Join(RuntimeDir, "mountns", node) }

// Paths inside a node's mount namespace. They are the same on each node and
// whatever folder the work tree is in.
const (
	// NodeBin is bin/ as a node sees it.
	NodeBin = "/run/bulkhead/bin"
	// NodeCNI is the folder of CNI plugins as a node sees it.
	NodeCNI = "/run/bulkhead/cni"
	// NodeConfig is the node's configuration files and certificates.
	NodeConfig = "/run/bulkhead/config"
	// NodeVolumes is where the storage provisioner makes volumes.
	NodeVolumes = "/var/local-path-provisioner"
)
