package superplane

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/bulkhead-dev/bulkhead/internal/kubeconfig"
	"github.com/bulkhead-dev/bulkhead/internal/pki"
	"github.com/bulkhead-dev/bulkhead/local/layout"
	"github.com/bulkhead-dev/bulkhead/local/process"
)

// Authorities are the certificate authorities of the super cluster, kept in
// files. Each signs for one purpose, so that a certificate for one is worth
// nothing to another.
type Authorities struct {
	dir string
	// Cluster signs the apiserver's and the kubelets' certificates and all clients'.
	Cluster *pki.CA
	// FrontProxy signs the apiserver's certificate towards aggregated apiservers.
	FrontProxy *pki.CA
	// Etcd signs etcd's certificates and its clients'.
	Etcd *pki.CA
	// Registry signs the image registry's certificates and its clients'.
	Registry *pki.CA
}

// LoadAuthorities reads the authorities from dir and makes those that are missing.
func LoadAuthorities(dir string) (*Authorities, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	a := &Authorities{dir: dir}
	for _, c := range []struct {
		name string
		ca   **pki.CA
	}{{"ca", &a.Cluster}, {"front-proxy-ca", &a.FrontProxy}, {"etcd-ca", &a.Etcd}, {"registry-ca", &a.Registry}} {
		ca, err := loadCA(dir, c.name)
		if err != nil {
			return nil, fmt.Errorf("certificate authority %s: %w", c.name, err)
		}
		*c.ca = ca
	}
	if err := loadServiceAccountKey(dir); err != nil {
		return nil, fmt.Errorf("service account key: %w", err)
	}
	return a, nil
}

func loadCA(dir, name string) (*pki.CA, error) {
	pair, err := readPair(dir, name)
	if err != nil {
		return nil, err
	}
	if len(pair.Cert) > 0 && len(pair.Key) > 0 {
		ca, err := pki.ParseCA(pair)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", filepath.Join(dir, name+".crt"), err)
		}
		return ca, nil
	}
	ca, err := pki.NewCA("bulkhead-local-" + name)
	if err != nil {
		return nil, err
	}
	return ca, writePair(dir, name, ca.Pair)
}

func loadServiceAccountKey(dir string) error {
	const name = "service-account"
	pair, err := readPair(dir, name)
	if err != nil || len(pair.Cert) > 0 && len(pair.Key) > 0 {
		return err
	}
	if pair, err = pki.NewServiceAccountKey(); err != nil {
		return err
	}
	return writePair(dir, name, pair)
}

// Issue makes sure that dir has name.crt and name.key as leaf describes, signed by
// ca and not near their end, and returns them.
func Issue(dir, name string, ca *pki.CA, leaf pki.Leaf) (pki.Pair, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return pki.Pair{}, err
	}
	pair, err := readPair(dir, name)
	if err != nil {
		return pki.Pair{}, err
	}
	if ca.Current(pair, leaf, time.Now()) {
		return pair, nil
	}
	if pair, err = ca.Issue(leaf); err != nil {
		return pki.Pair{}, err
	}
	return pair, writePair(dir, name, pair)
}

// IssueKubeconfig makes sure that file is a kubeconfig for the super cluster with
// a client certificate as leaf describes. The certificate itself is kept in dir.
func (a *Authorities) IssueKubeconfig(dir, file string, s layout.Settings, leaf pki.Leaf) error {
	leaf.Usage = pki.Client
	pair, err := Issue(dir, filepath.Base(file)+"-client", a.Cluster, leaf)
	if err != nil {
		return err
	}
	data, err := kubeconfig.Encode(kubeconfig.Config{
		Name: "super", Server: s.APIServerURL(), CA: a.Cluster.Cert, User: leaf.CommonName, Client: pair,
	})
	if err != nil {
		return err
	}
	return process.WriteFile(file, data, 0o600)
}

func readPair(dir, name string) (pki.Pair, error) {
	cert, err := readIfThere(filepath.Join(dir, name+".crt"))
	if err != nil {
		return pki.Pair{}, err
	}
	key, err := readIfThere(filepath.Join(dir, name+".key"))
	return pki.Pair{Cert: cert, Key: key}, err
}

func readIfThere(path string) ([]byte, error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return data, err
}

// writePair writes the key first: a certificate without its key is never seen.
func writePair(dir, name string, pair pki.Pair) error {
	if err := process.WriteFile(filepath.Join(dir, name+".key"), pair.Key, 0o600); err != nil {
		return err
	}
	return process.WriteFile(filepath.Join(dir, name+".crt"), pair.Cert, 0o644)
}
