package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	tenancyv1alpha1 "github.com/bulkhead-dev/bulkhead/api/tenancy/v1alpha1"
	"github.com/bulkhead-dev/bulkhead/internal/testenv"
	"github.com/bulkhead-dev/bulkhead/syncer/rbac"
)

// prepareSyncer builds the syncer and gives it and the reader of its metrics their rights.
func (w *world) prepareSyncer(ctx context.Context, program string) error {
	root, err := testenv.Root()
	if err != nil {
		return err
	}
	if w.syncerProgram = program; program == "" {
		w.syncerProgram = filepath.Join(w.dir, "syncer")
		if err := goBuild(ctx, root, w.syncerProgram, "./syncer"); err != nil {
			return err
		}
	}
	config, err := grant(ctx, w.super, "bench:syncer", append(rbac.SuperRules(), rbac.PlatformNamespaceRules()...))
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(w.dir, "syncer.kubeconfig"), config, 0o600); err != nil {
		return err
	}
	w.metrics, err = w.newMetricsReader(ctx)
	return err
}

// startSyncer starts a syncer process.
func (w *world) startSyncer(flags ...string) error {
	address, err := freeAddress()
	if err != nil {
		return err
	}
	w.metrics.url = "https://" + address + "/metrics"
	args := append([]string{"--metrics-bind-address=" + address, "--health-probe-bind-address=0"}, flags...)
	w.syncer, err = start(w.dir, w.syncerProgram, args, "KUBECONFIG="+filepath.Join(w.dir, "syncer.kubeconfig"))
	return err
}

// awaitSynced waits until every tenant's condition says that it is.
func (w *world) awaitSynced(ctx context.Context) error {
	return await(ctx, "the tenants to be synced", 200*time.Millisecond, startLimit, func(ctx context.Context) error {
		if err := w.syncer.check(); err != nil {
			return err
		}
		var list tenancyv1alpha1.VirtualClusterList
		if err := w.super.Client.List(ctx, &list); err != nil {
			return err
		}
		for i := range list.Items {
			if !meta.IsStatusConditionTrue(list.Items[i].Status.Conditions, tenancyv1alpha1.ConditionSynced) {
				return fmt.Errorf("%s is not", list.Items[i].Name)
			}
		}
		return nil
	})
}

func freeAddress() (string, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", fmt.Errorf("finding a free port: %w", err)
	}
	defer listener.Close()
	return listener.Addr().String(), nil
}

// metricsReader reads the syncer's metrics with a token that the super cluster knows.
type metricsReader struct {
	url, token string
	http       *http.Client
}

func (w *world) newMetricsReader(ctx context.Context) (*metricsReader, error) {
	account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "bench-metrics"}}
	for _, object := range []client.Object{
		account,
		&rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: account.Name}, Rules: []rbacv1.PolicyRule{{NonResourceURLs: []string{"/metrics"}, Verbs: []string{"get"}}}},
		&rbacv1.ClusterRoleBinding{
			ObjectMeta: metav1.ObjectMeta{Name: account.Name},
			RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: account.Name},
			Subjects:   []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Namespace: account.Namespace, Name: account.Name}},
		},
	} {
		if err := w.super.Client.Create(ctx, object); err != nil {
			return nil, fmt.Errorf("granting the reading of metrics: %w", err)
		}
	}
	request := &authenticationv1.TokenRequest{}
	if err := w.super.Client.SubResource("token").Create(ctx, account, request); err != nil {
		return nil, fmt.Errorf("requesting a token for metrics: %w", err)
	}
	transport := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}} //nolint:gosec // its certificate is made at its start
	return &metricsReader{token: request.Status.Token, http: &http.Client{Transport: transport, Timeout: 10 * time.Second}}, nil
}

// samples are the values of metrics by name and labels, as the text format writes them.
type samples map[string]float64

func (m *metricsReader) read(ctx context.Context) (samples, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, m.url, nil)
	if err != nil {
		return nil, fmt.Errorf("asking %s: %w", m.url, err)
	}
	request.Header.Set("Authorization", "Bearer "+m.token)
	response, err := m.http.Do(request)
	if err != nil {
		return nil, fmt.Errorf("reading the syncer's metrics: %w", err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("reading the syncer's metrics: %s", response.Status)
	}
	return parseSamples(response.Body)
}

// parseSamples reads the text format of Prometheus, without comments and times.
func parseSamples(text io.Reader) (samples, error) {
	out := samples{}
	lines := bufio.NewScanner(text)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		line := lines.Text()
		at := strings.LastIndexByte(line, ' ')
		if at < 0 || line[0] == '#' {
			continue
		}
		value, err := strconv.ParseFloat(line[at+1:], 64)
		if err != nil {
			return nil, fmt.Errorf("reading metric %q: %w", line, err)
		}
		out[line[:at]] = value
	}
	return out, lines.Err()
}

// sum adds up what begins with a name and has all of some labels, as name="value".
func (s samples) sum(name string, labels ...string) float64 {
	total := 0.0
next:
	for key, value := range s {
		if key != name && !strings.HasPrefix(key, name+"{") {
			continue
		}
		for _, label := range labels {
			if !strings.Contains(key, label) {
				continue next
			}
		}
		total += value
	}
	return total
}

// meanSince is the mean that a histogram has gathered since then, in seconds.
func (s samples) meanSince(before samples, name string, labels ...string) float64 {
	count := s.sum(name+"_count", labels...) - before.sum(name+"_count", labels...)
	if count == 0 {
		return 0
	}
	return (s.sum(name+"_sum", labels...) - before.sum(name+"_sum", labels...)) / count
}
