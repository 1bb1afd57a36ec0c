// Package cluster opens the clusters that ABM works in for an instance: the super
// cluster, as an identity that has no more rights than the instance needs and none
// outside its namespace, and the virtual cluster that the instance made.
package cluster

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/apiutil"

	abmv1alpha1 "github.com/bulkhead-dev/bulkhead/api/abm/v1alpha1"
	tenancyv1alpha1 "github.com/bulkhead-dev/bulkhead/api/tenancy/v1alpha1"
	"github.com/bulkhead-dev/bulkhead/internal/kubeconfig"
	"github.com/bulkhead-dev/bulkhead/internal/tenancy"
)

// requestTimeout bounds one request to a virtual cluster, which may have gone.
const requestTimeout = 15 * time.Second

// ErrGone says that a virtual cluster is gone for good, with everything in it, or
// about to be: it is being deleted.
var ErrGone = errors.New("the virtual cluster is gone")

// UnreachableError says that a virtual cluster does not answer, or cannot be asked.
type UnreachableError struct{ err error }

func (e *UnreachableError) Error() string {
	return fmt.Sprintf("the virtual cluster does not answer: %v", e.err)
}

func (e *UnreachableError) Unwrap() error { return e.err }

// Unreachable wraps err where it came from a cluster that did not answer, or whose
// API server answered that it cannot work. Any other answer is the cluster's word.
func Unreachable(err error) error {
	var transport *url.Error
	var already *UnreachableError
	switch {
	case err == nil || errors.As(err, &already):
		return err
	case errors.As(err, &transport), errors.Is(err, context.DeadlineExceeded),
		apierrors.IsServiceUnavailable(err), apierrors.IsTimeout(err), apierrors.IsServerTimeout(err), apierrors.IsInternalError(err):
		return &UnreachableError{err: err}
	}
	return err
}

// Cluster is one that a step works in.
type Cluster struct {
	Client client.Client
	// Config is what Client was made from.
	Config *rest.Config
	// Namespace is the only one that may be worked in; any where it is empty.
	Namespace string
	// Virtual tells a virtual cluster from the super cluster.
	Virtual bool
}

// Clusters opens clusters. It may be used by several at a time.
type Clusters struct {
	// Config is ABM's own access to the super cluster.
	Config *rest.Config
	// Live reads the super cluster without a cache.
	Live client.Reader
	// Mapper knows the super cluster's kinds.
	Mapper meta.RESTMapper
	// AccountNamespace is the namespace of the ServiceAccounts that ABM acts as. None
	// of them exists as an object, so that nobody can have a token of one.
	AccountNamespace string
	// TenantConfig makes the access to a virtual cluster from its admin kubeconfig;
	// InCluster where it is nil.
	TenantConfig func(tenancy.Tenant, []byte) (*rest.Config, error)

	mu      sync.Mutex
	tenants map[types.UID]*tenant
}

// tenant is an opened virtual cluster.
type tenant struct {
	kubeconfig string
	cluster    *Cluster
	close      func()
}

// Account is the name of the ServiceAccount that ABM acts as for an instance.
func Account(instance types.UID) string { return "abm-" + string(instance) }

// Super opens the super cluster for an instance.
func (c *Clusters) Super(namespace string, instance types.UID) (*Cluster, error) {
	config := rest.CopyConfig(c.Config)
	config.Impersonate = rest.ImpersonationConfig{UserName: fmt.Sprintf("system:serviceaccount:%s:%s", c.AccountNamespace, Account(instance))}
	opened, err := client.New(config, client.Options{Mapper: c.Mapper})
	if err != nil {
		return nil, fmt.Errorf("opening the super cluster for instance %s: %w", instance, err)
	}
	return &Cluster{Client: opened, Config: config, Namespace: namespace}, nil
}

// Tenant opens a virtual cluster of a namespace. The error is ErrGone where it does
// not exist any more or is being deleted, an *UnreachableError where it cannot be
// asked now.
func (c *Clusters) Tenant(ctx context.Context, namespace string, ref abmv1alpha1.ClusterReference) (*Cluster, error) {
	vc := &tenancyv1alpha1.VirtualCluster{}
	err := c.Live.Get(ctx, client.ObjectKey{Namespace: namespace, Name: ref.Name}, vc)
	switch {
	case apierrors.IsNotFound(err), err == nil && vc.UID != ref.UID, err == nil && !vc.DeletionTimestamp.IsZero():
		c.forget(ref.UID)
		return nil, ErrGone
	case err != nil:
		return nil, fmt.Errorf("reading virtual cluster %s/%s: %w", namespace, ref.Name, err)
	}
	// The namespace is made of the UID rather than read from status, and so is whose
	// credential this is.
	owner := tenancy.Tenant{UID: vc.UID, Namespace: namespace, Name: vc.Name}
	secret := &corev1.Secret{}
	key := client.ObjectKey{Namespace: owner.ControlPlaneNamespace(), Name: tenancy.AdminKubeconfigSecret}
	if err := c.Live.Get(ctx, key, secret); err != nil {
		return nil, &UnreachableError{err: fmt.Errorf("reading the kubeconfig of virtual cluster %s: %w", owner, err)}
	}
	opened, err := c.open(owner, secret.Data[tenancy.KubeconfigKey])
	if err != nil {
		return nil, &UnreachableError{err: fmt.Errorf("opening virtual cluster %s: %w", owner, err)}
	}
	return opened, nil
}

func (c *Clusters) open(owner tenancy.Tenant, data []byte) (*Cluster, error) {
	c.mu.Lock()
	known := c.tenants[owner.UID]
	c.mu.Unlock()
	if known != nil && known.kubeconfig == string(data) {
		return known.cluster, nil
	}
	makeConfig := c.TenantConfig
	if makeConfig == nil {
		makeConfig = InCluster
	}
	config, err := makeConfig(owner, data)
	if err != nil {
		return nil, err
	}
	config.Timeout = requestTimeout
	config.QPS, config.Burst = 50, 100
	opened, err := connect(config)
	if err != nil {
		return nil, err
	}
	opened.kubeconfig = string(data)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.tenants == nil {
		c.tenants = map[types.UID]*tenant{}
	}
	if before := c.tenants[owner.UID]; before != nil {
		before.close()
	}
	c.tenants[owner.UID] = opened
	return opened.cluster, nil
}

// connect makes a transport by itself instead of with client-go's: those are kept
// for ever in a cache of the process, virtual clusters come and go.
func connect(config *rest.Config) (*tenant, error) {
	tlsConfig, err := rest.TLSConfigFor(config)
	if err != nil {
		return nil, fmt.Errorf("reading the kubeconfig: %w", err)
	}
	dialer := &net.Dialer{Timeout: 5 * time.Second, KeepAlive: 30 * time.Second}
	transport := &http.Transport{
		DialContext: dialer.DialContext, TLSClientConfig: tlsConfig, TLSHandshakeTimeout: 5 * time.Second,
		MaxIdleConnsPerHost: 4, IdleConnTimeout: time.Minute,
	}
	var roundTripper http.RoundTripper = transport
	if config.WrapTransport != nil {
		roundTripper = config.WrapTransport(roundTripper)
	}
	httpClient := &http.Client{Transport: roundTripper, Timeout: config.Timeout}
	mapper, err := apiutil.NewDynamicRESTMapper(config, httpClient)
	if err != nil {
		return nil, fmt.Errorf("reading the kinds of the virtual cluster: %w", err)
	}
	opened, err := client.New(config, client.Options{HTTPClient: httpClient, Mapper: mapper})
	if err != nil {
		return nil, fmt.Errorf("making a client of the virtual cluster: %w", err)
	}
	return &tenant{cluster: &Cluster{Client: opened, Config: config, Virtual: true}, close: transport.CloseIdleConnections}, nil
}

func (c *Clusters) forget(uid types.UID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if known := c.tenants[uid]; known != nil {
		known.close()
		delete(c.tenants, uid)
	}
}

// InCluster reads an admin kubeconfig, which is for use from outside, and goes to the
// control plane's own Service instead.
func InCluster(owner tenancy.Tenant, data []byte) (*rest.Config, error) {
	config, err := kubeconfig.RESTConfig(data)
	if err != nil {
		return nil, err
	}
	host := tenancy.APIServerService + "." + owner.ControlPlaneNamespace() + ".svc"
	config.Host = "https://" + net.JoinHostPort(host, strconv.Itoa(tenancy.APIServerPort))
	config.ServerName = host
	return config, nil
}
