// Command fence runs on every node and enforces the super cluster's NetworkPolicies
// there, by nftables, for super clusters whose network does not.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"

	"k8s.io/klog/v2"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/log/zap"

	"github.com/bulkhead-dev/bulkhead/fence/nft"
)

func main() {
	if len(os.Args) > 1 && os.Args[1] == "cleanup" {
		if err := cleanup(os.Args[2:]); err != nil {
			fmt.Fprintln(os.Stderr, "fence cleanup:", err)
			os.Exit(1)
		}
		return
	}
	var o options
	o.bind(flag.CommandLine)
	logging := zap.Options{}
	logging.BindFlags(flag.CommandLine)
	flag.Parse()
	ctrl.SetLogger(zap.New(zap.UseFlagOptions(&logging)))
	klog.SetLogger(ctrl.Log.WithName("klog"))
	if err := run(ctrl.SetupSignalHandler(), o, flag.Args()); err != nil {
		ctrl.Log.Error(err, "fence stops; the rules it has made stay")
		os.Exit(1)
	}
}

// cleanup opens the fence: it removes the rules from the kernel. No fence may run,
// or it puts them back.
func cleanup(arguments []string) error {
	if len(arguments) > 0 {
		return fmt.Errorf("unexpected arguments %q", arguments)
	}
	return nft.New(0).Remove()
}

func run(ctx context.Context, o options, arguments []string) error {
	if err := o.check(arguments); err != nil {
		return err
	}
	config, err := ctrl.GetConfig()
	if err != nil {
		return fmt.Errorf("finding the super cluster: %w", err)
	}
	a, err := newAgent(config, o)
	if err != nil {
		return err
	}
	return a.manager.Start(ctx)
}
