package main

import (
	"errors"
	"flag"
	"fmt"
	"net/netip"

	"github.com/bulkhead-dev/bulkhead/internal/tenantnetwork"
	"github.com/bulkhead-dev/bulkhead/vc-manager/controlplane"
)

// options are what the command line says.
type options struct {
	platform       controlplane.Platform
	metricsAddress string
	healthAddress  string
	leaderElect    bool
	workers        int
	qps            float64

	// What platform.Networks is read from.
	deniedNetworks, allowedNetworks, podNetworks string
}

func defaults() options {
	return options{
		platform: controlplane.Platform{
			Namespace:            "bulkhead-system",
			SyncerServiceAccount: "syncer", VNAgentServiceAccount: "vn-agent", TenantProxyServiceAccount: "tenant-proxy",
			ClusterDomain: "cluster.local",
			Images: controlplane.Images{
				Etcd:              "registry.k8s.io/etcd:3.6.8-0",
				APIServer:         "registry.k8s.io/kube-apiserver:v1.36.3",
				ControllerManager: "registry.k8s.io/kube-controller-manager:v1.36.3",
				Scheduler:         "registry.k8s.io/kube-scheduler:v1.36.3",
				MetricsServer:     "registry.k8s.io/metrics-server/metrics-server:v0.9.0",
				CoreDNS:           "registry.k8s.io/coredns/coredns:v1.15.0",
			},
		},
		deniedNetworks: tenantnetwork.DefaultDenied,
		metricsAddress: ":8443",
		healthAddress:  ":8081",
		leaderElect:    true,
		workers:        10,
		qps:            200,
	}
}

func (o *options) bind(flags *flag.FlagSet) {
	p := &o.platform
	flags.StringVar(&p.Namespace, "platform-namespace", p.Namespace, "namespace of the platform's components in the super cluster")
	flags.StringVar(&p.SyncerServiceAccount, "syncer-service-account", p.SyncerServiceAccount, "ServiceAccount of the syncer in the platform's namespace")
	flags.StringVar(&p.VNAgentServiceAccount, "vn-agent-service-account", p.VNAgentServiceAccount, "ServiceAccount of vn-agent in the platform's namespace")
	flags.StringVar(&p.TenantProxyServiceAccount, "tenant-proxy-service-account", p.TenantProxyServiceAccount, "ServiceAccount of tenant-proxy in the platform's namespace")
	flags.StringVar(&p.ClusterDomain, "super-cluster-domain", p.ClusterDomain, "DNS domain of the super cluster's Services")
	flags.StringVar(&p.Images.Etcd, "etcd-image", p.Images.Etcd, "image of tenants' etcd, unless their class names one")
	flags.StringVar(&p.Images.APIServer, "kube-apiserver-image", p.Images.APIServer, "image of tenants' kube-apiserver, unless their class names one")
	flags.StringVar(&p.Images.ControllerManager, "kube-controller-manager-image", p.Images.ControllerManager, "image of tenants' kube-controller-manager, unless their class names one")
	flags.StringVar(&p.Images.Scheduler, "kube-scheduler-image", p.Images.Scheduler, "image of tenants' kube-scheduler, where their class lets them schedule, unless it names one")
	flags.StringVar(&p.Images.MetricsServer, "metrics-server-image", p.Images.MetricsServer, "image of tenants' metrics-server, unless their class names one")
	flags.StringVar(&p.Images.CoreDNS, "coredns-image", p.Images.CoreDNS, "image of the DNS server in tenants' clusters")
	flags.StringVar(&o.deniedNetworks, "denied-networks", o.deniedNetworks, "networks that tenants' apiservers do not reach, but for the tenant's own pods")
	flags.StringVar(&o.allowedNetworks, "allowed-networks", o.allowedNetworks, "parts of the denied networks that tenants' apiservers reach after all")
	flags.StringVar(&o.podNetworks, "pod-networks", o.podNetworks, "networks of all the super cluster's pods, where no vn-agent is")
	flags.StringVar(&o.metricsAddress, "metrics-bind-address", o.metricsAddress, "address of /metrics: TLS, callers are authenticated; 0 for none")
	flags.StringVar(&o.healthAddress, "health-probe-bind-address", o.healthAddress, "address of /healthz and /readyz")
	flags.BoolVar(&o.leaderElect, "leader-elect", o.leaderElect, "let one of several replicas work")
	flags.IntVar(&o.workers, "workers", o.workers, "virtual clusters that are worked on at the same time")
	flags.Float64Var(&o.qps, "super-qps", o.qps, "requests per second to the super cluster, in the long run; twice as many at once")
}

func (o *options) validate(arguments []string) error {
	var problems []error
	if len(arguments) > 0 {
		problems = append(problems, fmt.Errorf("unexpected arguments %q", arguments))
	}
	for name, value := range map[string]string{
		"platform-namespace": o.platform.Namespace, "syncer-service-account": o.platform.SyncerServiceAccount,
		"vn-agent-service-account": o.platform.VNAgentServiceAccount, "super-cluster-domain": o.platform.ClusterDomain,
		"etcd-image": o.platform.Images.Etcd, "kube-apiserver-image": o.platform.Images.APIServer,
		"kube-controller-manager-image": o.platform.Images.ControllerManager, "metrics-server-image": o.platform.Images.MetricsServer,
		"kube-scheduler-image":         o.platform.Images.Scheduler,
		"tenant-proxy-service-account": o.platform.TenantProxyServiceAccount, "coredns-image": o.platform.Images.CoreDNS,
	} {
		if value == "" {
			problems = append(problems, fmt.Errorf("--%s is empty", name))
		}
	}
	if o.workers < 1 {
		problems = append(problems, fmt.Errorf("--workers is %d, it must be 1 or more", o.workers))
	}
	if o.qps <= 0 {
		problems = append(problems, fmt.Errorf("--super-qps is %v, it must be more than 0", o.qps))
	}
	for _, list := range []struct {
		flag, text string
		into       *[]netip.Prefix
	}{
		{"denied-networks", o.deniedNetworks, &o.platform.Networks.Denied},
		{"allowed-networks", o.allowedNetworks, &o.platform.Networks.Allowed},
		{"pod-networks", o.podNetworks, &o.platform.Networks.Pods},
	} {
		var err error
		if *list.into, err = tenantnetwork.ParseNetworks(list.text); err != nil {
			problems = append(problems, fmt.Errorf("--%s: %w", list.flag, err))
		}
	}
	return errors.Join(problems...)
}
