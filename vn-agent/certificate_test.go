package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// served is the names and addresses in the certificate that vn-agent serves with.
func served(ctx context.Context) ([]string, error) {
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(env.servingCA.Cert)
	conn, err := (&tls.Dialer{Config: &tls.Config{RootCAs: roots, ServerName: nodeName}}).DialContext(ctx, "tcp", env.address)
	if err != nil {
		return nil, err
	}
	defer func() { _ = conn.Close() }()
	certificate := conn.(*tls.Conn).ConnectionState().PeerCertificates[0]
	names := append([]string{certificate.Subject.String()}, certificate.DNSNames...)
	for _, ip := range certificate.IPAddresses {
		names = append(names, ip.String())
	}
	return names, nil
}

// The certificate is this node's alone, and follows the node's addresses while
// vn-agent serves.
func TestTheServingCertificate(t *testing.T) {
	expect := func(want ...string) {
		t.Helper()
		if err := eventually(t.Context(), func() error {
			got, err := served(t.Context())
			if diff := cmp.Diff(want, got); err == nil && diff != "" {
				err = errors.New(diff)
			}
			return err
		}); err != nil {
			t.Fatal(err)
		}
	}
	addresses := func(internal ...string) {
		t.Helper()
		var node corev1.Node
		if err := env.super.Client.Get(contextOfTests, client.ObjectKey{Name: nodeName}, &node); err != nil {
			t.Fatal(err)
		}
		node.Status.Addresses = nil
		for _, address := range internal {
			node.Status.Addresses = append(node.Status.Addresses, corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: address})
		}
		node.Status.Addresses = append(node.Status.Addresses,
			corev1.NodeAddress{Type: corev1.NodeExternalIP, Address: "192.0.2.1"}, corev1.NodeAddress{Type: corev1.NodeHostName, Address: "somewhere-else"})
		if err := env.super.Client.Status().Update(contextOfTests, &node); err != nil {
			t.Fatal(err)
		}
	}
	subject := fmt.Sprintf("CN=%s", nodeName)
	expect(subject, nodeName, "127.0.0.1")
	addresses("127.0.0.1", "127.0.0.2")
	expect(subject, nodeName, "127.0.0.1", "127.0.0.2")
	addresses("127.0.0.1")
	expect(subject, nodeName, "127.0.0.1")
}
