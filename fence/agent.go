package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"github.com/go-logr/logr"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/events"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/metrics"
	"sigs.k8s.io/controller-runtime/pkg/metrics/filters"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"

	"github.com/bulkhead-dev/bulkhead/fence/nft"
	"github.com/bulkhead-dev/bulkhead/fence/policy"
)

// agent is the program, put together.
type agent struct {
	options
	manager  ctrl.Manager
	recorder events.EventRecorder
	log      logr.Logger
	kernel   *nft.Kernel
	metrics  *agentMetrics
	// collectors are those that are registered.
	collectors []prometheus.Collector
	// routes and conntrack reach the kernel of the node's network namespace.
	routes, conntrack *netlink.Handle

	// dirty is filled when the model or the interfaces have changed, cuts when the
	// kernel's rules have.
	dirty, cuts chan struct{}

	mu        sync.Mutex
	announced announcements
	// applied is closed, and another one, when the kernel has got what the model says.
	applied  chan struct{}
	model    *policy.Model
	networks []netip.Prefix
	problems map[types.NamespacedName]*problem
	// enforced says that the kernel has once held what the whole super cluster says.
	enforced bool
	// open says that nothing is to be enforced, and nothing is.
	open    bool
	problem error
}

func newAgent(config *rest.Config, o options) (*agent, error) {
	a := &agent{
		options: o, log: ctrl.Log.WithName("fence"), metrics: newMetrics(),
		dirty: make(chan struct{}, 1), cuts: make(chan struct{}, 1), model: policy.New(), announced: announcements{}, applied: make(chan struct{}), problems: map[types.NamespacedName]*problem{},
	}
	namespace, file := netns.None(), 0
	if o.namespace != nil {
		namespace, file = *o.namespace, int(*o.namespace)
	}
	a.kernel = nft.New(file)
	var err error
	if a.routes, err = netlink.NewHandleAt(namespace, unix.NETLINK_ROUTE); err != nil {
		return nil, fmt.Errorf("connecting to the kernel's routes: %w", err)
	}
	if a.conntrack, err = netlink.NewHandleAt(namespace, unix.NETLINK_NETFILTER); err != nil {
		return nil, fmt.Errorf("connecting to the kernel's connection tracking: %w", err)
	}
	if a.manager, err = a.newManager(config); err != nil {
		return nil, err
	}
	a.recorder = a.manager.GetEventRecorder("fence")
	a.collectors = a.metrics.collectors(a)
	for _, collector := range a.collectors {
		if err := metrics.Registry.Register(collector); err != nil {
			return nil, fmt.Errorf("registering metrics: %w", err)
		}
	}
	if err := a.manager.Add(a); err != nil {
		return nil, fmt.Errorf("adding the fence: %w", err)
	}
	return a, nil
}

func (a *agent) newManager(config *rest.Config) (ctrl.Manager, error) {
	scheme := runtime.NewScheme()
	if err := errors.Join(corev1.AddToScheme(scheme), networkingv1.AddToScheme(scheme)); err != nil {
		return nil, fmt.Errorf("registering API types: %w", err)
	}
	manager, err := ctrl.NewManager(config, ctrl.Options{
		Scheme: scheme,
		// One fence on each node, so there is no leader.
		LeaderElection:         false,
		HealthProbeBindAddress: a.healthAddress,
		Metrics: metricsserver.Options{
			BindAddress: a.metricsAddress, SecureServing: true, FilterProvider: filters.WithAuthenticationAndAuthorization,
			TLSOpts: []func(*tls.Config){func(c *tls.Config) { c.MinVersion = tls.VersionTLS12 }},
		},
		Cache: cache.Options{
			DefaultTransform: cache.TransformStripManagedFields(),
			ByObject: map[client.Object]cache.ByObject{
				&corev1.Pod{}: {Transform: func(object any) (any, error) {
					if pod, ok := object.(*corev1.Pod); ok {
						policy.Trim(pod)
					}
					return object, nil
				}},
				&corev1.Node{}: {Field: fields.OneTermEqualSelector("metadata.name", a.nodeName)},
			},
		},
	})
	if err != nil {
		return nil, fmt.Errorf("connecting to the super cluster: %w", err)
	}
	if err := errors.Join(
		manager.AddHealthzCheck("ping", func(*http.Request) error { return nil }),
		manager.AddReadyzCheck("enforced", func(*http.Request) error { return a.ready() }),
	); err != nil {
		return nil, fmt.Errorf("adding health checks: %w", err)
	}
	return manager, nil
}

// ready tells whether the kernel has what it should.
func (a *agent) ready() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	switch {
	case a.open:
		return nil
	case a.problem != nil:
		return a.problem
	case !a.enforced:
		return errors.New("the policies are not in force yet")
	case len(a.networks) == 0:
		return fmt.Errorf("node %s has no podCIDRs, so what comes from an unknown pod is not noticed: set --pod-networks", a.nodeName)
	}
	return nil
}

// batchDelay is how long changes are collected before they go into the kernel
// together.
const batchDelay = 5 * time.Millisecond

// Start enforces the policies until the context ends. The manager calls it.
func (a *agent) Start(ctx context.Context) error {
	if !a.enforce {
		return a.stayOpen(ctx)
	}
	if err := a.watch(ctx); err != nil {
		return err
	}
	var group sync.WaitGroup
	defer group.Wait()
	group.Go(func() { a.watchLinks(ctx) })
	group.Go(func() { a.cutConnections(ctx) })
	group.Go(func() {
		if err := a.listen(ctx); err != nil {
			a.log.Error(err, "sandboxes cannot be announced: pods are cut off until the super cluster knows their addresses")
		}
	})
	verify := time.NewTicker(a.verifyInterval)
	defer verify.Stop()
	a.touch()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-verify.C:
			a.verify()
		case <-a.dirty:
			select {
			case <-ctx.Done():
				return nil
			case <-time.After(batchDelay):
			}
		}
		if err := a.bringUpToDate(); err != nil {
			a.log.Error(err, "putting the policies into the kernel; trying again")
			time.AfterFunc(time.Second, a.touch)
		}
	}
}

// stayOpen removes the rules of earlier runs, and does nothing else until the context
// ends.
func (a *agent) stayOpen(ctx context.Context) error {
	if err := a.kernel.Remove(); err != nil {
		return err
	}
	a.mu.Lock()
	a.open = true
	a.mu.Unlock()
	a.log.Info("the fence is open: no policy is enforced")
	<-ctx.Done()
	return nil
}

// touch asks for the kernel to be brought up to date.
func (a *agent) touch() { ask(a.dirty) }

// ask fills a channel that is emptied by who does what is asked for.
func ask(channel chan<- struct{}) {
	select {
	case channel <- struct{}{}:
	default:
	}
}
