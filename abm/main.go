// Command abm sells managed services: it carries out ServiceInstances by the steps
// of their ServiceDefinitions, and takes them back from its ledger.
package main

import (
	"context"
	"crypto/tls"
	"flag"
	"fmt"
	"net"
	"os"
	"strconv"
	"time"

	"k8s.io/apimachinery/pkg/runtime"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/healthz"
	"sigs.k8s.io/controller-runtime/pkg/log/zap"
	"sigs.k8s.io/controller-runtime/pkg/metrics"
	"sigs.k8s.io/controller-runtime/pkg/metrics/filters"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"
	"sigs.k8s.io/controller-runtime/pkg/webhook"

	"github.com/bulkhead-dev/bulkhead/abm/admission"
	"github.com/bulkhead-dev/bulkhead/abm/cluster"
	"github.com/bulkhead-dev/bulkhead/abm/engine"
	"github.com/bulkhead-dev/bulkhead/abm/rbac"
	"github.com/bulkhead-dev/bulkhead/abm/servingcert"
	"github.com/bulkhead-dev/bulkhead/abm/step"
	abmv1alpha1 "github.com/bulkhead-dev/bulkhead/api/abm/v1alpha1"
	tenancyv1alpha1 "github.com/bulkhead-dev/bulkhead/api/tenancy/v1alpha1"
)

// leaderLease is the Lease by which replicas elect the one that works.
const leaderLease = "abm"

// shutdownTimeout bounds the end of what is running when abm is told to stop.
const shutdownTimeout = 20 * time.Second

// prepareTimeout bounds what has to be there before abm serves.
const prepareTimeout = time.Minute

// Names of the webhooks in their configuration, and their paths.
const (
	definitionsHook = "servicedefinitions.abm.bulkhead.dev"
	instancesHook   = "serviceinstances.abm.bulkhead.dev"
	definitionsPath = "/servicedefinitions"
	instancesPath   = "/serviceinstances"
)

func main() {
	o := defaults()
	logging := zap.Options{}
	logging.BindFlags(flag.CommandLine)
	o.bind(flag.CommandLine)
	flag.Parse()
	ctrl.SetLogger(zap.New(zap.UseFlagOptions(&logging)))
	if err := run(ctrl.SetupSignalHandler(), o); err != nil {
		ctrl.Log.Error(err, "abm ends")
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
	config.QPS, config.Burst = float32(o.qps), int(2*o.qps)
	keeper := &servingcert.Keeper{
		Secret: client.ObjectKey{Namespace: o.namespace, Name: rbac.WebhookSecret},
		Hosts:  o.hosts(), Configuration: rbac.WebhookConfiguration,
		Paths: map[string]string{definitionsHook: definitionsPath, instancesHook: instancesPath}, Now: time.Now,
	}
	mgr, err := newManager(config, o, keeper)
	if err != nil {
		return err
	}
	if err := serveAdmission(ctx, mgr, keeper); err != nil {
		return err
	}
	definitions := &engine.Definitions{Client: mgr.GetClient(), Live: mgr.GetAPIReader(), Recorder: mgr.GetEventRecorder("abm")}
	if err := definitions.SetupWithManager(mgr); err != nil {
		return fmt.Errorf("setting up the controller of definitions: %w", err)
	}
	reconciler := &engine.Reconciler{
		Client: mgr.GetClient(), Live: mgr.GetAPIReader(), Recorder: mgr.GetEventRecorder("abm"), Now: time.Now,
		HTTP: step.HTTP{AllowAddress: step.OutwardAddress},
		Clusters: &cluster.Clusters{
			Config: config, Live: mgr.GetAPIReader(), Mapper: mgr.GetRESTMapper(), AccountNamespace: o.accountNamespace,
		},
	}
	if err := reconciler.SetupWithManager(mgr, metrics.Registry, o.workers); err != nil {
		return fmt.Errorf("setting up the controller of instances: %w", err)
	}
	if err := mgr.Start(ctx); err != nil {
		return fmt.Errorf("running: %w", err)
	}
	return nil
}

// serveAdmission adds the webhooks, below a path that only kube-apiserver is told.
func serveAdmission(ctx context.Context, mgr ctrl.Manager, keeper *servingcert.Keeper) error {
	keeper.Client, keeper.Live = mgr.GetClient(), mgr.GetAPIReader()
	ctx, cancel := context.WithTimeout(ctx, prepareTimeout)
	defer cancel()
	prefix, err := keeper.Prepare(ctx)
	if err != nil {
		return fmt.Errorf("preparing the webhook: %w", err)
	}
	server := mgr.GetWebhookServer()
	server.Register(prefix+definitionsPath, &webhook.Admission{Handler: &admission.Definitions{Mapper: mgr.GetRESTMapper()}})
	server.Register(prefix+instancesPath, &webhook.Admission{Handler: &admission.Instances{Live: mgr.GetAPIReader(), Client: mgr.GetClient()}})
	if err := mgr.Add(keeper); err != nil {
		return fmt.Errorf("adding the keeper of the webhook's certificate: %w", err)
	}
	if err := mgr.AddReadyzCheck("webhook", server.StartedChecker()); err != nil {
		return fmt.Errorf("adding health checks: %w", err)
	}
	return nil
}

func newManager(config *rest.Config, o options, keeper *servingcert.Keeper) (ctrl.Manager, error) {
	scheme := runtime.NewScheme()
	utilruntime.Must(clientgoscheme.AddToScheme(scheme))
	utilruntime.Must(tenancyv1alpha1.AddToScheme(scheme))
	utilruntime.Must(abmv1alpha1.AddToScheme(scheme))
	host, portText, err := net.SplitHostPort(o.webhookAddress)
	if err != nil {
		return nil, fmt.Errorf("--webhook-bind-address: %w", err)
	}
	port, err := strconv.Atoi(portText)
	if err != nil {
		return nil, fmt.Errorf("--webhook-bind-address: %w", err)
	}
	modern := func(c *tls.Config) { c.MinVersion = tls.VersionTLS12 }
	grace := shutdownTimeout
	mgr, err := ctrl.NewManager(config, ctrl.Options{
		Scheme: scheme,
		Cache:  cache.Options{DefaultTransform: cache.TransformStripManagedFields()},
		Metrics: metricsserver.Options{
			BindAddress: o.metricsAddress, SecureServing: true,
			// Callers are authenticated and asked for in the super cluster.
			FilterProvider: filters.WithAuthenticationAndAuthorization,
			TLSOpts:        []func(*tls.Config){modern},
		},
		WebhookServer: webhook.NewServer(webhook.Options{
			Host: host, Port: port, TLSOpts: []func(*tls.Config){modern, func(c *tls.Config) { c.GetCertificate = keeper.Certificate }},
		}),
		HealthProbeBindAddress:  o.healthAddress,
		GracefulShutdownTimeout: &grace,
		LeaderElection:          o.leaderElect,
		LeaderElectionID:        leaderLease,
		LeaderElectionNamespace: o.namespace,
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
