// Command tenant-proxy runs on every node and is kube-proxy for many tenants: it
// compiles the Services of each tenant that has pods on the node into rules, which
// cri-ext puts into the sandboxes of that tenant and no other.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"runtime/debug"
	"time"

	"k8s.io/klog/v2"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/log/zap"

	"github.com/bulkhead-dev/bulkhead/internal/feed"
)

// options are the program's settings, one flag each.
type options struct {
	nodeName       string
	socket         string
	metricsAddress string
	healthAddress  string
	linger         time.Duration
	resync         time.Duration
	debounce       time.Duration
}

func (o *options) bind(flags *flag.FlagSet) {
	flags.StringVar(&o.nodeName, "node-name", os.Getenv("NODE_NAME"), "name of the node this runs on; by default the value of NODE_NAME")
	flags.StringVar(&o.socket, "cri-ext-socket", feed.DefaultSocket, "unix socket at which cri-ext takes rules")
	flags.StringVar(&o.metricsAddress, "metrics-bind-address", ":8443", "address of /metrics, and of /metrics/cri-ext: TLS, callers are authenticated; 0 for none")
	flags.StringVar(&o.healthAddress, "health-probe-bind-address", ":8081", "address of /healthz and /readyz")
	flags.DurationVar(&o.linger, "tenant-linger", 2*time.Minute, "how long a tenant's cluster is watched on after its last pod has left the node")
	flags.DurationVar(&o.resync, "credentials-resync", 15*time.Minute, "how often each tenant's credentials are read again even if nothing failed")
	flags.DurationVar(&o.debounce, "min-compile-interval", 50*time.Millisecond, "least time between two compilations for one tenant; the first change after a rest does not wait")
}

func (o *options) check() error {
	var problems []error
	if o.nodeName == "" {
		problems = append(problems, errors.New("--node-name is needed, or NODE_NAME in the environment"))
	}
	if o.socket == "" {
		problems = append(problems, errors.New("--cri-ext-socket is empty"))
	}
	if o.linger < 0 || o.debounce < 0 {
		problems = append(problems, fmt.Errorf("--tenant-linger (%s) and --min-compile-interval (%s) must not be negative", o.linger, o.debounce))
	}
	if o.resync < time.Second {
		problems = append(problems, fmt.Errorf("--credentials-resync is %s, it must be a second at least", o.resync))
	}
	return errors.Join(problems...)
}

func main() {
	var o options
	o.bind(flag.CommandLine)
	logging := zap.Options{}
	logging.BindFlags(flag.CommandLine)
	flag.Parse()
	if os.Getenv("GOGC") == "" {
		// It runs on every node and mostly rests: rather collect more often than hold
		// more than it needs.
		debug.SetGCPercent(25)
	}
	ctrl.SetLogger(zap.New(zap.UseFlagOptions(&logging)))
	klog.SetLogger(ctrl.Log.WithName("klog"))
	if err := run(ctrl.SetupSignalHandler(), o); err != nil {
		ctrl.Log.Error(err, "tenant-proxy stops")
		os.Exit(1)
	}
}

func run(ctx context.Context, o options) error {
	if err := o.check(); err != nil {
		return err
	}
	config, err := ctrl.GetConfig()
	if err != nil {
		return fmt.Errorf("finding the super cluster: %w", err)
	}
	p, err := newProxy(config, o)
	if err != nil {
		return err
	}
	return p.manager.Start(ctx)
}
