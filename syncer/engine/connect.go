package engine

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	nodev1 "k8s.io/api/node/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime/schema"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/util/flowcontrol"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// Limits of one tenant's requests, to its own apiserver and to the super cluster's.
const (
	callTimeout = 30 * time.Second
	linkQPS     = 200
	linkBurst   = 400
)

// kindMapper knows where the kinds of this package are in the API without asking:
// a tenant's apiserver that does not answer must not hold up a start.
func kindMapper() meta.RESTMapper {
	core, storage, networking := corev1.SchemeGroupVersion, storagev1.SchemeGroupVersion, networkingv1.SchemeGroupVersion
	mapper := meta.NewDefaultRESTMapper([]schema.GroupVersion{
		core, storage, networking, coordinationv1.SchemeGroupVersion, discoveryv1.SchemeGroupVersion, nodev1.SchemeGroupVersion, schedulingv1.SchemeGroupVersion,
	})
	for _, kind := range []string{"Pod", "Service", "Endpoints", "Secret", "ConfigMap", "ServiceAccount", "PersistentVolumeClaim", "Event"} {
		mapper.Add(core.WithKind(kind), meta.RESTScopeNamespace)
	}
	for _, kind := range []string{"Namespace", "Node", "PersistentVolume"} {
		mapper.Add(core.WithKind(kind), meta.RESTScopeRoot)
	}
	mapper.Add(storage.WithKind("StorageClass"), meta.RESTScopeRoot)
	mapper.Add(nodev1.SchemeGroupVersion.WithKind("RuntimeClass"), meta.RESTScopeRoot)
	mapper.Add(schedulingv1.SchemeGroupVersion.WithKind("PriorityClass"), meta.RESTScopeRoot)
	mapper.Add(networking.WithKind("IngressClass"), meta.RESTScopeRoot)
	mapper.Add(coordinationv1.SchemeGroupVersion.WithKind("Lease"), meta.RESTScopeNamespace)
	// A cache of some namespaces alone looks up the kind of a list as well.
	mapper.Add(coordinationv1.SchemeGroupVersion.WithKind("LeaseList"), meta.RESTScopeNamespace)
	mapper.Add(networking.WithKind("NetworkPolicy"), meta.RESTScopeNamespace)
	mapper.Add(discoveryv1.SchemeGroupVersion.WithKind("EndpointSlice"), meta.RESTScopeNamespace)
	return mapper
}

// limitedClient makes a client whose calls end after callTimeout and share a rate
// limit of their own. Types of the API go as protobuf. With answers they are those of
// a tenant's apiserver.
func (e *Engine) limitedClient(config *rest.Config, transport http.RoundTripper, answers *answers, mapper meta.RESTMapper) (client.Client, error) {
	config = rest.CopyConfig(config)
	config.RateLimiter = flowcontrol.NewTokenBucketRateLimiter(linkQPS, linkBurst)
	// The API server warns of deprecated kinds, such as Endpoints, on every call.
	config.WarningHandler = rest.NoWarnings{}
	transport = &calls{next: transport, leads: e.leads, answers: answers}
	return client.New(config, client.Options{
		HTTPClient: &http.Client{Transport: transport, Timeout: callTimeout}, Scheme: e.scheme, Mapper: mapper,
	})
}

// connection is what a link has to its tenant's apiserver.
type connection struct {
	client client.Client
	cache  cache.Cache
	http   *http.Client
	probe  string
	// answers tells whether the calls of client are answered.
	answers *answers
}

// connect prepares the connection; it does not talk to the apiserver yet.
func (e *Engine) connect(config *rest.Config) (*connection, error) {
	config = rest.CopyConfig(config)
	config.UserAgent = userAgent
	config.QPS = -1 // the caches' lists and watches; writes have a limit of their own
	config.WarningHandler = rest.NoWarnings{}
	// A proxy of this process's environment is not for tenants. Setting one also
	// gives the link a transport of its own, which ends with it.
	config.Proxy = func(*http.Request) (*url.URL, error) { return nil, nil }
	transport, err := rest.TransportFor(config)
	if err != nil {
		return nil, fmt.Errorf("making a transport to the tenant's apiserver: %w", err)
	}
	mapper := kindMapper()
	answers := &answers{}
	writer, err := e.limitedClient(config, transport, answers, mapper)
	if err != nil {
		return nil, fmt.Errorf("making a client of the tenant's apiserver: %w", err)
	}
	reader, err := cache.New(config, cache.Options{
		HTTPClient: &http.Client{Transport: transport}, Scheme: e.scheme, Mapper: mapper,
		DefaultTransform:            cache.TransformStripManagedFields(),
		ReaderFailOnMissingInformer: true,
		ByObject: map[client.Object]cache.ByObject{
			&coordinationv1.Lease{}:      {Namespaces: map[string]cache.Config{corev1.NamespaceNodeLease: {}}},
			&discoveryv1.EndpointSlice{}: {Label: ManualSlices()},
		},
	})
	if err != nil {
		return nil, fmt.Errorf("making a cache of the tenant's cluster: %w", err)
	}
	return &connection{
		client: writer, cache: reader,
		http:  &http.Client{Transport: transport, Timeout: probeTimeout},
		probe: config.Host + "/readyz", answers: answers,
	}, nil
}

// alive asks the apiserver whether it is ready.
func (c *connection) alive(ctx context.Context) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, c.probe, nil)
	if err != nil {
		return fmt.Errorf("asking %s: %w", c.probe, err)
	}
	response, err := c.http.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("%s answers %s", c.probe, response.Status)
	}
	return nil
}

// close ends the idle connections, the last that is left of a stopped link.
func (c *connection) close() { utilnet.CloseIdleConnectionsFor(c.http.Transport) }
