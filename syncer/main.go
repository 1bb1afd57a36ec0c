// Command syncer carries the kinds around a pod between the clusters of all tenants
// and the super cluster.
package main

import (
	"context"
	"crypto/tls"
	"flag"
	"fmt"
	"os"

	"go.uber.org/zap/zapcore"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
	"k8s.io/klog/v2"
	"k8s.io/utils/ptr"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/healthz"
	"sigs.k8s.io/controller-runtime/pkg/log/zap"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/metrics/filters"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"

	tenancyv1alpha1 "github.com/bulkhead-dev/bulkhead/api/tenancy/v1alpha1"
	"github.com/bulkhead-dev/bulkhead/internal/tenancy"
	"github.com/bulkhead-dev/bulkhead/syncer/debug"
	"github.com/bulkhead-dev/bulkhead/syncer/engine"
	"github.com/bulkhead-dev/bulkhead/syncer/kinds"
	"github.com/bulkhead-dev/bulkhead/syncer/leader"
	"github.com/bulkhead-dev/bulkhead/syncer/patrol"
	"github.com/bulkhead-dev/bulkhead/syncer/tenants"
	"github.com/bulkhead-dev/bulkhead/syncer/tracing"
)

// leaderLease is the Lease by which replicas elect the one that works.
const leaderLease = "syncer"

// election is how replicas elect it.
var election = leader.DefaultTiming

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "syncer:", err)
		os.Exit(1)
	}
}

func run() error {
	o := defaults()
	o.bind(flag.CommandLine)
	logging := zap.Options{}
	logging.BindFlags(flag.CommandLine)
	flag.Parse()
	if err := o.validate(flag.Args()); err != nil {
		return err
	}
	// A stack tells nothing about what the log says: where it does, it is in the text.
	log := zap.New(zap.UseFlagOptions(&logging), zap.StacktraceLevel(zapcore.DPanicLevel))
	ctrl.SetLogger(log)
	klog.SetLogger(log)

	ctx := ctrl.SetupSignalHandler()
	manager, term, err := newManager(o)
	if err != nil {
		return err
	}
	o.leads = term.Check
	if o.tracingEndpoint != "" {
		tracer, stop, err := tracing.Start(ctx, tracing.Options{Endpoint: o.tracingEndpoint, Ratio: o.tracingRatio, Log: ctrl.Log.WithName("tracing")})
		if err != nil {
			return err
		}
		defer stop()
		o.tracer = tracer
	}
	if err := setup(ctx, manager, o); err != nil {
		return err
	}
	if err := manager.Start(ctx); err != nil {
		return fmt.Errorf("running: %w", err)
	}
	return nil
}

// newManager returns nil for the term of a replica that is alone.
func newManager(o options) (ctrl.Manager, *leader.Term, error) {
	scheme := runtime.NewScheme()
	utilruntime.Must(clientgoscheme.AddToScheme(scheme))
	utilruntime.Must(tenancyv1alpha1.AddToScheme(scheme))
	config, err := ctrl.GetConfig()
	if err != nil {
		return nil, nil, fmt.Errorf("finding the super cluster: %w", err)
	}
	config.WarningHandler = rest.NoWarnings{} // of the deprecation of Endpoints
	config.QPS = -1                           // the API server's priority and fairness limits us; each tenant has a limit of its own
	var term *leader.Term
	var lock resourcelock.Interface
	if o.leaderElect {
		// What goes on in this process is another's work by now.
		lost := func() {
			ctrl.Log.Info("another replica has taken the lease")
			os.Exit(1)
		}
		if term, err = leader.New(config, o.leaderElectNamespace, leaderLease, election, lost); err != nil {
			return nil, nil, err
		}
		lock = term
	}
	manager, err := ctrl.NewManager(config, ctrl.Options{
		Scheme:    scheme,
		Cache:     engine.CacheOptions(),
		NewClient: term.NewClient,
		Metrics: metricsserver.Options{
			BindAddress: o.metricsAddress, SecureServing: true, FilterProvider: filters.WithAuthenticationAndAuthorization,
			TLSOpts: []func(*tls.Config){func(c *tls.Config) { c.MinVersion = tls.VersionTLS12 }},
		},
		HealthProbeBindAddress:              o.healthAddress,
		LeaderElection:                      o.leaderElect,
		LeaderElectionResourceLockInterface: lock,
		LeaseDuration:                       ptr.To(election.Duration),
		RenewDeadline:                       ptr.To(election.RenewDeadline),
		RetryPeriod:                         ptr.To(election.RetryPeriod),
		// All that works ends with the process, so the next one need not wait.
		LeaderElectionReleaseOnCancel: true,
	})
	if err != nil {
		return nil, nil, fmt.Errorf("setting up: %w", err)
	}
	for name, add := range map[string]func(string, healthz.Checker) error{"healthz": manager.AddHealthzCheck, "readyz": manager.AddReadyzCheck} {
		if err := add(name, healthz.Ping); err != nil {
			return nil, nil, fmt.Errorf("adding %s: %w", name, err)
		}
	}
	return manager, term, nil
}

// setup puts the engine and the reconciler of tenants into the manager.
func setup(ctx context.Context, mgr ctrl.Manager, o options) error {
	// Only these Secrets of the control planes are watched: the others are none of
	// our business, and their keys should not be in this process.
	credentials, err := cache.New(mgr.GetConfig(), cache.Options{
		HTTPClient: mgr.GetHTTPClient(), Scheme: mgr.GetScheme(), Mapper: mgr.GetRESTMapper(),
		ByObject: map[client.Object]cache.ByObject{
			&corev1.Secret{}: {Field: fields.OneTermEqualSelector("metadata.name", tenancy.SyncerKubeconfigSecret)},
		},
	})
	if err != nil {
		return fmt.Errorf("making the cache of credentials: %w", err)
	}
	if err := mgr.Add(credentials); err != nil {
		return fmt.Errorf("adding the cache of credentials: %w", err)
	}
	reconciler := tenants.New(mgr.GetClient(), credentials)
	reconciler.Engine, err = engine.New(ctx, engine.Options{
		Scheme: mgr.GetScheme(), Config: mgr.GetConfig(), HTTPClient: mgr.GetHTTPClient(), Cache: mgr.GetCache(), Live: mgr.GetAPIReader(),
		Kinds: kinds.All(o.networks), ProbeInterval: o.probeInterval, Workers: o.workers, OnState: reconciler.StateChanged, Leads: o.leads, Tracer: o.tracer, Log: ctrl.Log.WithName("engine"),
	})
	if err != nil {
		return err
	}
	if err := mgr.Add(manager.RunnableFunc(func(ctx context.Context) error {
		<-ctx.Done()
		reconciler.Engine.StopAll()
		return nil
	})); err != nil {
		return fmt.Errorf("adding the engine: %w", err)
	}
	pages := debug.Source{Links: reconciler.Engine.Links, Leading: func() bool { return o.leads == nil || o.leads() == nil }}
	if o.patrolInterval > 0 {
		patrolled := patrol.New(reconciler.Engine.Links, reconciler.Engine.Resources(), patrol.Options{
			Interval: o.patrolInterval, Rate: o.patrolRate, Settle: o.patrolSettle, Log: ctrl.Log.WithName("patrol"),
		})
		if err := mgr.Add(manager.RunnableFunc(patrolled.Run)); err != nil {
			return fmt.Errorf("adding the patrol: %w", err)
		}
		pages.Round = patrolled.Round
	}
	if err := mgr.AddMetricsServerExtraHandler(debug.Path, pages.Handler()); err != nil {
		return fmt.Errorf("adding %s: %w", debug.Path, err)
	}
	if err := reconciler.Setup(mgr, credentials); err != nil {
		return fmt.Errorf("adding the reconciler of tenants: %w", err)
	}
	return nil
}
