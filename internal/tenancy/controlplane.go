package tenancy

import "net/netip"

// Objects in a tenant's control-plane namespace that more than one component
// refers to. vc-manager makes them all.
const (
	// APIServerService is the Service in front of the tenant's kube-apiserver.
	APIServerService = "kube-apiserver"
	// APIServerPort is that Service's port.
	APIServerPort = 6443

	// AdminKubeconfigSecret holds the tenant's own admin kubeconfig, for use from
	// outside the super cluster.
	AdminKubeconfigSecret = "admin-kubeconfig"
	// SyncerKubeconfigSecret holds what the syncer may do in the tenant's cluster.
	SyncerKubeconfigSecret = "syncer-kubeconfig"
	// VNAgentKubeconfigSecret holds what vn-agent needs to serve the tenant: a
	// kubeconfig that may ask for access reviews, and under KubeletClientCAKey the
	// CA that signs the certificates the tenant's control plane shows to kubelets.
	VNAgentKubeconfigSecret = "vn-agent-kubeconfig"

	// TenantProxyKubeconfigSecret holds what tenant-proxy needs to compile the
	// tenant's rules: a kubeconfig that may read Services and what stands behind
	// them, and under ServiceCIDRKey the range that their addresses come from.
	TenantProxyKubeconfigSecret = "tenant-proxy-kubeconfig"

	// KubeconfigKey is the key of the kubeconfig in these Secrets.
	KubeconfigKey = "kubeconfig"
	// KubeletClientCAKey is the key of the PEM bundle in VNAgentKubeconfigSecret.
	KubeletClientCAKey = "kubelet-client-ca.crt"
	// ServiceCIDRKey is the key of the service range in TenantProxyKubeconfigSecret:
	// networks in CIDR notation, separated by commas.
	ServiceCIDRKey = "service-cidr"
)

// VNAgentPort is the port vn-agent listens on, on every node.
const VNAgentPort = 10550

// VNAgentServingSigner is the signer name of vn-agent's serving certificates:
// vc-manager approves and signs them, each tenant's apiserver trusts its CA.
const VNAgentServingSigner = Domain + "/vn-agent-serving"

// Users that the platform's components are in a tenant's cluster.
const (
	UserSyncer      = "bulkhead:syncer"
	UserVNAgent     = "bulkhead:vn-agent"
	UserTenantProxy = "bulkhead:tenant-proxy"
	UserAdmin       = "kubernetes-admin"
)

// dnsOffset is the place of the DNS Service in the service range, as kubeadm has it.
const dnsOffset = 10

// DNSAddress is where a tenant's DNS Service is by convention: the tenth address of
// its service range.
func DNSAddress(serviceCIDR netip.Prefix) netip.Addr {
	address := serviceCIDR.Masked().Addr()
	for range dnsOffset {
		address = address.Next()
	}
	return address
}
