// Command vn-agent runs on every node and is what tenants' apiservers take for the
// node's kubelet: it serves logs, exec, attach, port-forward and usage figures of
// a tenant's own pods there, and nothing else.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"time"

	"k8s.io/klog/v2"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/log/zap"

	"github.com/bulkhead-dev/bulkhead/internal/tenancy"
	"github.com/bulkhead-dev/bulkhead/vn-agent/server"
)

// serviceAccountDir is where Kubernetes mounts a pod's ServiceAccount.
const serviceAccountDir = "/var/run/secrets/kubernetes.io/serviceaccount/"

// options are the program's settings, one flag each.
type options struct {
	nodeName             string
	bindAddress          string
	metricsAddress       string
	healthAddress        string
	certificateDirectory string
	kubeletCA            string
	kubeletToken         string
	resync               time.Duration
	limits               server.Limits
}

func (o *options) bind(flags *flag.FlagSet) {
	flags.StringVar(&o.nodeName, "node-name", os.Getenv("NODE_NAME"), "name of the node this runs on; by default the value of NODE_NAME")
	flags.StringVar(&o.bindAddress, "bind-address", fmt.Sprintf(":%d", tenancy.VNAgentPort), "address that tenants' apiservers reach, which must be the port in their nodes' status")
	flags.StringVar(&o.metricsAddress, "metrics-bind-address", ":10551", "address of vn-agent's own metrics, over TLS for whom the super cluster lets get /metrics; 0 for none")
	flags.StringVar(&o.healthAddress, "health-probe-bind-address", "127.0.0.1:10552", "address of /healthz and /readyz")
	flags.StringVar(&o.certificateDirectory, "certificate-directory", "/var/lib/vn-agent", "directory that keeps the serving certificate over a restart")
	flags.StringVar(&o.kubeletCA, "kubelet-certificate-authority", serviceAccountDir+"ca.crt", "file with the CAs that verify the kubelet's serving certificate")
	flags.StringVar(&o.kubeletToken, "kubelet-token-file", serviceAccountDir+"token", "file with the bearer token that is shown to the kubelet")
	flags.DurationVar(&o.resync, "credentials-resync", 15*time.Minute, "how often each tenant's credentials are read again even if nothing seems changed")
	flags.IntVar(&o.limits.Streams, "max-streams-per-tenant", 256, "followed logs, exec, attach and port-forward sessions that one tenant may have open on this node")
	flags.IntVar(&o.limits.Requests, "max-requests-per-tenant", 32, "other requests that one tenant may have open on this node")
}

func (o *options) check() error {
	if o.nodeName == "" {
		return errors.New("--node-name is needed, or NODE_NAME in the environment")
	}
	if host, _, err := net.SplitHostPort(o.healthAddress); err != nil || net.ParseIP(host) == nil || !net.ParseIP(host).IsLoopback() {
		return fmt.Errorf("--health-probe-bind-address %q must be an address on loopback, for it has no authentication", o.healthAddress)
	}
	return nil
}

func main() {
	var o options
	o.bind(flag.CommandLine)
	logging := zap.Options{}
	logging.BindFlags(flag.CommandLine)
	flag.Parse()
	ctrl.SetLogger(zap.New(zap.UseFlagOptions(&logging)))
	klog.SetLogger(ctrl.Log.WithName("klog"))
	if err := run(ctrl.SetupSignalHandler(), o); err != nil {
		ctrl.Log.Error(err, "vn-agent stops")
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
	a, err := newAgent(ctx, config, o)
	if err != nil {
		return err
	}
	return a.manager.Start(ctx)
}
