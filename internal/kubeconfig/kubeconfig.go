// Package kubeconfig writes kubeconfig files with client certificates and reads
// those that the platform wrote. What it reads may carry nothing but data: no
// commands to run, no file paths, no unverified servers.
package kubeconfig

import (
	"errors"
	"fmt"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"github.com/bulkhead-dev/bulkhead/internal/pki"
)

// Config is what a kubeconfig says.
type Config struct {
	// Name of cluster and context, as `kubectl config get-contexts` shows it.
	Name string
	// Server is the apiserver's URL; https only.
	Server string
	// CA is the PEM bundle that verifies the server.
	CA []byte
	// TLSServerName is the name the server's certificate must carry, where it
	// is not the host in Server.
	TLSServerName string
	// User names the user entry.
	User string
	// Client is the certificate and key the user shows.
	Client pki.Pair
	// Namespace is the context's default namespace, if any.
	Namespace string
}

// Encode writes c as kubeconfig YAML.
func Encode(c Config) ([]byte, error) {
	config := clientcmdapi.NewConfig()
	config.Clusters[c.Name] = &clientcmdapi.Cluster{
		Server:                   c.Server,
		CertificateAuthorityData: c.CA,
		TLSServerName:            c.TLSServerName,
	}
	config.AuthInfos[c.User] = &clientcmdapi.AuthInfo{
		ClientCertificateData: c.Client.Cert,
		ClientKeyData:         c.Client.Key,
	}
	config.Contexts[c.Name] = &clientcmdapi.Context{Cluster: c.Name, AuthInfo: c.User, Namespace: c.Namespace}
	config.CurrentContext = c.Name
	data, err := clientcmd.Write(*config)
	if err != nil {
		return nil, fmt.Errorf("encoding the kubeconfig of %s for %s: %w", c.Name, c.User, err)
	}
	return data, nil
}

// RESTConfig reads the current context of a kubeconfig into a client
// configuration. It refuses one that would run a command, read a file, go through
// a proxy or skip the verification of the server.
func RESTConfig(data []byte) (*rest.Config, error) {
	config, err := clientcmd.Load(data)
	if err != nil {
		return nil, fmt.Errorf("parsing a kubeconfig: %w", err)
	}
	if err := onlyData(config); err != nil {
		return nil, err
	}
	restConfig, err := clientcmd.NewDefaultClientConfig(*config, &clientcmd.ConfigOverrides{}).ClientConfig()
	if err != nil {
		return nil, fmt.Errorf("reading a kubeconfig: %w", err)
	}
	return restConfig, nil
}

func onlyData(config *clientcmdapi.Config) error {
	current, ok := config.Contexts[config.CurrentContext]
	if !ok || current == nil {
		return fmt.Errorf("kubeconfig has no context %q", config.CurrentContext)
	}
	cluster, user := config.Clusters[current.Cluster], config.AuthInfos[current.AuthInfo]
	switch {
	case cluster == nil || user == nil:
		return errors.New("kubeconfig's context names a cluster or user that is not in it")
	case cluster.InsecureSkipTLSVerify || len(cluster.CertificateAuthorityData) == 0:
		return errors.New("kubeconfig does not verify the server: certificate-authority-data is needed")
	case cluster.ProxyURL != "":
		return errors.New("kubeconfig goes through a proxy, which is not allowed here")
	case cluster.CertificateAuthority != "" || user.ClientCertificate != "" || user.ClientKey != "" || user.TokenFile != "":
		return errors.New("kubeconfig refers to files, only embedded data is allowed here")
	case user.Exec != nil || user.AuthProvider != nil:
		return errors.New("kubeconfig runs a program to authenticate, which is not allowed here")
	}
	return nil
}
