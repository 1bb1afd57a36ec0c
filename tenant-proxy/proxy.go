package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/rest"
	"k8s.io/utils/ptr"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/config"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/metrics"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"

	"github.com/bulkhead-dev/bulkhead/internal/feed"
	"github.com/bulkhead-dev/bulkhead/tenant-proxy/access"
	"github.com/bulkhead-dev/bulkhead/tenant-proxy/events"
	"github.com/bulkhead-dev/bulkhead/tenant-proxy/node"
	"github.com/bulkhead-dev/bulkhead/tenant-proxy/pods"
	"github.com/bulkhead-dev/bulkhead/tenant-proxy/tenants"
)

// metricsPath is where cri-ext's metrics are, beside tenant-proxy's own: cri-ext
// itself has no listener but unix sockets.
const metricsPath = "/metrics/cri-ext"

// metricsTimeout bounds the wait for cri-ext's metrics.
const metricsTimeout = 5 * time.Second

// proxy is the program, put together.
type proxy struct {
	manager ctrl.Manager
	feed    *feed.Client
	tenants *tenants.Tenants
	pods    *pods.Pods
	// collectors are those that were registered.
	collectors []prometheus.Collector
}

// newProxy puts the parts together; the manager's Start runs them.
func newProxy(super *rest.Config, o options) (*proxy, error) {
	p := &proxy{feed: feed.NewClient(o.socket, ctrl.Log.WithName("feed"))}
	var err error
	if p.manager, err = p.newManager(super, o); err != nil {
		return nil, err
	}
	p.tenants = tenants.New(tenants.Options{
		Node: o.nodeName, Feed: p.feed, Credentials: tenants.ReadSecret(p.manager.GetAPIReader()),
		Linger: o.linger, Resync: o.resync, Debounce: o.debounce,
		Log: ctrl.Log.WithName("tenants"), Metrics: tenants.NewMetrics(),
	})
	p.pods = pods.New(p.manager.GetCache(), p.manager.GetAPIReader(), p.feed, p.tenants)
	reports := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "bulkhead_tenant_proxy_reports_total", Help: "Reports of cri-ext on pods, by what became of them.",
	}, []string{"result"})
	writer := &events.Writer{
		Recorder: p.manager.GetEventRecorder("tenant-proxy"), Known: p.pods.Known,
		Observe: func(result string) { reports.WithLabelValues(result).Inc() },
	}
	if err := p.register(reports); err != nil {
		return nil, err
	}
	zone := &node.Zone{Name: o.nodeName, Set: p.tenants.SetZone}
	if err := errors.Join(zone.SetupWithManager(p.manager), p.pods.SetupWithManager(p.manager)); err != nil {
		return nil, fmt.Errorf("setting up the controllers: %w", err)
	}
	for _, part := range []manager.RunnableFunc{
		p.feed.Run,
		p.startTenants(zone),
		func(ctx context.Context) error { return writer.Run(ctx, p.feed.Reports()) },
	} {
		if err := p.manager.Add(part); err != nil {
			return nil, fmt.Errorf("adding a part: %w", err)
		}
	}
	return p, nil
}

// startTenants watches tenants once the node's zone is known, so that rules are not
// compiled for none and then again.
func (p *proxy) startTenants(zone *node.Zone) manager.RunnableFunc {
	return func(ctx context.Context) error {
		if err := zone.Wait(ctx); err != nil {
			return nil //nolint:nilerr // the program ends
		}
		return p.tenants.Start(ctx)
	}
}

func (p *proxy) register(reports prometheus.Collector) error {
	p.collectors = append(p.tenants.Collectors(), reports,
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "bulkhead_tenant_proxy_pods", Help: "Pods of tenants on this node, those of control planes too.",
		}, func() float64 { return float64(p.pods.Len()) }),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "bulkhead_tenant_proxy_cri_ext_connected", Help: "Whether cri-ext takes rules, 1 or 0.",
		}, func() float64 {
			if p.feed.Connected() {
				return 1
			}
			return 0
		}),
	)
	for _, collector := range p.collectors {
		if err := metrics.Registry.Register(collector); err != nil {
			return fmt.Errorf("registering metrics: %w", err)
		}
	}
	return nil
}

func (p *proxy) newManager(super *rest.Config, o options) (ctrl.Manager, error) {
	scheme := runtime.NewScheme()
	if err := corev1.AddToScheme(scheme); err != nil {
		return nil, fmt.Errorf("registering API types: %w", err)
	}
	podOptions, err := pods.CacheOptions(o.nodeName)
	if err != nil {
		return nil, err
	}
	mgr, err := ctrl.NewManager(super, ctrl.Options{
		Scheme: scheme,
		// One tenant-proxy on each node, so there is no leader.
		LeaderElection: false,
		// Names are for metrics, and a test runs this program several times over.
		Controller:             config.Controller{SkipNameValidation: ptr.To(true)},
		HealthProbeBindAddress: o.healthAddress,
		Metrics: metricsserver.Options{
			BindAddress: o.metricsAddress, SecureServing: true, FilterProvider: access.Filter,
			TLSOpts:       []func(*tls.Config){func(c *tls.Config) { c.MinVersion = tls.VersionTLS12 }},
			ExtraHandlers: map[string]http.Handler{metricsPath: http.HandlerFunc(p.serveMetrics)},
		},
		Cache: cache.Options{ByObject: map[client.Object]cache.ByObject{
			pods.CacheObject(): podOptions,
			node.CacheObject(): node.CacheOptions(o.nodeName),
		}},
	})
	if err != nil {
		return nil, fmt.Errorf("connecting to the super cluster: %w", err)
	}
	// Ready once cri-ext may know every pod; neither a tenant's cluster nor cri-ext
	// has a say in it, as a new tenant-proxy would not mend them.
	ready := func(*http.Request) error {
		if !p.pods.Complete() {
			return errors.New("the pods of this node are not known yet")
		}
		return nil
	}
	if err := errors.Join(mgr.AddHealthzCheck("ping", func(*http.Request) error { return nil }), mgr.AddReadyzCheck("pods", ready)); err != nil {
		return nil, fmt.Errorf("adding health checks: %w", err)
	}
	return mgr, nil
}

// serveMetrics answers with cri-ext's metrics. The metrics server has authenticated
// the caller.
func (p *proxy) serveMetrics(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), metricsTimeout)
	defer cancel()
	text, err := p.feed.Metrics(ctx)
	if err != nil {
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
	_, _ = w.Write(text) // the scraper is gone if it cannot be written
}
