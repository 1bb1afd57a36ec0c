package command

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"

	authenticationv1 "k8s.io/api/authentication/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/portforward"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/bulkhead-dev/bulkhead/internal/tenancy"
	"github.com/bulkhead-dev/bulkhead/syncer/report"
)

const (
	// syncerLease names the replica of the syncer that leads.
	syncerLease = "syncer"
	// syncerPort is that of its metrics and debug pages, as the chart has it.
	syncerPort = 8443
	// debugger is the ServiceAccount that may get the pages, and the Role that lets
	// people act as it.
	debugger = "bulkhead-debugger"
	// tokenSeconds is the least that a token lives.
	tokenSeconds = 600
	// maxPage bounds what a page may be, in bytes.
	maxPage = 1 << 20
)

// askSyncer asks the syncer that leads where a pod is. The super cluster's own proxies
// take a caller's credentials away, so this goes through a forwarded port, with a
// token of a ServiceAccount that may do nothing else: the caller's own are never sent to a pod.
func (e *environment) askSyncer(ctx context.Context, s *super, namespace string, of tenancy.Tenant, key types.NamespacedName) (*report.Object, error) {
	ctx, cancel := context.WithTimeout(ctx, sideTimeout)
	defer cancel()
	pod, err := s.leader(ctx, namespace)
	if err != nil {
		return nil, err
	}
	account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: debugger}}
	seconds := int64(tokenSeconds)
	token := &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{ExpirationSeconds: &seconds}}
	if err := s.SubResource("token").Create(ctx, account, token); err != nil {
		return nil, unasked(err, namespace, "acting as serviceaccount "+debugger)
	}
	connection, err := e.dialPod(ctx, s.config, namespace, pod, syncerPort)
	if err != nil {
		return nil, unasked(err, namespace, "reaching pod "+pod)
	}
	defer connection.Close()
	query := url.Values{"tenant": {of.String()}, "kind": {"Pod"}, "namespace": {key.Namespace}, "name": {key.Name}}
	object := &report.Object{}
	if err := getPage(ctx, connection, token.Status.Token, "/debug/objects?"+query.Encode(), object); err != nil {
		return nil, fmt.Errorf("the syncer could not be asked: %w", err)
	}
	return object, nil
}

// unasked says why the syncer could not be asked, and what to do.
func unasked(err error, namespace, doing string) error {
	if apierrors.IsForbidden(err) {
		return fmt.Errorf("the syncer could not be asked: %s: %w; ask an administrator for the Role %s in namespace %s", doing, explain(err, ""), debugger, namespace)
	}
	return fmt.Errorf("the syncer could not be asked: %s: %w", doing, err)
}

// leader is the pod of the replica that holds the lease.
func (s *super) leader(ctx context.Context, namespace string) (string, error) {
	lease := &coordinationv1.Lease{}
	switch err := s.Get(ctx, client.ObjectKey{Namespace: namespace, Name: syncerLease}, lease); {
	case apierrors.IsNotFound(err):
		return "", fmt.Errorf("the syncer could not be asked: it has no lease in namespace %s; --platform-namespace says where the platform runs", namespace)
	case err != nil:
		return "", unasked(err, namespace, "looking for the replica that leads")
	case lease.Spec.HolderIdentity == nil || *lease.Spec.HolderIdentity == "":
		return "", fmt.Errorf("the syncer could not be asked: no replica of it leads in namespace %s", namespace)
	}
	// The identity is the pod's name, and what tells its processes apart.
	holder := *lease.Spec.HolderIdentity
	if i := strings.LastIndexByte(holder, '_'); i >= 0 {
		holder = holder[:i]
	}
	return holder, nil
}

// getPage gets a page of JSON through a connection to the pod. The pod's certificate
// is one that it has made for itself; who it is has been made sure of by the
// super cluster, which has forwarded the port.
func getPage(ctx context.Context, connection net.Conn, token, page string, into any) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://syncer"+page, nil)
	if err != nil {
		return fmt.Errorf("asking for %s: %w", page, err)
	}
	request.Header.Set("Authorization", "Bearer "+token)
	transport := &http.Transport{
		DialContext:     func(context.Context, string, string) (net.Conn, error) { return connection, nil },
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, //nolint:gosec // see above
	}
	defer transport.CloseIdleConnections()
	response, err := (&http.Client{Transport: transport}).Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, maxPage))
	switch {
	case err != nil:
		return fmt.Errorf("reading %s: %w", page, err)
	case response.StatusCode != http.StatusOK:
		return fmt.Errorf("it answers %s: %s", response.Status, strings.TrimSpace(string(body)))
	}
	if err := json.Unmarshal(body, into); err != nil {
		return fmt.Errorf("reading its answer: %w", err)
	}
	return nil
}

// forwardPort opens a connection to a port of a pod through the super cluster.
func forwardPort(ctx context.Context, config *rest.Config, namespace, pod string, port int) (net.Conn, error) {
	target, _, err := rest.DefaultServerUrlFor(config)
	if err != nil {
		return nil, fmt.Errorf("finding the super cluster: %w", err)
	}
	target = target.JoinPath("api", "v1", "namespaces", namespace, "pods", pod, "portforward")
	dialer, err := portforward.NewSPDYOverWebsocketDialer(target, config)
	if err != nil {
		return nil, fmt.Errorf("forwarding a port: %w", err)
	}
	stop, ready := make(chan struct{}), make(chan struct{})
	forwarder, err := portforward.New(dialer, []string{fmt.Sprintf("0:%d", port)}, stop, ready, io.Discard, io.Discard)
	if err != nil {
		return nil, fmt.Errorf("forwarding a port: %w", err)
	}
	failed := make(chan error, 1)
	go func() { failed <- forwarder.ForwardPorts() }()
	select {
	case <-ctx.Done():
		close(stop)
		return nil, ctx.Err()
	case err := <-failed:
		return nil, fmt.Errorf("forwarding a port: %w", err)
	case <-ready:
	}
	ports, err := forwarder.GetPorts()
	if err != nil {
		close(stop)
		return nil, fmt.Errorf("forwarding a port: %w", err)
	}
	connection, err := (&net.Dialer{}).DialContext(ctx, "tcp", fmt.Sprintf("localhost:%d", ports[0].Local))
	if err != nil {
		close(stop)
		return nil, fmt.Errorf("using the forwarded port: %w", err)
	}
	return &forwarded{Conn: connection, stop: stop}, nil
}

// forwarded ends the forwarding with the connection.
type forwarded struct {
	net.Conn
	stop chan struct{}
	once sync.Once
}

func (f *forwarded) Close() error {
	f.once.Do(func() { close(f.stop) })
	return f.Conn.Close()
}
