package certificates

import (
	"net/netip"
	"slices"

	"github.com/bulkhead-dev/bulkhead/internal/tenancy"
)

// MetricsServerHost is the name by which the tenant's apiserver verifies
// metrics-server: that of its Service in the tenant's cluster.
const MetricsServerHost = "metrics-server.kube-system.svc"

func (c Cluster) apiServerHosts() []string {
	hosts := c.serviceHosts(tenancy.APIServerService)
	hosts = append(hosts,
		"kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc."+c.ClusterDomain,
		c.APIServiceIP().String(), "localhost", "127.0.0.1")
	for _, host := range c.Hosts {
		if !slices.Contains(hosts, host) {
			hosts = append(hosts, host)
		}
	}
	return hosts
}

// APIServiceIP is the address of the Service "kubernetes" in the tenant's cluster.
func (c Cluster) APIServiceIP() netip.Addr { return c.ServiceCIDR.Masked().Addr().Next() }

func (c Cluster) etcdHosts() []string {
	return append(c.serviceHosts("etcd-client"), append(c.etcdPeerHosts(), "localhost", "127.0.0.1")...)
}

// etcdPeerHosts are the members' own names, behind the headless Service.
func (c Cluster) etcdPeerHosts() []string {
	return []string{"*.etcd." + c.Tenant.ControlPlaneNamespace() + ".svc"}
}

func (c Cluster) metricsServerHosts() []string {
	return append(c.serviceHosts("metrics-server"), MetricsServerHost)
}

// serviceHosts are the names of a Service in the control-plane namespace.
func (c Cluster) serviceHosts(service string) []string {
	qualified := service + "." + c.Tenant.ControlPlaneNamespace()
	return []string{service, qualified, qualified + ".svc", qualified + ".svc." + c.SuperDomain}
}
