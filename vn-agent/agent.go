package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync/atomic"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/metrics"
	"sigs.k8s.io/controller-runtime/pkg/metrics/filters"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"

	tenancyv1alpha1 "github.com/bulkhead-dev/bulkhead/api/tenancy/v1alpha1"
	"github.com/bulkhead-dev/bulkhead/vn-agent/identity"
	"github.com/bulkhead-dev/bulkhead/vn-agent/kubelet"
	"github.com/bulkhead-dev/bulkhead/vn-agent/node"
	"github.com/bulkhead-dev/bulkhead/vn-agent/pods"
	"github.com/bulkhead-dev/bulkhead/vn-agent/server"
	"github.com/bulkhead-dev/bulkhead/vn-agent/serving"
)

// agent is the program, put together.
type agent struct {
	manager     ctrl.Manager
	server      *server.Server
	certificate *serving.Certificate
	bindAddress string
	listening   atomic.Bool
}

// newAgent puts the parts together; the manager's Start runs them. ctx is that of
// the whole run.
func newAgent(ctx context.Context, config *rest.Config, o options) (*agent, error) {
	// First of all, what would make it unsafe to run.
	transport, err := kubelet.NewTransport(kubelet.Options{CAFile: o.kubeletCA, TokenFile: o.kubeletToken})
	if err != nil {
		return nil, err
	}
	a := &agent{bindAddress: o.bindAddress}
	if a.manager, err = a.newManager(config, o); err != nil {
		return nil, err
	}
	index, err := pods.NewIndex(ctx, a.manager.GetCache())
	if err != nil {
		return nil, err
	}
	thisNode := node.Node{Name: o.nodeName, Reader: a.manager.GetCache()}
	clientset, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("making a client of the super cluster: %w", err)
	}
	if a.certificate, err = serving.New(ctx, ctrl.Log.WithName("serving"), clientset, thisNode, o.certificateDirectory); err != nil {
		return nil, err
	}
	registry := identity.NewRegistry(ctrl.Log.WithName("identity"), identity.NewAuthorizer)
	a.server = &server.Server{
		Registry: registry, Pods: index, Node: thisNode, Kubelet: transport,
		GetCertificate: a.certificate.Get, Limits: o.limits, Log: ctrl.Log.WithName("server"),
	}
	if err := a.server.Complete(); err != nil {
		return nil, err
	}
	for _, collector := range a.server.Collectors() {
		if err := metrics.Registry.Register(collector); err != nil {
			return nil, fmt.Errorf("registering metrics: %w", err)
		}
	}
	reconciler := &identity.Reconciler{
		Reader: a.manager.GetClient(), Secrets: a.manager.GetAPIReader(), Registry: registry, Resync: o.resync,
	}
	if err := reconciler.SetupWithManager(a.manager); err != nil {
		return nil, fmt.Errorf("setting up the reconciler of tenants: %w", err)
	}
	if err := a.manager.Add(a); err != nil {
		return nil, fmt.Errorf("adding the server: %w", err)
	}
	return a, nil
}

func (a *agent) newManager(config *rest.Config, o options) (ctrl.Manager, error) {
	scheme := runtime.NewScheme()
	if err := errors.Join(corev1.AddToScheme(scheme), tenancyv1alpha1.AddToScheme(scheme)); err != nil {
		return nil, fmt.Errorf("registering API types: %w", err)
	}
	manager, err := ctrl.NewManager(config, ctrl.Options{
		Scheme: scheme,
		// One vn-agent on each node, so there is no leader.
		LeaderElection:         false,
		HealthProbeBindAddress: o.healthAddress,
		Metrics: metricsserver.Options{
			BindAddress: o.metricsAddress, SecureServing: true, FilterProvider: filters.WithAuthenticationAndAuthorization,
			TLSOpts: []func(*tls.Config){func(c *tls.Config) {
				c.GetCertificate = func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) { return a.certificate.Get(hello) }
			}},
		},
		Cache: cache.Options{ByObject: map[client.Object]cache.ByObject{
			pods.CacheObject(): pods.CacheOptions(o.nodeName),
			&corev1.Node{}:     node.CacheOptions(o.nodeName),
		}},
	})
	if err != nil {
		return nil, fmt.Errorf("connecting to the super cluster: %w", err)
	}
	// Alive while the process answers; ready once tenants can connect.
	ready := func(*http.Request) error {
		if !a.listening.Load() {
			return errors.New("not listening yet")
		}
		return nil
	}
	if err := errors.Join(manager.AddHealthzCheck("ping", func(*http.Request) error { return nil }), manager.AddReadyzCheck("listening", ready)); err != nil {
		return nil, fmt.Errorf("adding health checks: %w", err)
	}
	return manager, nil
}

// Start serves tenants until the context ends. The manager calls it; it listens
// only once there is a certificate to serve with and the caches know the node.
func (a *agent) Start(ctx context.Context) error {
	if !a.manager.GetCache().WaitForCacheSync(ctx) {
		return ctx.Err()
	}
	// Reading through the caches starts their watches.
	if _, err := a.server.Node.InternalIPs(ctx); err != nil {
		return err
	}
	a.certificate.Start()
	if err := a.certificate.Wait(ctx); err != nil {
		return err
	}
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", a.bindAddress)
	if err != nil {
		return fmt.Errorf("listening for tenants: %w", err)
	}
	a.listening.Store(true)
	defer a.listening.Store(false)
	return a.server.Serve(ctx, listener)
}
