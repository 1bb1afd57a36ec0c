// Package certificates says which keys and certificates a virtual cluster has, and
// keeps them current. The table in this file is the place to change a name, a
// group, a host or a lifetime.
package certificates

import (
	"net/netip"
	"time"

	"github.com/bulkhead-dev/bulkhead/internal/pki"
	"github.com/bulkhead-dev/bulkhead/internal/tenancy"
)

// Authorities, by the Secrets that hold them. They are made once in the life of a
// virtual cluster and never again.
const (
	// ClusterCA signs the serving certificate of the apiserver and the client
	// certificates of the tenant's users; the tenant's controller-manager signs
	// CertificateSigningRequests with it.
	ClusterCA = "cluster-ca"
	// FrontProxyCA signs the certificate by which aggregated API servers know the
	// apiserver. Nothing else may be signed by it: its holder may act as anybody.
	FrontProxyCA = "front-proxy-ca"
	// EtcdCA signs what may talk to etcd.
	EtcdCA = "etcd-ca"
	// KubeletClientCA signs what the control plane shows to vn-agent. It is none of
	// the above, so that no certificate which a tenant can have signed opens vn-agent.
	KubeletClientCA = "kubelet-client-ca"
	// ServiceAccountKey signs and verifies the tenant's service account tokens.
	ServiceAccountKey = "service-account-key"
)

// Secrets with a certificate in the keys tls.crt, tls.key and ca.crt.
const (
	EtcdServer                 = "etcd-server"
	EtcdPeer                   = "etcd-peer"
	APIServerEtcdClient        = "kube-apiserver-etcd-client"
	APIServerServing           = "kube-apiserver-serving"
	APIServerKubeletClient     = "kube-apiserver-kubelet-client"
	FrontProxyClient           = "front-proxy-client"
	ControllerManagerServing   = "kube-controller-manager-serving"
	SchedulerServing           = "kube-scheduler-serving"
	MetricsServerServing       = "metrics-server-serving"
	MetricsServerKubeletClient = "metrics-server-kubelet-client"
)

// Secrets with a kubeconfig in the key tenancy.KubeconfigKey, besides those that
// package tenancy names.
const (
	ManagerKubeconfig           = "vc-manager-kubeconfig"
	ControllerManagerKubeconfig = "kube-controller-manager-kubeconfig"
	SchedulerKubeconfig         = "kube-scheduler-kubeconfig"
	MetricsServerKubeconfig     = "metrics-server-kubeconfig"
)

// Common names and groups that others refer to.
const (
	// EtcdPeerName is the only common name etcd members accept of each other.
	EtcdPeerName = "etcd-peer"
	// FrontProxyName is the only common name requests with X-Remote headers may come from.
	FrontProxyName = "front-proxy-client"
	// UserManager is vc-manager in the tenant's cluster.
	UserManager = "bulkhead:vc-manager"
	// UserMetricsServer is metrics-server, in the tenant's cluster and to vn-agent.
	UserMetricsServer = "bulkhead:metrics-server"
	// GroupAdmins are the holders of the tenant's admin kubeconfig. It is bound to
	// cluster-admin in the tenant's cluster, rather than being system:masters, so
	// that a kubeconfig that leaked can be made worthless.
	GroupAdmins = "bulkhead:cluster-admins"

	groupMasters = "system:masters"
)

// Lifetimes. A certificate is renewed when a third of it is left; see package pki,
// which also has the lifetime of authorities.
const (
	servingLifetime = pki.LeafValidity
	clientLifetime  = pki.LeafValidity
)

// Cluster is what the certificates of a virtual cluster depend on.
type Cluster struct {
	Tenant tenancy.Tenant
	// SuperDomain is the DNS domain of the super cluster's Services, ClusterDomain
	// that of the tenant's.
	SuperDomain, ClusterDomain string
	// ServiceCIDR of the tenant; its first address is the apiserver's.
	ServiceCIDR netip.Prefix
	// Hosts are further names and addresses of the apiserver.
	Hosts []string
	// InCluster and External are URLs of the apiserver. While External is empty,
	// kubeconfigs for it are not written.
	InCluster, External string
	// Scheduler and MetricsServer say whether there is one.
	Scheduler, MetricsServer bool
}

// certificate is one row of the table: one Secret.
type certificate struct {
	secret    string
	authority string
	user      string
	groups    []string
	hosts     []string
	usage     pki.Usage
	lifetime  time.Duration
	// server makes the Secret hold a kubeconfig for that URL, in place of the
	// bare certificate.
	kubeconfig bool
	server     string
}

// authorities is the table of what signs, in the order of creation.
func authorities(c Cluster) []certificate {
	// The UID tells the authorities of tenants apart and keeps within the 64
	// characters that X.520 allows for a common name; a tenant's name may not.
	name := func(role string) string { return role + " " + string(c.Tenant.UID) }
	return []certificate{
		{secret: ClusterCA, user: name("cluster CA")},
		{secret: FrontProxyCA, user: name("front proxy CA")},
		{secret: EtcdCA, user: name("etcd CA")},
		{secret: KubeletClientCA, user: name("kubelet client CA")},
		{secret: ServiceAccountKey},
	}
}

// leaves is the table of what is signed.
func leaves(c Cluster) []certificate {
	serving := func(secret, authority, name string, usage pki.Usage, hosts ...string) certificate {
		return certificate{secret: secret, authority: authority, user: name, hosts: hosts, usage: usage, lifetime: servingLifetime}
	}
	client := func(secret, authority, user string, groups ...string) certificate {
		return certificate{secret: secret, authority: authority, user: user, groups: groups, usage: pki.Client, lifetime: clientLifetime}
	}
	kubeconfig := func(secret, server, user string, groups ...string) certificate {
		row := client(secret, ClusterCA, user, groups...)
		row.kubeconfig, row.server = true, server
		return row
	}

	table := []certificate{
		// etcd shows its server certificate as a client certificate too, to itself.
		serving(EtcdServer, EtcdCA, "etcd-server", pki.Peer, c.etcdHosts()...),
		serving(EtcdPeer, EtcdCA, EtcdPeerName, pki.Peer, c.etcdPeerHosts()...),
		client(APIServerEtcdClient, EtcdCA, "kube-apiserver-etcd-client"),

		serving(APIServerServing, ClusterCA, "kube-apiserver", pki.Server, c.apiServerHosts()...),
		client(APIServerKubeletClient, KubeletClientCA, "kube-apiserver-kubelet-client", groupMasters),
		client(FrontProxyClient, FrontProxyCA, FrontProxyName),

		serving(ControllerManagerServing, ClusterCA, "kube-controller-manager", pki.Server, "kube-controller-manager", "localhost", "127.0.0.1"),
		kubeconfig(ControllerManagerKubeconfig, c.InCluster, "system:kube-controller-manager"),

		kubeconfig(ManagerKubeconfig, c.InCluster, UserManager, groupMasters),
		kubeconfig(tenancy.SyncerKubeconfigSecret, c.InCluster, tenancy.UserSyncer),
		kubeconfig(tenancy.VNAgentKubeconfigSecret, c.InCluster, tenancy.UserVNAgent),
		kubeconfig(tenancy.TenantProxyKubeconfigSecret, c.InCluster, tenancy.UserTenantProxy),
		kubeconfig(tenancy.AdminKubeconfigSecret, c.External, tenancy.UserAdmin, GroupAdmins),
	}
	if c.Scheduler {
		table = append(table,
			serving(SchedulerServing, ClusterCA, "kube-scheduler", pki.Server, "kube-scheduler", "localhost", "127.0.0.1"),
			kubeconfig(SchedulerKubeconfig, c.InCluster, "system:kube-scheduler"),
		)
	}
	if c.MetricsServer {
		table = append(table,
			serving(MetricsServerServing, ClusterCA, "metrics-server", pki.Server, c.metricsServerHosts()...),
			client(MetricsServerKubeletClient, KubeletClientCA, UserMetricsServer),
			kubeconfig(MetricsServerKubeconfig, c.InCluster, UserMetricsServer),
		)
	}
	return table
}

// SecretNames are all Secrets of the table.
func SecretNames(c Cluster) []string {
	var names []string
	for _, row := range append(authorities(c), leaves(c)...) {
		names = append(names, row.secret)
	}
	return names
}
