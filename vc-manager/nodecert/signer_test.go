package nodecert

import (
	"context"
	"crypto/elliptic"
	"crypto/x509"
	"fmt"
	"io"
	"os"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/log/zap"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"

	"github.com/bulkhead-dev/bulkhead/internal/pki"
	"github.com/bulkhead-dev/bulkhead/internal/tenancy"
	"github.com/bulkhead-dev/bulkhead/internal/testenv"
)

const platformNamespace = "bulkhead-system"

var (
	super *testenv.Cluster
	// user may create certificate signing requests, as vn-agent may.
	user = &rbacv1.ClusterRole{
		ObjectMeta: metav1.ObjectMeta{Name: "vn-agent"},
		Rules:      []rbacv1.PolicyRule{{APIGroups: []string{"certificates.k8s.io"}, Resources: []string{"certificatesigningrequests"}, Verbs: []string{"create"}}},
	}
)

func TestMain(m *testing.M) { os.Exit(testMain(m)) }

func testMain(m *testing.M) int {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	dir, err := os.MkdirTemp("", "nodecert-test-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	if super, err = testenv.Start(ctx, dir, testenv.Options{}); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer super.Stop()
	done, err := startSigner(ctx)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer func() { cancel(); <-done }()
	return m.Run()
}

func startSigner(ctx context.Context) (done chan struct{}, err error) {
	for _, object := range []client.Object{
		&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: platformNamespace}},
		&corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: platformNamespace, Name: "vn-agent"}},
		user,
		&rbacv1.ClusterRoleBinding{
			ObjectMeta: metav1.ObjectMeta{Name: "vn-agent"},
			RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: user.Name},
			Subjects:   []rbacv1.Subject{{Kind: rbacv1.GroupKind, APIGroup: rbacv1.GroupName, Name: "system:serviceaccounts"}},
		},
		&corev1.Node{
			ObjectMeta: metav1.ObjectMeta{Name: "node-1"},
			Status:     corev1.NodeStatus{Addresses: []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "10.0.0.1"}}},
		},
	} {
		if err := super.Client.Create(ctx, object); err != nil {
			return nil, err
		}
	}
	ctrl.SetLogger(zap.New(zap.WriteTo(io.Discard)))
	mgr, err := ctrl.NewManager(super.Config, ctrl.Options{
		Scheme: testenv.Scheme(), Cache: cache.Options{ByObject: CacheObjects()}, Metrics: metricsserver.Options{BindAddress: "0"},
	})
	if err != nil {
		return nil, err
	}
	signer := &Signer{
		Client: mgr.GetClient(), Live: mgr.GetAPIReader(), Namespace: platformNamespace, ServiceAccount: "vn-agent",
		Authority: &Authority{Client: mgr.GetClient(), Live: mgr.GetAPIReader(), Namespace: platformNamespace},
	}
	if err := signer.SetupWithManager(mgr); err != nil {
		return nil, err
	}
	done = make(chan struct{})
	go func() {
		defer close(done)
		if err := mgr.Start(ctx); err != nil {
			fmt.Fprintln(os.Stderr, "signer:", err)
		}
	}()
	return done, nil
}

// as is a client of a ServiceAccount with a token bound to a pod on a node, as the
// kubelet gets it for the pod.
func as(t *testing.T, namespace, account, node string) client.Client {
	t.Helper()
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, GenerateName: "agent-"},
		Spec:       corev1.PodSpec{ServiceAccountName: account, NodeName: node, Containers: []corev1.Container{{Name: "x", Image: "x"}}},
	}
	if err := super.Client.Create(t.Context(), pod); err != nil {
		t.Fatal(err)
	}
	clients, err := kubernetes.NewForConfig(super.Config)
	if err != nil {
		t.Fatal(err)
	}
	token, err := clients.CoreV1().ServiceAccounts(namespace).CreateToken(t.Context(), account, &authenticationv1.TokenRequest{
		Spec: authenticationv1.TokenRequestSpec{BoundObjectRef: &authenticationv1.BoundObjectReference{Kind: "Pod", APIVersion: "v1", Name: pod.Name, UID: pod.UID}},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	config := rest.AnonymousClientConfig(super.Config)
	config.BearerToken = token.Status.Token
	c, err := client.New(config, client.Options{Scheme: testenv.Scheme(), Mapper: super.Client.RESTMapper()})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// ask creates a request and waits for the answer. The super cluster's apiserver
// overwrites who asks, whatever the request says.
func ask(t *testing.T, c client.Client, request *certificatesv1.CertificateSigningRequest) *certificatesv1.CertificateSigningRequest {
	t.Helper()
	request.ObjectMeta = metav1.ObjectMeta{GenerateName: "vn-agent-"}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	// The apiserver takes a moment to notice that the ServiceAccount may.
	err := wait.PollUntilContextCancel(ctx, 50*time.Millisecond, true, func(ctx context.Context) (bool, error) {
		err := c.Create(ctx, request)
		if apierrors.IsForbidden(err) {
			return false, nil
		}
		return err == nil, err
	})
	if err != nil {
		t.Fatal(err)
	}
	err = wait.PollUntilContextCancel(ctx, 50*time.Millisecond, true, func(ctx context.Context) (bool, error) {
		err := super.Client.Get(ctx, client.ObjectKeyFromObject(request), request)
		return finished(request), err
	})
	if err != nil {
		t.Fatalf("no answer: %v: %+v", err, request.Status)
	}
	return request
}

func TestVNAgentGetsItsCertificate(t *testing.T) {
	key := ecdsaKey(t, elliptic.P256())
	answer := ask(t, as(t, platformNamespace, "vn-agent", "node-1"), sampleRequest(t, key, askedFor()))
	if !has(answer, certificatesv1.CertificateApproved) {
		t.Fatalf("not approved: %+v", answer.Status.Conditions)
	}
	cert, err := pki.ParseCertificate(answer.Status.Certificate)
	if err != nil {
		t.Fatal(err)
	}
	secret := &corev1.Secret{}
	if err := super.Client.Get(t.Context(), client.ObjectKey{Namespace: platformNamespace, Name: AuthoritySecret}, secret); err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(secret.Data[corev1.TLSCertKey])
	for _, host := range []string{"node-1", "10.0.0.1"} {
		if _, err := cert.Verify(x509.VerifyOptions{Roots: roots, DNSName: host, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}); err != nil {
			t.Error(err)
		}
	}
	if _, err := cert.Verify(x509.VerifyOptions{Roots: roots, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}); err == nil {
		t.Error("it works as a client certificate")
	}
}

func TestOthersAreRefused(t *testing.T) {
	account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "vn-agent"}}
	if err := super.Client.Create(t.Context(), account); err != nil {
		t.Fatal(err)
	}
	key := ecdsaKey(t, elliptic.P256())
	for name, c := range map[string]client.Client{
		"vn-agent of another node":      as(t, platformNamespace, "vn-agent", "node-2"),
		"vn-agent of another namespace": as(t, "default", "vn-agent", "node-1"),
		"a super cluster administrator": super.Client,
	} {
		answer := ask(t, c, sampleRequest(t, key, askedFor()))
		if !has(answer, certificatesv1.CertificateDenied) || len(answer.Status.Certificate) > 0 {
			t.Errorf("%s: %+v", name, answer.Status)
			continue
		}
		if message := answer.Status.Conditions[0].Message; message == "" {
			t.Errorf("%s is not told why", name)
		}
	}
}

// Who approves by hand does not talk the signer into anything.
func TestAnApprovedRequestIsStillLookedAt(t *testing.T) {
	template := askedFor()
	template.DNSNames = []string{"node-2"}
	request := sampleRequest(t, ecdsaKey(t, elliptic.P256()), template)
	request.ObjectMeta = metav1.ObjectMeta{Name: "by-hand"}
	signer := &Signer{Client: super.Client, Live: super.Client, Namespace: platformNamespace, ServiceAccount: "vn-agent"}
	setCondition(request, certificatesv1.CertificateApproved, "ByHand", "")
	if _, err := signer.issue(t.Context(), request); !isRefusal(err) {
		t.Fatalf("issued: %v", err)
	}
	stored := request.DeepCopy()
	stored.Spec.SignerName = "example.org/held" // so that the running signer does not answer first
	if err := super.Client.Create(t.Context(), stored); err != nil {
		t.Fatal(err)
	}
	setCondition(stored, certificatesv1.CertificateApproved, "ByHand", "")
	if err := super.Client.SubResource("approval").Update(t.Context(), stored); err != nil {
		t.Fatal(err)
	}
	if err := signer.deny(t.Context(), stored, "not this node"); err != nil {
		t.Fatal(err)
	}
	if !has(stored, certificatesv1.CertificateFailed) {
		t.Errorf("%+v", stored.Status)
	}
}

func TestTheAuthorityStaysTheSame(t *testing.T) {
	first := &Authority{Client: super.Client, Live: super.Client, Namespace: platformNamespace}
	before, err := first.Certificate(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	second := &Authority{Client: super.Client, Live: super.Client, Namespace: platformNamespace}
	after, err := second.Certificate(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if string(before) != string(after) {
		t.Error("another vc-manager made another authority")
	}
}

func TestOnlyOurSignersRequestsAreCached(t *testing.T) {
	for _, by := range CacheObjects() {
		if by.Field.String() != "spec.signerName="+tenancy.VNAgentServingSigner {
			t.Errorf("selector %s", by.Field)
		}
	}
}
