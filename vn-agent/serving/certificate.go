// Package serving keeps vn-agent's serving certificate: asked for in the super
// cluster by CertificateSigningRequest, signed by vc-manager, renewed in time.
package serving

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"time"

	"github.com/go-logr/logr"
	certificatesv1 "k8s.io/api/certificates/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/util/certificate"
	"k8s.io/klog/v2"

	"github.com/bulkhead-dev/bulkhead/internal/tenancy"
	"github.com/bulkhead-dev/bulkhead/vn-agent/node"
)

// storeName names the files in the certificate directory.
const storeName = "vn-agent-serving"

// Certificate is the serving certificate of one node's vn-agent.
type Certificate struct {
	manager certificate.Manager
}

// New makes the certificate's keeper. directory keeps certificate and key over a
// restart of the container, so that vn-agent comes back while nobody signs.
func New(ctx context.Context, log logr.Logger, client kubernetes.Interface, n node.Node, directory string) (*Certificate, error) {
	ctx = klog.NewContext(ctx, log)
	store, err := certificate.NewFileStore(storeName, directory, directory, "", "")
	if err != nil {
		return nil, fmt.Errorf("opening the certificate directory %s: %w", directory, err)
	}
	manager, err := certificate.NewManager(&certificate.Config{
		Ctx:              &ctx,
		Name:             storeName,
		ClientsetFn:      func(*tls.Certificate) (kubernetes.Interface, error) { return client, nil },
		SignerName:       tenancy.VNAgentServingSigner,
		GetTemplate:      func() *x509.CertificateRequest { return template(ctx, log, n) },
		Usages:           []certificatesv1.KeyUsage{certificatesv1.UsageDigitalSignature, certificatesv1.UsageServerAuth},
		CertificateStore: store,
	})
	if err != nil {
		return nil, fmt.Errorf("making the serving certificate's manager: %w", err)
	}
	return &Certificate{manager: manager}, nil
}

// template is what is asked for: this node's name and the addresses at which
// tenants' apiservers reach it, nothing more. A node without an address gives nil,
// and none is asked for yet.
func template(ctx context.Context, log logr.Logger, n node.Node) *x509.CertificateRequest {
	addresses, err := n.InternalIPs(ctx)
	if err != nil || len(addresses) == 0 {
		log.Info("node has no address to ask a serving certificate for", "node", n.Name, "error", fmt.Sprint(err))
		return nil
	}
	return &x509.CertificateRequest{
		Subject:     pkix.Name{CommonName: n.Name},
		DNSNames:    []string{n.Name},
		IPAddresses: addresses,
	}
}

// Start keeps the certificate current until the context given to New ends.
func (c *Certificate) Start() { c.manager.Start() }

// Wait returns when there is a certificate.
func (c *Certificate) Wait(ctx context.Context) error {
	err := wait.PollUntilContextCancel(ctx, 100*time.Millisecond, true, func(context.Context) (bool, error) {
		return c.manager.Current() != nil, nil
	})
	if err != nil {
		return fmt.Errorf("waiting for a serving certificate of signer %s, which vc-manager approves: %w", tenancy.VNAgentServingSigner, err)
	}
	return nil
}

// Get returns the present certificate, for tls.Config.GetCertificate.
func (c *Certificate) Get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	if current := c.manager.Current(); current != nil {
		return current, nil
	}
	return nil, errors.New("vn-agent has no serving certificate yet")
}
