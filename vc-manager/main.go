// Command vc-manager makes VirtualClusters real: each gets an etcd, a kube-apiserver
// and a kube-controller-manager of its own as pods of the super cluster.
package main

import (
	"context"
	"crypto/tls"
	"flag"
	"fmt"
	"maps"
	"net"
	"os"
	"time"

	"k8s.io/apimachinery/pkg/runtime"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/healthz"
	"sigs.k8s.io/controller-runtime/pkg/log/zap"
	"sigs.k8s.io/controller-runtime/pkg/metrics"
	"sigs.k8s.io/controller-runtime/pkg/metrics/filters"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"

	tenancyv1alpha1 "github.com/bulkhead-dev/bulkhead/api/tenancy/v1alpha1"
	"github.com/bulkhead-dev/bulkhead/vc-manager/controller"
	"github.com/bulkhead-dev/bulkhead/vc-manager/nodecert"
)

// leaderLease is the Lease by which replicas elect the one that works.
const leaderLease = "vc-manager"

// shutdownTimeout bounds the end of what is running when vc-manager is told to stop.
const shutdownTimeout = 20 * time.Second

func main() {
	o := defaults()
	logging := zap.Options{}
	logging.BindFlags(flag.CommandLine)
	o.bind(flag.CommandLine)
	flag.Parse()
	ctrl.SetLogger(zap.New(zap.UseFlagOptions(&logging)))
	if err := run(ctrl.SetupSignalHandler(), o); err != nil {
		ctrl.Log.Error(err, "vc-manager ends")
		os.Exit(1)
	}
}

func run(ctx context.Context, o options) error {
	if err := o.validate(flag.Args()); err != nil {
		return err
	}
	config, err := ctrl.GetConfig()
	if err != nil {
		return fmt.Errorf("finding the super cluster: %w", err)
	}
	// One control plane is some sixty requests at once; client-go's default of 20 per
	// second would make a tenant wait. The super cluster's own priority and fairness
	// bounds what many at once may do.
	config.QPS, config.Burst = float32(o.qps), int(2*o.qps)
	mgr, err := newManager(config, o)
	if err != nil {
		return err
	}
	authority := &nodecert.Authority{Client: mgr.GetClient(), Live: mgr.GetAPIReader(), Namespace: o.platform.Namespace}
	signer := &nodecert.Signer{
		Client: mgr.GetClient(), Live: mgr.GetAPIReader(), Authority: authority,
		Namespace: o.platform.Namespace, ServiceAccount: o.platform.VNAgentServiceAccount,
	}
	if err := signer.SetupWithManager(mgr); err != nil {
		return fmt.Errorf("setting up the signer of vn-agents' certificates: %w", err)
	}
	reconciler := &controller.Reconciler{
		Client: mgr.GetClient(), Live: mgr.GetAPIReader(),
		Recorder: mgr.GetEventRecorder("vc-manager"),
		Platform: o.platform, NodeAgentCA: authority.Certificate,
		Dialer: &net.Dialer{KeepAlive: 30 * time.Second}, Now: time.Now,
	}
	if err := reconciler.SetupWithManager(ctx, mgr, metrics.Registry, o.workers); err != nil {
		return fmt.Errorf("setting up the controller of virtual clusters: %w", err)
	}
	if err := mgr.Start(ctx); err != nil {
		return fmt.Errorf("running: %w", err)
	}
	return nil
}

func newManager(config *rest.Config, o options) (ctrl.Manager, error) {
	scheme := runtime.NewScheme()
	utilruntime.Must(clientgoscheme.AddToScheme(scheme))
	utilruntime.Must(tenancyv1alpha1.AddToScheme(scheme))

	cached := controller.CacheObjects()
	maps.Copy(cached, nodecert.CacheObjects())
	grace := shutdownTimeout
	mgr, err := ctrl.NewManager(config, ctrl.Options{
		Scheme: scheme,
		Cache:  cache.Options{ByObject: cached, DefaultTransform: cache.TransformStripManagedFields()},
		Metrics: metricsserver.Options{
			BindAddress: o.metricsAddress, SecureServing: true,
			// Callers are authenticated and asked for in the super cluster.
			FilterProvider: filters.WithAuthenticationAndAuthorization,
			TLSOpts:        []func(*tls.Config){func(c *tls.Config) { c.MinVersion = tls.VersionTLS12 }},
		},
		HealthProbeBindAddress:  o.healthAddress,
		GracefulShutdownTimeout: &grace,
		LeaderElection:          o.leaderElect,
		LeaderElectionID:        leaderLease,
		LeaderElectionNamespace: o.platform.Namespace,
		// The process ends when the manager does, so the next may lead at once.
		LeaderElectionReleaseOnCancel: true,
	})
	if err != nil {
		return nil, fmt.Errorf("making the manager: %w", err)
	}
	for _, add := range []func(string, healthz.Checker) error{mgr.AddHealthzCheck, mgr.AddReadyzCheck} {
		if err := add("ping", healthz.Ping); err != nil {
			return nil, fmt.Errorf("adding health checks: %w", err)
		}
	}
	return mgr, nil
}
