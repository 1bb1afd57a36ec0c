package tenants

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	corev1client "k8s.io/client-go/kubernetes/typed/core/v1"
	discoveryv1client "k8s.io/client-go/kubernetes/typed/discovery/v1"
	eventsv1client "k8s.io/client-go/kubernetes/typed/events/v1"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/bulkhead-dev/bulkhead/internal/kubeconfig"
	"github.com/bulkhead-dev/bulkhead/internal/ruleset"
	"github.com/bulkhead-dev/bulkhead/internal/tenancy"
)

// Credentials are what a tenant's cluster is reached by, and what is known of it
// from our own records.
type Credentials struct {
	Kubeconfig []byte
	// Ranges are the tenant's service ranges.
	Ranges []netip.Prefix
}

func (c Credentials) equal(other Credentials) bool {
	return bytes.Equal(c.Kubeconfig, other.Kubeconfig) && slices.Equal(c.Ranges, other.Ranges)
}

// CredentialsReader reads the credentials of a tenant. Where there are none yet the
// error is NotFound or Forbidden: the right to read them is granted when they are made.
type CredentialsReader func(ctx context.Context, tenant tenancy.Tenant) (Credentials, error)

// ReadSecret reads credentials from the Secret that vc-manager makes.
func ReadSecret(reader client.Reader) CredentialsReader {
	return func(ctx context.Context, tenant tenancy.Tenant) (Credentials, error) {
		key := client.ObjectKey{Namespace: tenant.ControlPlaneNamespace(), Name: tenancy.TenantProxyKubeconfigSecret}
		var secret corev1.Secret
		if err := reader.Get(ctx, key, &secret); err != nil {
			return Credentials{}, fmt.Errorf("reading secret %s: %w", key, err)
		}
		if err := tenancy.CheckOwned(&secret, tenant, tenancy.ManagedByManager, "secret "+key.String()); err != nil {
			return Credentials{}, err
		}
		ranges, err := parseRanges(string(secret.Data[tenancy.ServiceCIDRKey]))
		if err != nil {
			return Credentials{}, fmt.Errorf("secret %s, key %s: %w", key, tenancy.ServiceCIDRKey, err)
		}
		return Credentials{Kubeconfig: secret.Data[tenancy.KubeconfigKey], Ranges: ranges}, nil
	}
}

func parseRanges(text string) ([]netip.Prefix, error) {
	var ranges []netip.Prefix
	for _, part := range strings.Split(text, ",") {
		prefix, err := netip.ParsePrefix(strings.TrimSpace(part))
		if err != nil {
			return nil, fmt.Errorf("parsing a service range: %w", err)
		}
		ranges = append(ranges, prefix.Masked())
	}
	if len(ranges) > ruleset.MaxRanges {
		return nil, fmt.Errorf("%d service ranges exceed %d", len(ranges), ruleset.MaxRanges)
	}
	return ranges, nil
}

const (
	// dialTimeout is for a connection to a tenant's apiserver.
	dialTimeout = 10 * time.Second
	// A tenant's apiserver is asked for three lists, and told of problems now and then.
	clientQPS, clientBurst = 10, 20
)

// clients talk to one tenant's apiserver with one identity.
type clients struct {
	core      *corev1client.CoreV1Client
	discovery *discoveryv1client.DiscoveryV1Client
	events    *eventsv1client.EventsV1Client
	transport http.RoundTripper
}

func newClients(data []byte) (*clients, error) {
	config, err := kubeconfig.RESTConfig(data)
	if err != nil {
		return nil, err
	}
	config.UserAgent = "tenant-proxy"
	config.QPS, config.Burst = clientQPS, clientBurst
	// Protobuf takes a third of the memory that JSON does while it is read.
	config.ContentType = runtime.ContentTypeProtobuf
	config.AcceptContentTypes = runtime.ContentTypeProtobuf + "," + runtime.ContentTypeJSON
	config.Dial = (&net.Dialer{Timeout: dialTimeout, KeepAlive: 30 * time.Second}).DialContext
	// No proxy from the environment; and a transport with such a function is not kept
	// by client-go for ever, but goes with these clients.
	config.Proxy = func(*http.Request) (*url.URL, error) { return nil, nil }
	httpClient, err := rest.HTTPClientFor(config)
	if err != nil {
		return nil, fmt.Errorf("making a client of the tenant's cluster: %w", err)
	}
	c := &clients{transport: httpClient.Transport}
	var problems [3]error
	c.core, problems[0] = corev1client.NewForConfigAndClient(config, httpClient)
	c.discovery, problems[1] = discoveryv1client.NewForConfigAndClient(config, httpClient)
	c.events, problems[2] = eventsv1client.NewForConfigAndClient(config, httpClient)
	if err := errors.Join(problems[:]...); err != nil {
		return nil, fmt.Errorf("making clients of the tenant's cluster: %w", err)
	}
	return c, nil
}

func (c *clients) close() { utilnet.CloseIdleConnectionsFor(c.transport) }
