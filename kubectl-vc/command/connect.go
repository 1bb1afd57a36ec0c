package command

import (
	"fmt"

	authenticationv1 "k8s.io/api/authentication/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	tenancyv1alpha1 "github.com/bulkhead-dev/bulkhead/api/tenancy/v1alpha1"
)

// super is a connection to the super cluster.
type super struct {
	client.WithWatch
	config *rest.Config
	// server is the apiserver's URL.
	server string
	// namespace is the one the user chose, or the one of the kubeconfig's context.
	namespace string
}

// scheme knows the kinds this program reads and writes.
func scheme() (*runtime.Scheme, error) {
	s := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{corev1.AddToScheme, authenticationv1.AddToScheme, coordinationv1.AddToScheme, tenancyv1alpha1.AddToScheme} {
		if err := add(s); err != nil {
			return nil, fmt.Errorf("building the scheme: %w", err)
		}
	}
	return s, nil
}

// unset is the address that client-go falls back to where nothing says another.
const unset = "http://localhost:8080"

// connect opens the connection that the flags and the user's kubeconfig say.
func (e *environment) connect() (*super, error) {
	config, err := e.flags.ToRESTConfig()
	if err != nil {
		return nil, explain(err, "")
	}
	if config.Host == unset {
		return nil, errNoCluster
	}
	namespace, _, err := e.flags.ToRawKubeConfigLoader().Namespace()
	if err != nil {
		return nil, fmt.Errorf("reading the namespace of the kubeconfig's context: %w", err)
	}
	config.WarningHandler = rest.NewWarningWriter(e.streams.ErrOut, rest.WarningWriterOptions{Deduplicate: true})
	s, err := scheme()
	if err != nil {
		return nil, err
	}
	connection, err := client.NewWithWatch(config, client.Options{Scheme: s})
	if err != nil {
		return nil, fmt.Errorf("making a client of the super cluster %s: %w", config.Host, err)
	}
	return &super{WithWatch: connection, config: config, server: config.Host, namespace: namespace}, nil
}

// key is the object key of a virtual cluster in the chosen namespace.
func (s *super) key(name string) client.ObjectKey {
	return client.ObjectKey{Namespace: s.namespace, Name: name}
}
