package main

import (
	"errors"
	"flag"
	"fmt"
	"time"
)

// options are what the command line says.
type options struct {
	metricsAddress       string
	healthAddress        string
	leaderElect          bool
	leaderElectNamespace string
	probeInterval        time.Duration
}

func defaults() options {
	return options{metricsAddress: ":8443", healthAddress: ":8081", leaderElect: true, probeInterval: 10 * time.Second}
}

func (o *options) bind(flags *flag.FlagSet) {
	flags.StringVar(&o.metricsAddress, "metrics-bind-address", o.metricsAddress, "address of /metrics: TLS, callers are authenticated; 0 for none")
	flags.StringVar(&o.healthAddress, "health-probe-bind-address", o.healthAddress, "address of /healthz and /readyz")
	flags.BoolVar(&o.leaderElect, "leader-elect", o.leaderElect, "let one of several replicas work")
	flags.StringVar(&o.leaderElectNamespace, "leader-elect-namespace", o.leaderElectNamespace, "namespace of the lease; empty for the one the program runs in")
	flags.DurationVar(&o.probeInterval, "tenant-probe-interval", o.probeInterval, "how often each tenant's apiserver is asked whether it is there")
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
	return errors.Join(problems...)
}
