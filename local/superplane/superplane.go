package superplane

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/bulkhead-dev/bulkhead/local/layout"
	"github.com/bulkhead-dev/bulkhead/local/process"
)

// readyTimeout is how long a service of the control plane may take to be ready.
const readyTimeout = 90 * time.Second

// Services lists the names of the control plane's services in the order that they
// start in.
func Services() []string {
	return []string{Registry, Etcd, APIServer, ControllerManager, Scheduler}
}

// StartRegistry makes sure that the image registry runs and answers.
func StartRegistry(ctx context.Context, l layout.Layout, s layout.Settings, a *Authorities, m process.Manager) error {
	b := builder{l, s}
	if err := m.Ensure(ctx, b.registry()); err != nil {
		return err
	}
	client, err := a.registryClient(l)
	if err != nil {
		return err
	}
	return m.Await(ctx, Registry, readyTimeout, func(ctx context.Context) error {
		return get(ctx, client, fmt.Sprintf("https://%s/v2/", s.RegistryAddress()))
	})
}

// Up makes sure that the control plane runs as configured, and waits until each
// part is ready. Nothing that runs as it should is touched.
func Up(ctx context.Context, l layout.Layout, s layout.Settings, a *Authorities, m process.Manager, step func(string, ...any)) error {
	b := builder{l, s}
	if err := b.writeConfig(); err != nil {
		return err
	}
	anonymous := httpClient(a.Cluster.Cert, nil)
	apiReady := func(ctx context.Context) error { return get(ctx, anonymous, s.APIServerURL()+"/readyz") }
	health := func(port int) func(context.Context) error {
		return func(ctx context.Context) error {
			return get(ctx, anonymous, fmt.Sprintf("https://127.0.0.1:%d/healthz", port))
		}
	}
	// kube-apiserver waits for etcd by itself, and its readiness includes etcd's;
	// the other two wait for kube-apiserver. So all start at once.
	for _, service := range []process.Service{b.etcd(), b.apiServer(), b.controllerManager(), b.scheduler()} {
		if err := m.Ensure(ctx, service); err != nil {
			return err
		}
	}
	for _, c := range []struct {
		name  string
		ready func(context.Context) error
	}{
		{APIServer, apiReady},
		{ControllerManager, health(ControllerManagerPort)},
		{Scheduler, health(SchedulerPort)},
	} {
		step("%s", c.name)
		if err := m.Await(ctx, c.name, readyTimeout, c.ready); err != nil {
			return err
		}
	}
	return nil
}

// registryClient is a client that the image registry accepts.
func (a *Authorities) registryClient(l layout.Layout) (*http.Client, error) {
	pair, err := Issue(l.PKI(), "registry-client", a.Registry, RegistryClient)
	if err != nil {
		return nil, err
	}
	cert, err := tls.X509KeyPair(pair.Cert, pair.Key)
	if err != nil {
		return nil, err
	}
	return httpClient(a.Registry.Cert, &cert), nil
}

func httpClient(ca []byte, cert *tls.Certificate) *http.Client {
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca)
	config := &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}
	if cert != nil {
		config.Certificates = []tls.Certificate{*cert}
	}
	return &http.Client{
		Timeout: 5 * time.Second,
		// No proxy: these are addresses of this machine.
		Transport: &http.Transport{TLSClientConfig: config, DisableKeepAlives: true},
	}
}

func get(ctx context.Context, client *http.Client, url string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 4096))
	if resp.StatusCode != http.StatusOK {
		return errors.Join(fmt.Errorf("%s answers %s: %s", url, resp.Status, body), err)
	}
	return err
}
