package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"runtime/debug"
	"sync"

	"github.com/go-logr/logr"
	"github.com/spf13/cobra"
	"sigs.k8s.io/controller-runtime/pkg/log/zap"

	"github.com/bulkhead-dev/bulkhead/cri-ext/admin"
	"github.com/bulkhead-dev/bulkhead/cri-ext/cri"
	"github.com/bulkhead-dev/bulkhead/cri-ext/driver"
	"github.com/bulkhead-dev/bulkhead/cri-ext/proxy"
	"github.com/bulkhead-dev/bulkhead/cri-ext/sandbox"
	"github.com/bulkhead-dev/bulkhead/internal/feed"
	"github.com/bulkhead-dev/bulkhead/internal/unixsocket"
)

func newServe() *cobra.Command {
	var o options
	logging := zap.Options{}
	command := &cobra.Command{
		Use: "serve", Short: "Serve kubelet, tenant-proxy and root until SIGTERM", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			log := zap.New(zap.UseFlagOptions(&logging))
			return serve(cmd.Context(), o, log)
		},
	}
	o.bind(command.Flags())
	zapFlags := flag.NewFlagSet("zap", flag.ContinueOnError)
	logging.BindFlags(zapFlags)
	command.Flags().AddGoFlagSet(zapFlags)
	return command
}

// serve runs until ctx ends.
func serve(ctx context.Context, o options, log logr.Logger) error {
	if err := o.check(); err != nil {
		return err
	}
	d, err := newDaemon(o, log)
	if err != nil {
		return err
	}
	return d.run(ctx)
}

// daemon is the program, put together.
type daemon struct {
	log      logr.Logger
	registry *sandbox.Registry
	proxy    *proxy.Proxy
	feed     *feed.Server
	admin    *admin.Server
	upstream interface{ Close() error }

	// The sockets of kubelet, tenant-proxy and root.
	kubelet, tenantProxy, root *net.UnixListener
}

func newDaemon(o options, log logr.Logger) (*daemon, error) {
	upstream, err := proxy.Dial(o.runtime)
	if err != nil {
		return nil, err
	}
	d := &daemon{log: log, upstream: upstream}
	runtime := cri.NewRuntime(upstream)
	drivers := &driver.Drivers{Rules: o.handlers, Engines: o.engines(), Port: uint32(o.agentPort)}
	d.registry = sandbox.New(sandbox.Options{
		Runtime: runtime, Open: drivers.Open,
		Report: func(report feed.Report) { d.feed.Report(report) },
		Gate:   o.gate == gateStart, GateTimeout: o.gateTimeout, RepairInterval: o.repairInterval,
		Log: log.WithName("sandbox"),
	})
	var metrics func() ([]byte, error)
	uid := uint32(os.Getuid())
	d.feed = feed.NewServer(d.registry.Receiver(), func() ([]byte, error) { return metrics() }, uid, log.WithName("feed"))
	calls := newProxyMetrics(cri.Unary(), cri.Streams(), map[string]bool{cri.RestorePod: true})
	collected, err := newMetricsRegistry(d.feed, d.registry.Metrics(), calls.calls, calls.errors)
	if err != nil {
		return nil, errors.Join(err, upstream.Close())
	}
	metrics = func() ([]byte, error) { return text(collected) }
	d.admin = &admin.Server{
		Registry: d.registry, Metrics: metrics, UID: uid, Log: log.WithName("admin"),
		Status: func(ctx context.Context) admin.Status {
			status := admin.Status{Version: version(), Runtime: o.runtime, Feed: o.feed}
			if _, err := runtime.Sandboxes(ctx); err != nil {
				status.RuntimeError = err.Error()
			}
			return status
		},
	}
	d.proxy = proxy.New(upstream, proxy.Methods{
		Unary: cri.Unary(), Endless: cri.Streams(), Hooks: hooks(d.registry, runtime, log.WithName("cri")), Observe: calls.observe,
	})
	if err := d.listen(o); err != nil {
		return nil, errors.Join(err, upstream.Close())
	}
	return d, nil
}

func (d *daemon) listen(o options) error {
	var err error
	if d.kubelet, err = unixsocket.Activated(); err != nil {
		return err
	}
	if d.kubelet == nil {
		if d.kubelet, err = unixsocket.Listen(o.listen); err != nil {
			return fmt.Errorf("for kubelet: %w", err)
		}
	}
	if d.tenantProxy, err = unixsocket.Listen(o.feed); err != nil {
		return fmt.Errorf("for tenant-proxy: %w", err)
	}
	if d.root, err = unixsocket.Listen(o.admin); err != nil {
		return fmt.Errorf("for the command line: %w", err)
	}
	return nil
}

// run serves until ctx ends. kubelet's calls end first, as they need the rest.
func (d *daemon) run(ctx context.Context) error {
	defer d.upstream.Close()
	serving, stopServing := context.WithCancel(ctx)
	defer stopServing()
	rest, stopRest := context.WithCancel(context.WithoutCancel(ctx))
	defer stopRest()
	var parts sync.WaitGroup
	failures := make(chan error, 4)
	part := func(name string, f func() error) {
		parts.Go(func() {
			// Whatever part ends, all do.
			defer stopServing()
			if err := f(); err != nil {
				failures <- fmt.Errorf("%s: %w", name, err)
			}
		})
	}
	part("sandboxes", func() error { return d.registry.Run(rest) })
	part("feed", func() error { return d.feed.Serve(rest, d.tenantProxy) })
	part("admin", func() error { return d.admin.Serve(rest, d.root) })
	part("proxy", func() error {
		defer stopRest()
		return d.proxy.Serve(serving, d.kubelet)
	})
	d.log.Info("Serving", "version", version())
	if err := unixsocket.Notify("READY=1"); err != nil {
		d.log.Error(err, "Telling systemd")
	}
	parts.Wait()
	close(failures)
	var all []error
	for err := range failures {
		all = append(all, err)
	}
	return errors.Join(all...)
}

// version is what the build knows of itself.
func version() string {
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "unknown"
}
