package main

import (
	"errors"
	"flag"
	"fmt"
	"strings"
)

// options are what the command line says.
type options struct {
	namespace        string
	accountNamespace string
	webhookAddress   string
	webhookHosts     string
	metricsAddress   string
	healthAddress    string
	leaderElect      bool
	workers          int
	qps              float64
}

func defaults() options {
	return options{
		namespace:        "bulkhead-system",
		accountNamespace: "bulkhead-abm",
		webhookAddress:   ":9443",
		webhookHosts:     "abm-webhook.bulkhead-system.svc",
		metricsAddress:   ":8443",
		healthAddress:    ":8081",
		leaderElect:      true,
		workers:          10,
		qps:              200,
	}
}

func (o *options) bind(flags *flag.FlagSet) {
	flags.StringVar(&o.namespace, "platform-namespace", o.namespace, "namespace of the platform's components in the super cluster")
	flags.StringVar(&o.accountNamespace, "account-namespace", o.accountNamespace, "namespace of the ServiceAccounts that instances' steps are done as; nothing else may be in it")
	flags.StringVar(&o.webhookAddress, "webhook-bind-address", o.webhookAddress, "address of the admission webhook")
	flags.StringVar(&o.webhookHosts, "webhook-hosts", o.webhookHosts, "names that kube-apiserver calls the webhook by, separated by commas")
	flags.StringVar(&o.metricsAddress, "metrics-bind-address", o.metricsAddress, "address of /metrics: TLS, callers are authenticated; 0 for none")
	flags.StringVar(&o.healthAddress, "health-probe-bind-address", o.healthAddress, "address of /healthz and /readyz")
	flags.BoolVar(&o.leaderElect, "leader-elect", o.leaderElect, "let one of several replicas work")
	flags.IntVar(&o.workers, "workers", o.workers, "instances that are worked on at the same time")
	flags.Float64Var(&o.qps, "super-qps", o.qps, "requests per second to the super cluster, in the long run; twice as many at once")
}

func (o *options) validate(arguments []string) error {
	var problems []error
	if len(arguments) > 0 {
		problems = append(problems, fmt.Errorf("unexpected arguments %q", arguments))
	}
	for name, value := range map[string]string{
		"platform-namespace": o.namespace, "account-namespace": o.accountNamespace,
		"webhook-bind-address": o.webhookAddress, "webhook-hosts": o.webhookHosts,
	} {
		if value == "" {
			problems = append(problems, fmt.Errorf("--%s is empty", name))
		}
	}
	if o.accountNamespace == o.namespace {
		problems = append(problems, errors.New("--account-namespace is the platform's own, whose ServiceAccounts ABM must not act as"))
	}
	if o.workers < 1 {
		problems = append(problems, fmt.Errorf("--workers is %d, it must be 1 or more", o.workers))
	}
	if o.qps <= 0 {
		problems = append(problems, fmt.Errorf("--super-qps is %v, it must be more than 0", o.qps))
	}
	return errors.Join(problems...)
}

func (o *options) hosts() []string { return strings.Split(o.webhookHosts, ",") }
