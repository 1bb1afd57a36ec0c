package main

import (
	"errors"
	"flag"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"time"

	"github.com/vishvananda/netns"
)

// options are what the command line says.
type options struct {
	nodeName       string
	podNetworks    string
	metricsAddress string
	healthAddress  string
	enforce        bool
	sandboxSocket  string
	verifyInterval time.Duration

	// networksGiven is podNetworks, read.
	networksGiven []netip.Prefix
	// namespace is that of the node's network; nil for the process's own. Tests have
	// others.
	namespace *netns.NsHandle
}

func (o *options) bind(flags *flag.FlagSet) {
	flags.StringVar(&o.nodeName, "node-name", os.Getenv("NODE_NAME"), "name of the node this runs on; by default the value of NODE_NAME")
	flags.StringVar(&o.podNetworks, "pod-networks", "", "networks that the addresses of this node's pods are from, separated by commas; empty for the podCIDRs of the Node")
	flags.StringVar(&o.metricsAddress, "metrics-bind-address", ":10561", "address of /metrics, over TLS for whom the super cluster lets get /metrics; 0 for none")
	flags.StringVar(&o.healthAddress, "health-probe-bind-address", "127.0.0.1:10562", "address of /healthz and /readyz, on loopback")
	flags.BoolVar(&o.enforce, "enforce", true, "put the policies into force; if false, what an earlier run left in the kernel is removed and nothing else is done")
	flags.StringVar(&o.sandboxSocket, "sandbox-socket", "", "socket on which the node's root announces the addresses of new sandboxes, before the super cluster knows them; empty for none")
	flags.DurationVar(&o.verifyInterval, "verify-interval", 30*time.Second, "how often the kernel's rules are compared with what they should be")
}

func (o *options) check(arguments []string) error {
	var problems []error
	if len(arguments) > 0 {
		problems = append(problems, fmt.Errorf("unexpected arguments %q", arguments))
	}
	if o.nodeName == "" {
		problems = append(problems, errors.New("--node-name is needed, or NODE_NAME in the environment"))
	}
	if host, _, err := net.SplitHostPort(o.healthAddress); err != nil || net.ParseIP(host) == nil || !net.ParseIP(host).IsLoopback() {
		problems = append(problems, fmt.Errorf("--health-probe-bind-address %q must be an address on loopback, for it has no authentication", o.healthAddress))
	}
	if o.verifyInterval < time.Second {
		problems = append(problems, fmt.Errorf("--verify-interval %s is too short: at least 1s", o.verifyInterval))
	}
	o.networksGiven = nil
	for _, text := range strings.Split(o.podNetworks, ",") {
		if text == "" {
			continue
		}
		network, err := netip.ParsePrefix(text)
		if err != nil || network != network.Masked() {
			problems = append(problems, fmt.Errorf("--pod-networks: %q is no network", text))
			continue
		}
		o.networksGiven = append(o.networksGiven, network)
	}
	return errors.Join(problems...)
}
