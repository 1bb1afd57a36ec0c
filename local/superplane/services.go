// Package superplane runs the super cluster's control plane as processes of the
// machine: etcd, kube-apiserver, kube-controller-manager, kube-scheduler and the
// image registry beside them.
package superplane

import (
	"fmt"
	"net/netip"
	"path/filepath"

	"github.com/bulkhead-dev/bulkhead/local/layout"
	"github.com/bulkhead-dev/bulkhead/local/process"
)

// Names of the services.
const (
	Registry          = "registry"
	Etcd              = "etcd"
	APIServer         = "kube-apiserver"
	ControllerManager = "kube-controller-manager"
	Scheduler         = "kube-scheduler"
)

// Loopback ports of the programs that serve only health and metrics.
const (
	ControllerManagerPort = 10257
	SchedulerPort         = 10259
)

// builder makes service descriptions for one layout.
type builder struct {
	l layout.Layout
	s layout.Settings
}

func (b builder) pki(name string) string { return filepath.Join(b.l.PKI(), name) }

// hyperkube describes a service that runs one of hyperkube's programs. inputs are
// what it reads at start besides its binary.
func (b builder) hyperkube(name string, inputs []string, args ...string) process.Service {
	program := filepath.Join(b.l.Bin(), "hyperkube")
	return b.service(name, append([]string{program}, inputs...), append([]string{program, name}, args...)...)
}

func (b builder) service(name string, inputs []string, command ...string) process.Service {
	return process.Service{
		Name:    name,
		Command: command,
		Env:     []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/"},
		Inputs:  inputs,
		Cgroup:  filepath.Join(layout.CgroupRoot, "services", name),
		Log:     filepath.Join(b.l.Logs(), name+".log"),
	}
}

// files lists certificate files as inputs, for programs that read them once.
func (b builder) files(names ...string) []string {
	paths := make([]string, len(names))
	for i, name := range names {
		paths[i] = b.pki(name)
	}
	return paths
}

func (b builder) registry() process.Service {
	program := b.l.LocalProgram()
	return b.service(Registry, append([]string{program}, b.files("registry.crt", "registry-ca.crt")...),
		program, "registry",
		"--dir", b.l.Images(),
		"--address", b.s.RegistryAddress(),
		"--cert", b.pki("registry.crt"),
		"--key", b.pki("registry.key"),
		"--client-ca", b.pki("registry-ca.crt"))
}

func (b builder) etcd() process.Service {
	client := fmt.Sprintf("https://127.0.0.1:%d", layout.EtcdPort)
	peer := fmt.Sprintf("https://127.0.0.1:%d", layout.EtcdPeerPort)
	return b.hyperkube(Etcd, b.files("etcd.crt", "etcd-ca.crt"),
		"--name=super",
		"--data-dir="+b.l.Etcd(),
		"--listen-client-urls="+client,
		"--advertise-client-urls="+client,
		"--listen-peer-urls="+peer,
		"--initial-advertise-peer-urls="+peer,
		"--initial-cluster=super="+peer,
		"--client-cert-auth",
		"--trusted-ca-file="+b.pki("etcd-ca.crt"),
		"--cert-file="+b.pki("etcd.crt"),
		"--key-file="+b.pki("etcd.key"),
		"--peer-client-cert-auth",
		"--peer-trusted-ca-file="+b.pki("etcd-ca.crt"),
		"--peer-cert-file="+b.pki("etcd.crt"),
		"--peer-key-file="+b.pki("etcd.key"))
}

func (b builder) apiServer() process.Service {
	inputs := append(b.files("ca.crt", "apiserver.crt", "apiserver-etcd-client.crt", "apiserver-kubelet-client.crt",
		"front-proxy-client.crt", "service-account.crt"), b.authenticationFile())
	return b.hyperkube(APIServer, inputs,
		"--advertise-address="+b.s.HostIP().String(),
		"--bind-address="+b.s.HostIP().String(),
		fmt.Sprintf("--secure-port=%d", layout.APIServerPort),
		"--tls-cert-file="+b.pki("apiserver.crt"),
		"--tls-private-key-file="+b.pki("apiserver.key"),
		"--client-ca-file="+b.pki("ca.crt"),
		"--authentication-config="+b.authenticationFile(),
		"--authorization-mode=Node,RBAC",
		"--enable-admission-plugins=NodeRestriction",
		"--allow-privileged",
		fmt.Sprintf("--etcd-servers=https://127.0.0.1:%d", layout.EtcdPort),
		"--etcd-cafile="+b.pki("etcd-ca.crt"),
		"--etcd-certfile="+b.pki("apiserver-etcd-client.crt"),
		"--etcd-keyfile="+b.pki("apiserver-etcd-client.key"),
		"--kubelet-preferred-address-types=InternalIP",
		"--kubelet-certificate-authority="+b.pki("ca.crt"),
		"--kubelet-client-certificate="+b.pki("apiserver-kubelet-client.crt"),
		"--kubelet-client-key="+b.pki("apiserver-kubelet-client.key"),
		"--requestheader-client-ca-file="+b.pki("front-proxy-ca.crt"),
		"--requestheader-allowed-names="+frontProxyName,
		"--requestheader-username-headers=X-Remote-User",
		"--requestheader-group-headers=X-Remote-Group",
		"--requestheader-extra-headers-prefix=X-Remote-Extra-",
		"--proxy-client-cert-file="+b.pki("front-proxy-client.crt"),
		"--proxy-client-key-file="+b.pki("front-proxy-client.key"),
		// The apiserver is no node and has no kube-proxy: it calls webhooks and
		// aggregated apiservers at their pods' addresses.
		"--enable-aggregator-routing",
		"--service-account-issuer=https://kubernetes.default.svc."+layout.ClusterDomain,
		"--service-account-key-file="+b.pki("service-account.crt"),
		"--service-account-signing-key-file="+b.pki("service-account.key"),
		"--service-cluster-ip-range="+b.s.ServiceCIDR.String(),
		"--profiling=false")
}

func (b builder) controllerManager() process.Service {
	kubeconfig := b.pki("controller-manager.kubeconfig")
	return b.hyperkube(ControllerManager,
		append(b.files("ca.crt", "controller-manager.crt", "service-account.crt"), kubeconfig),
		"--kubeconfig="+kubeconfig,
		"--authentication-kubeconfig="+kubeconfig,
		"--authorization-kubeconfig="+kubeconfig,
		"--bind-address=127.0.0.1",
		fmt.Sprintf("--secure-port=%d", ControllerManagerPort),
		"--tls-cert-file="+b.pki("controller-manager.crt"),
		"--tls-private-key-file="+b.pki("controller-manager.key"),
		"--client-ca-file="+b.pki("ca.crt"),
		"--requestheader-client-ca-file="+b.pki("front-proxy-ca.crt"),
		"--cluster-name=bulkhead-local",
		"--cluster-signing-cert-file="+b.pki("ca.crt"),
		"--cluster-signing-key-file="+b.pki("ca.key"),
		"--root-ca-file="+b.pki("ca.crt"),
		"--service-account-private-key-file="+b.pki("service-account.key"),
		"--use-service-account-credentials",
		"--service-cluster-ip-range="+b.s.ServiceCIDR.String(),
		// The networks of the nodes are fixed, see layout.Node.
		"--allocate-node-cidrs=false",
		"--leader-elect=false",
		// Many tenants' control planes start through these clients.
		"--kube-api-qps=200",
		"--kube-api-burst=400",
		"--profiling=false")
}

func (b builder) scheduler() process.Service {
	kubeconfig := b.pki("scheduler.kubeconfig")
	return b.hyperkube(Scheduler,
		append(b.files("ca.crt", "scheduler.crt"), kubeconfig, b.schedulerFile()),
		"--config="+b.schedulerFile(),
		"--authentication-kubeconfig="+kubeconfig,
		"--authorization-kubeconfig="+kubeconfig,
		"--bind-address=127.0.0.1",
		fmt.Sprintf("--secure-port=%d", SchedulerPort),
		"--tls-cert-file="+b.pki("scheduler.crt"),
		"--tls-private-key-file="+b.pki("scheduler.key"),
		"--client-ca-file="+b.pki("ca.crt"),
		"--requestheader-client-ca-file="+b.pki("front-proxy-ca.crt"))
}

// Port is an address that a service listens on.
type Port struct {
	Service string
	Address netip.AddrPort
}

// Ports lists where the control plane listens.
func Ports(s layout.Settings) []Port {
	loopback := netip.AddrFrom4([4]byte{127, 0, 0, 1})
	return []Port{
		{Registry, netip.AddrPortFrom(s.HostIP(), layout.RegistryPort)},
		{Etcd, netip.AddrPortFrom(loopback, layout.EtcdPort)},
		{Etcd, netip.AddrPortFrom(loopback, layout.EtcdPeerPort)},
		{APIServer, netip.AddrPortFrom(s.HostIP(), layout.APIServerPort)},
		{ControllerManager, netip.AddrPortFrom(loopback, ControllerManagerPort)},
		{Scheduler, netip.AddrPortFrom(loopback, SchedulerPort)},
	}
}
