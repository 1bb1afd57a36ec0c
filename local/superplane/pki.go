package superplane

import (
	"fmt"
	"path/filepath"

	"github.com/bulkhead-dev/bulkhead/internal/pki"
	"github.com/bulkhead-dev/bulkhead/local/layout"
)

// frontProxyName is the name that aggregated apiservers know the apiserver by.
const frontProxyName = "front-proxy-client"

// KubeletClientName is the user that the apiserver is towards kubelets; the
// addon "kubelet-access" gives it its rights.
const KubeletClientName = "kube-apiserver-kubelet-client"

// RegistryClient is the certificate that containerd shows to the image registry.
var RegistryClient = pki.Leaf{CommonName: "containerd", Usage: pki.Client}

// Certify issues all certificates and kubeconfigs of the super control plane.
func Certify(l layout.Layout, s layout.Settings) (*Authorities, error) {
	a, err := LoadAuthorities(l.PKI())
	if err != nil {
		return nil, err
	}
	host := s.HostIP().String()
	leaves := []struct {
		name string
		ca   *pki.CA
		leaf pki.Leaf
	}{
		{"etcd", a.Etcd, pki.Leaf{CommonName: "etcd", Hosts: []string{"localhost", "127.0.0.1"}, Usage: pki.Peer}},
		{"apiserver-etcd-client", a.Etcd, pki.Leaf{CommonName: "kube-apiserver", Usage: pki.Client}},
		{"apiserver", a.Cluster, pki.Leaf{CommonName: "kube-apiserver", Usage: pki.Server, Hosts: []string{
			"kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc." + layout.ClusterDomain,
			host, s.APIServiceIP().String(),
		}}},
		{"apiserver-kubelet-client", a.Cluster, pki.Leaf{CommonName: KubeletClientName, Usage: pki.Client}},
		{"front-proxy-client", a.FrontProxy, pki.Leaf{CommonName: frontProxyName, Usage: pki.Client}},
		{"controller-manager", a.Cluster, pki.Leaf{CommonName: "kube-controller-manager", Hosts: []string{"localhost", "127.0.0.1"}, Usage: pki.Server}},
		{"scheduler", a.Cluster, pki.Leaf{CommonName: "kube-scheduler", Hosts: []string{"localhost", "127.0.0.1"}, Usage: pki.Server}},
		{"registry", a.Registry, pki.Leaf{CommonName: "registry", Hosts: []string{host}, Usage: pki.Server}},
	}
	for _, c := range leaves {
		if _, err := Issue(l.PKI(), c.name, c.ca, c.leaf); err != nil {
			return nil, fmt.Errorf("certificate %s: %w", c.name, err)
		}
	}
	for file, leaf := range map[string]pki.Leaf{
		l.SuperKubeconfig(): {CommonName: "super-admin", Organizations: []string{"system:masters"}},
		filepath.Join(l.PKI(), "controller-manager.kubeconfig"): {CommonName: "system:kube-controller-manager"},
		filepath.Join(l.PKI(), "scheduler.kubeconfig"):          {CommonName: "system:kube-scheduler"},
	} {
		if err := a.IssueKubeconfig(l.PKI(), file, s, leaf); err != nil {
			return nil, fmt.Errorf("kubeconfig %s: %w", file, err)
		}
	}
	return a, nil
}
