package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/kubernetes"
	ctrl "sigs.k8s.io/controller-runtime"

	"github.com/bulkhead-dev/bulkhead/internal/pki"
	"github.com/bulkhead-dev/bulkhead/internal/tenancy"
	"github.com/bulkhead-dev/bulkhead/internal/testenv"
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
		reported := []corev1.NodeAddress{{Type: corev1.NodeExternalIP, Address: "192.0.2.1"}, {Type: corev1.NodeHostName, Address: "somewhere-else"}}
		for _, address := range internal {
			reported = append(reported, corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: address})
		}
		node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: nodeName}}
		testenv.ChangeStatus(t, env.super.Client, node, func() { node.Status.Addresses = reported })
	}
	subject := fmt.Sprintf("CN=%s", nodeName)
	expect(subject, nodeName, "127.0.0.1")
	addresses("127.0.0.1", "127.0.0.2")
	expect(subject, nodeName, "127.0.0.1", "127.0.0.2")
	addresses("127.0.0.1")
	expect(subject, nodeName, "127.0.0.1")
}

// signCertificates does vc-manager's part of the serving certificate.
func (e *environment) signCertificates(ctx context.Context) {
	clientset := kubernetes.NewForConfigOrDie(e.super.Config)
	requests := clientset.CertificatesV1().CertificateSigningRequests()
	_ = wait.PollUntilContextCancel(ctx, 100*time.Millisecond, true, func(ctx context.Context) (bool, error) {
		list, err := requests.List(ctx, metav1.ListOptions{FieldSelector: "spec.signerName=" + tenancy.VNAgentServingSigner})
		if err != nil {
			ctrl.Log.Error(err, "listing certificate signing requests")
			return false, nil // tried again
		}
		for _, csr := range list.Items {
			if len(csr.Status.Certificate) > 0 {
				continue
			}
			if err := e.sign(ctx, clientset, &csr); err != nil {
				ctrl.Log.Error(err, "signing a certificate")
			}
		}
		return false, nil
	})
}

func (e *environment) sign(ctx context.Context, clientset kubernetes.Interface, csr *certificatesv1.CertificateSigningRequest) error {
	block, _ := pem.Decode(csr.Spec.Request)
	request, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		return err
	}
	wanted := []certificatesv1.KeyUsage{certificatesv1.UsageDigitalSignature, certificatesv1.UsageServerAuth}
	if !slices.Equal(csr.Spec.Usages, wanted) || csr.Spec.Username != "system:serviceaccount:bulkhead-system:vn-agent" {
		return fmt.Errorf("request %s of %s asks for %v", csr.Name, csr.Spec.Username, csr.Spec.Usages)
	}
	csr.Status.Conditions = []certificatesv1.CertificateSigningRequestCondition{{Type: certificatesv1.CertificateApproved, Status: corev1.ConditionTrue, Reason: "Test"}}
	approved, err := clientset.CertificatesV1().CertificateSigningRequests().UpdateApproval(ctx, csr.Name, csr, metav1.UpdateOptions{})
	if err != nil {
		return err
	}
	leaf := pki.Leaf{CommonName: request.Subject.CommonName, Hosts: request.DNSNames, Usage: pki.Server}
	for _, ip := range request.IPAddresses {
		leaf.Hosts = append(leaf.Hosts, ip.String())
	}
	if approved.Status.Certificate, err = e.servingCA.Sign(request.PublicKey, leaf); err != nil {
		return err
	}
	_, err = clientset.CertificatesV1().CertificateSigningRequests().UpdateStatus(ctx, approved, metav1.UpdateOptions{})
	return err
}
