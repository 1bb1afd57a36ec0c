package main

import (
	"errors"
	"flag"
	"fmt"
	"net/netip"
	"time"

	"go.opentelemetry.io/otel/trace"

	"github.com/bulkhead-dev/bulkhead/internal/tenantnetwork"
	"github.com/bulkhead-dev/bulkhead/syncer/engine"
	"github.com/bulkhead-dev/bulkhead/syncer/tracing"
)

// options are what the command line says.
type options struct {
	metricsAddress       string
	healthAddress        string
	leaderElect          bool
	leaderElectNamespace string
	probeInterval        time.Duration
	workers              engine.Workers
	tracingEndpoint      string
	tracingRatio         float64

	// leads is no flag: it tells whether this replica leads, or is nil if it is alone.
	leads func() error
	// tracer is no flag: the flags of tracing make it, or leave it nil.
	tracer trace.Tracer

	// patrolSettle is no flag: it is longer than any event takes.
	patrolInterval, patrolSettle time.Duration
	patrolRate                   float64

	deniedNetworks, allowedNetworks, podNetworks, resolvers string
	// networks is what these say.
	networks tenantnetwork.Networks
}

func defaults() options {
	return options{
		metricsAddress: ":8443", healthAddress: ":8081", leaderElect: true, probeInterval: 10 * time.Second,
		workers:        engine.DefaultWorkers,
		tracingRatio:   1,
		patrolInterval: 5 * time.Minute, patrolSettle: 10 * time.Second, patrolRate: 200,
		deniedNetworks: tenantnetwork.DefaultDenied,
	}
}

func (o *options) bind(flags *flag.FlagSet) {
	flags.StringVar(&o.metricsAddress, "metrics-bind-address", o.metricsAddress, "address of /metrics: TLS, callers are authenticated; 0 for none")
	flags.StringVar(&o.healthAddress, "health-probe-bind-address", o.healthAddress, "address of /healthz and /readyz")
	flags.BoolVar(&o.leaderElect, "leader-elect", o.leaderElect, "let one of several replicas work")
	flags.StringVar(&o.leaderElectNamespace, "leader-elect-namespace", o.leaderElectNamespace, "namespace of the lease; empty for the one the program runs in")
	flags.StringVar(&o.deniedNetworks, "denied-networks", o.deniedNetworks, "networks that tenants' pods do not reach, but for the tenant's own pods")
	flags.StringVar(&o.allowedNetworks, "allowed-networks", o.allowedNetworks, "parts of the denied networks that tenants' pods reach after all")
	flags.StringVar(&o.podNetworks, "pod-networks", o.podNetworks, "networks of all the super cluster's pods, from which other tenants come; empty for the denied networks")
	flags.StringVar(&o.resolvers, "resolvers", o.resolvers, "addresses of DNS servers that all tenants' pods may ask")
	flags.DurationVar(&o.probeInterval, "tenant-probe-interval", o.probeInterval, "how often each tenant's apiserver is asked whether it is there")
	flags.IntVar(&o.workers.Down, "workers-down", o.workers.Down, "how many objects are carried to the super cluster at a time, for all tenants")
	flags.IntVar(&o.workers.Up, "workers-up", o.workers.Up, "how many objects are carried to tenants at a time, for all tenants")
	flags.IntVar(&o.workers.PerTenant, "workers-per-tenant", o.workers.PerTenant, "how many of either may be one tenant's")
	flags.StringVar(&o.tracingEndpoint, "tracing-endpoint", o.tracingEndpoint, "collector that traces are sent to by OTLP over gRPC: https://HOST:PORT, or http:// without TLS; empty for no traces")
	flags.Float64Var(&o.tracingRatio, "tracing-ratio", o.tracingRatio, "part of what is handled that is traced, from 0 to 1")
	flags.DurationVar(&o.patrolInterval, "patrol-interval", o.patrolInterval, "how often all objects of a tenant are compared; 0 for never")
	flags.Float64Var(&o.patrolRate, "patrol-rate", o.patrolRate, "how many objects a second are compared, for all tenants")
}

func (o *options) validate(arguments []string) error {
	var problems []error
	if len(arguments) > 0 {
		problems = append(problems, fmt.Errorf("unexpected arguments %q", arguments))
	}
	if o.metricsAddress == "" {
		problems = append(problems, errors.New("--metrics-bind-address must not be empty; 0 serves no metrics"))
	}
	if o.healthAddress == "" {
		problems = append(problems, errors.New("--health-probe-bind-address must not be empty; 0 serves none"))
	}
	if o.probeInterval < 100*time.Millisecond {
		problems = append(problems, fmt.Errorf("--tenant-probe-interval %s is too short: at least 100ms", o.probeInterval))
	}
	if o.workers.Down < 1 || o.workers.Up < 1 || o.workers.PerTenant < 1 {
		problems = append(problems, errors.New("--workers-down, --workers-up and --workers-per-tenant must be at least 1"))
	}
	if o.patrolInterval != 0 && o.patrolInterval < time.Second {
		problems = append(problems, fmt.Errorf("--patrol-interval %s is too short: at least 1s, or 0 for no patrol", o.patrolInterval))
	}
	if !(o.patrolRate > 0) {
		problems = append(problems, fmt.Errorf("--patrol-rate %v must be above 0", o.patrolRate))
	}
	if o.tracingEndpoint != "" {
		if err := tracing.CheckEndpoint(o.tracingEndpoint); err != nil {
			problems = append(problems, fmt.Errorf("--tracing-endpoint: %w", err))
		}
	}
	if !(o.tracingRatio >= 0 && o.tracingRatio <= 1) {
		problems = append(problems, fmt.Errorf("--tracing-ratio %v must be from 0 to 1", o.tracingRatio))
	}
	for _, list := range []struct {
		flag, text string
		into       *[]netip.Prefix
	}{
		{"denied-networks", o.deniedNetworks, &o.networks.Denied},
		{"allowed-networks", o.allowedNetworks, &o.networks.Allowed},
		{"pod-networks", o.podNetworks, &o.networks.Pods},
	} {
		var err error
		if *list.into, err = tenantnetwork.ParseNetworks(list.text); err != nil {
			problems = append(problems, fmt.Errorf("--%s: %w", list.flag, err))
		}
	}
	var err error
	if o.networks.Resolvers, err = tenantnetwork.ParseAddresses(o.resolvers); err != nil {
		problems = append(problems, fmt.Errorf("--resolvers: %w", err))
	}
	return errors.Join(problems...)
}
